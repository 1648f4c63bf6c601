// GPU time and what it costs: over time, and by endpoint, key, GPU, worker or phase.
import { useMemo } from "preact/hooks";
import { withQuery } from "../api/client";
import type { Usage, UsageLine } from "../api/types";
import { nowMs, spellDuration, spellEnergy, spellGrams, spellMicros } from "../live/clock";
import { link, route, setQuery } from "../router";
import { Chart, type Series } from "../ui/chart";
import { Choice, EndpointChoice } from "../ui/choice";
import { useLoaded } from "../ui/loading";
import { Cell, Empty, Fault, Table } from "../ui/parts";

const SPANS: Record<string, { hours: number; by: "hour" | "day" | "minute" }> = {
  "1 h": { hours: 1, by: "minute" },
  "1 d": { hours: 24, by: "hour" },
  "7 d": { hours: 168, by: "hour" },
  "30 d": { hours: 720, by: "day" },
  "90 d": { hours: 2160, by: "day" },
};
const BYS = ["endpoint", "key", "gpu", "worker", "phase"];
const STEP_MS = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };
const KEY_CHARS = { minute: 16, hour: 13, day: 10 };

export function UsagePage() {
  const query = route.value.query;
  const span = SPANS[query.get("span") ?? ""] ? (query.get("span") ?? "1 d") : "1 d";
  const by = BYS.includes(query.get("by") ?? "") ? (query.get("by") ?? "endpoint") : "endpoint";
  const endpoint = query.get("endpoint") ?? "";
  const set = (changes: Record<string, string>): void => setQuery({ ...Object.fromEntries(query), ...changes });
  return (
    <>
      <h1>Usage</h1>
      <form class="filters">
        <Choice name="Last" value={span} words={Object.keys(SPANS)} onChoice={(word) => set({ span: word })} />
        <Choice name="By" value={by} words={BYS} onChoice={(word) => set({ by: word })} />
        <EndpointChoice value={endpoint} onChoice={(name) => set({ endpoint: name })} />
      </form>
      <Report key={`${span} ${by} ${endpoint}`} span={span} by={by} endpoint={endpoint} />
    </>
  );
}

function Report({ span, by, endpoint }: { span: string; by: string; endpoint: string }) {
  const { hours, by: step } = SPANS[span] ?? { hours: 24, by: "hour" as const };
  // From the beginning of a step, so that the first bar is whole.
  const sinceMs = useMemo(() => {
    const stepMs = STEP_MS[step];
    return Math.floor((nowMs() - hours * 3_600_000) / stepMs) * stepMs + stepMs;
  }, [hours, step]);
  const since = new Date(sinceMs).toISOString();
  const rows = useLoaded<Usage>(withQuery("/v1/usage", { by, endpoint, since }), 30_000);
  const steps = useLoaded<Usage>(withQuery("/v1/usage", { by: step, endpoint, since }), 30_000);
  const usage = rows.data;
  return (
    <>
      <Fault error={rows.error ?? steps.error} />
      {usage && <Totals usage={usage} />}
      {steps.data && <Charts usage={steps.data} sinceMs={sinceMs} step={step} />}
      {usage && (usage.items.length ? <Lines usage={usage} by={by} /> : <Empty>Nothing was used in this time.</Empty>)}
    </>
  );
}

function Totals({ usage }: { usage: Usage }) {
  const { total, currency } = usage;
  return (
    <dl class="totals">
      <div>
        <dt>Cost</dt>
        <dd>{spellMicros(total.cost_micros, currency)}</dd>
      </div>
      <div>
        <dt>GPU time</dt>
        <dd>{spellDuration(total.gpu_ms / 1000)}</dd>
      </div>
      <div>
        <dt>Worker sessions</dt>
        <dd>{total.sessions}</dd>
      </div>
      {total.energy_mj > 0 && (
        <div>
          <dt>Energy</dt>
          <dd>{spellEnergy(total.energy_mj)}</dd>
        </div>
      )}
      {total.energy_cost_micros > 0 && (
        <div>
          <dt>Its cost</dt>
          <dd>{spellMicros(total.energy_cost_micros, currency)}</dd>
        </div>
      )}
      {total.co2_mg > 0 && (
        <div>
          <dt>CO₂</dt>
          <dd>{spellGrams(total.co2_mg)}</dd>
        </div>
      )}
      <div>
        <dt>Price of a GPU hour, where no other applies</dt>
        <dd>{spellMicros(usage.gpu_hour_micros, currency)}</dd>
      </div>
    </dl>
  );
}

