// Small parts that every page is made of.
import type { ComponentChildren } from "preact";
import { nowMs, spellAge, spellMoment, spellUntil } from "../live/clock";

const TONES: Record<string, string> = {
  ready: "good",
  healthy: "good",
  COMPLETED: "good",
  current: "good",
  completed: "good",
  delivered: "good",
  active: "good",
  within: "good",
  starting: "busy",
  pulling: "busy",
  waking: "busy",
  creating: "busy",
  reserved: "busy",
  pending: "busy",
  IN_PROGRESS: "busy",
  deploying: "busy",
  waiting_for_gpu: "warn",
  not_ready: "warn",
  IN_QUEUE: "warn",
  cordoned: "warn",
  waiting: "warn",
  warned: "warn",
  spent: "bad",
  quarantined: "bad",
  unhealthy: "bad",
  failing: "bad",
  failed: "bad",
  lost: "bad",
  FAILED: "bad",
  TIMED_OUT: "bad",
  rolled_back: "bad",
};

/** A word of the API, as it is, with a colour beside it. */
export function Word({ word }: { word: string }) {
  return <span class={`word ${TONES[word] ?? "calm"}`}>{word}</span>;
}

export function Age({ at }: { at: string | null }) {
  if (!at) return <span class="soft">never</span>;
  return (
    <time dateTime={at} title={spellMoment(at)}>
      {Date.parse(at) > nowMs() ? spellUntil(at) : spellAge(at)}
    </time>
  );
}

/** How much of something is taken: a bar, and the same in words beside it. */
export function Meter({ label, value, max, text }: { label: string; value: number; max: number; text: string }) {
  const share = max > 0 ? Math.min(1, Math.max(0, value / max)) : 0;
  return (
    <div class="meter">
      <span class="meter-label">{label}</span>
      <span class="meter-text">{text}</span>
      <div class="meter-track" role="meter" aria-label={label} aria-valuenow={value} aria-valuemin={0} aria-valuemax={max} aria-valuetext={text}>
        <div class={share > 0.9 ? "meter-fill full" : "meter-fill"} style={{ width: `${share * 100}%` }} />
      </div>
    </div>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

export function Fault({ error }: { error: unknown }) {
  if (!error) return null;
  return (
    <p class="fault" role="alert">
      {error instanceof Error ? error.message : String(error)}
    </p>
  );
}

export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div class="fact">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** A table that becomes a list of cards where there is no room; each cell must carry its column's name. */
export function Table({ label, heads, children }: { label: string; heads: readonly string[]; children: ComponentChildren }) {
  return (
    <div class="wide" tabIndex={-1}>
      <table aria-label={label}>
        <thead>
          <tr>
            {heads.map((head) => (
              <th scope="col" key={head}>
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

export function Cell({ head, children, cls }: { head: string; children?: ComponentChildren; cls?: string }) {
  return (
    <td data-head={head} class={cls ?? ""}>
      {children}
    </td>
  );
}
