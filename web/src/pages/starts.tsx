// Where the time of an endpoint's cold starts went.
import type { Start, StartList } from "../api/types";
import { spellDuration } from "../live/clock";
import { link } from "../router";
import { useLoaded } from "../ui/loading";
import { Age, Empty, Fault } from "../ui/parts";

const PHASES = [
  ["wait_ms", "wait", "Until a GPU was free"],
  ["evict_ms", "evict", "Another worker leaving the GPU"],
  ["pull_ms", "pull", "Pulling the image"],
  ["reserve_ms", "reserve", "Leasing the GPU and seeing that it is idle"],
  ["create_ms", "create", "The engine creating the container"],
  ["engine_start_ms", "engine_start", "The engine starting it"],
  ["wake_ms", "wake", "Thawing the program, or its own way out of sleep"],
  ["listen_ms", "listen", "The program until it took connections"],
  ["ready_ms", "ready", "The program until it answered well"],
] as const;

export function StartsPage({ name }: { name: string }) {
  const { data, error } = useLoaded<StartList>(`/v1/endpoints/${encodeURIComponent(name)}/starts?limit=50`, 10_000);
  const longest = Math.max(1, ...(data?.items ?? []).map((one) => one.total_ms));
  return (
    <>
      <p class="crumbs">
        <a href="#/">Overview</a>
        <a href={link("endpoints", name)}>{name}</a>
      </p>
      <h1>Cold starts of {name}</h1>
      <Fault error={error} />
      <ul class="legend" aria-label="Phases">
        {PHASES.map(([, phase, text]) => (
          <li key={phase}>
            <span class={`swatch ${phase}`} /> <code>{phase}</code> <span class="soft">{text}</span>
          </li>
        ))}
      </ul>
      {data?.items.length === 0 && <Empty>No start has ended well yet.</Empty>}
      {data?.items.map((one) => (
        <StartCard key={one.worker_id + one.ready_at} start={one} longest={longest} />
      ))}
    </>
  );
}

function StartCard({ start, longest }: { start: Start; longest: number }) {
  const parts = PHASES.filter(([field]) => start[field] > 0);
  return (
    <article class="card start">
      <header class="row">
        <h3>{spellDuration(start.total_ms / 1000)}</h3>
        <span class="soft">
          {start.usual_ms !== null && `usually ${spellDuration(start.usual_ms / 1000)} · `}
          {start.woken && `woken from ${start.woken} · `}
          <Age at={start.ready_at} /> ·{" "}
          <a class="soft" href={link("workers", start.worker_id)}>
            {start.worker_id}
          </a>
        </span>
      </header>
      <div class="phases" style={{ width: `${Math.max(4, (start.total_ms / longest) * 100)}%` }} aria-hidden="true">
        {parts.map(([field, phase]) => (
          <span key={phase} class={phase} style={{ flexGrow: start[field] }} title={`${phase} ${spellDuration(start[field] / 1000)}`} />
        ))}
      </div>
      <p>
        {parts.map(([field, phase]) => (
          <span key={phase} class="pair">
            <code>{phase}</code> {spellDuration(start[field] / 1000)}{" "}
          </span>
        ))}
        {start.first_byte_ms !== null && <span class="soft">first byte {spellDuration(start.first_byte_ms / 1000)} later</span>}
      </p>
      {start.wanted && <p class="soft">Woken by: {start.wanted}</p>}
      {start.slower && <p class="slower">{start.slower.detail}</p>}
    </article>
  );
}