function Charts({ usage, sinceMs, step }: { usage: Usage; sinceMs: number; step: "minute" | "hour" | "day" }) {
  const { times, lines } = useMemo(() => filled(usage, sinceMs, step), [usage, sinceMs, step]);
  const gpuTime: Series[] = [
    { label: "GPU hours", values: lines.map((line) => (line?.gpu_ms ?? 0) / 3_600_000), spell: (hours) => `${hours.toFixed(2)} h` },
  ];
  const cost: Series[] = [
    { label: "Cost", values: lines.map((line) => line?.cost_micros ?? 0), spell: (micros) => spellMicros(micros, usage.currency) },
  ];
  return (
    <div class="charts">
      <Chart label={`GPU hours by ${step}`} times={times} series={gpuTime} bars />
      <Chart label={`Cost by ${step}`} times={times} series={cost} bars />
    </div>
  );
}

/** Every step of the time, those without use too. */
function filled(usage: Usage, sinceMs: number, step: "minute" | "hour" | "day") {
  const byKey = new Map(usage.items.map((line) => [line.key, line]));
  const times: number[] = [];
  const lines: (UsageLine | undefined)[] = [];
  for (let atMs = sinceMs; atMs <= Date.parse(usage.until); atMs += STEP_MS[step]) {
    times.push(atMs / 1000);
    lines.push(byKey.get(new Date(atMs).toISOString().slice(0, KEY_CHARS[step])));
  }
  return { times, lines };
}

function Lines({ usage, by }: { usage: Usage; by: string }) {
  const sorted = [...usage.items].sort((a, b) => b.cost_micros - a.cost_micros || b.gpu_ms - a.gpu_ms);
  return (
    <Table label={`Usage by ${by}`} heads={[by, "Cost", "GPU time", "Wall time", "Energy", "Sessions", "Phases"]}>
      {sorted.map((line) => (
        <tr key={line.key}>
          <Cell head={by}>
            <KeyName by={by} name={line.key} />
            {line.label && line.label !== line.key && <span class="under">{line.label}</span>}
          </Cell>
          <Cell head="Cost" cls="number">
            {spellMicros(line.cost_micros, usage.currency)}
          </Cell>
          <Cell head="GPU time" cls="number">
            {spellDuration(line.gpu_ms / 1000)}
          </Cell>
          <Cell head="Wall time" cls="number">
            {spellDuration(line.wall_ms / 1000)}
          </Cell>
          <Cell head="Energy" cls="number">
            {line.energy_mj > 0 && spellEnergy(line.energy_mj)}
          </Cell>
          <Cell head="Sessions" cls="number">
            {line.sessions}
          </Cell>
          <Cell head="Phases" cls="why">
            {Object.entries(line.phases_ms).map(([phase, ms]) => (
              <span key={phase} class="pair">
                <span class="soft">{phase}</span> {spellDuration(ms / 1000)}{" "}
              </span>
            ))}
          </Cell>
        </tr>
      ))}
    </Table>
  );
}

function KeyName({ by, name }: { by: string; name: string }) {
  if (name.startsWith("(")) return <>{name}</>; // nobody's
  if (by === "endpoint") return <a href={link("endpoints", name)}>{name}</a>;
  if (by === "worker") return <a href={link("workers", name)}>{name}</a>;
  return <>{name}</>;
}
