// What a worker used, lately, as charts.
import { useMemo, useState } from "preact/hooks";
import type { Stats, StatsPage } from "../api/types";
import { spellBytes } from "../live/clock";
import { Chart, type Series } from "./chart";
import { useLoaded } from "./loading";
import { Empty, Fault } from "./parts";

const KINDS: { label: string; of: (one: Stats) => number; spell: (value: number) => string }[] = [
  { label: "CPU cores", of: (one) => one.cpu_cores, spell: (value) => value.toFixed(value > 0 && value < 0.1 ? 4 : 2) },
  { label: "Memory", of: (one) => one.memory_bytes, spell: spellBytes },
  { label: "GPU utilisation", of: (one) => one.gpu_utilization_percent, spell: (value) => `${Math.round(value)} %` },
  { label: "GPU memory", of: (one) => one.gpu_memory_bytes, spell: spellBytes },
];

export function WorkerStats({ id }: { id: string }) {
  const [span, setSpan] = useState("hour");
  const { data, error } = useLoaded<StatsPage>(`/v1/workers/${encodeURIComponent(id)}/stats?span=${span}`, 10_000);
  const items = data?.items ?? [];
  const times = useMemo(() => items.map((one) => Date.parse(one.at) / 1000), [data]);
  return (
    <section aria-labelledby="stats">
      <div class="row">
        <h2 id="stats">Use</h2>
        <label>
          <span class="unseen">How far back</span>
          <select value={span} onChange={(event) => setSpan(event.currentTarget.value)}>
            <option value="hour">last hour</option>
            <option value="day">last day</option>
          </select>
        </label>
      </div>
      <Fault error={error} />
      {data && !items.length && <Empty>Nothing was measured yet.</Empty>}
      {items.length > 0 && (
        <div class="charts">
          {KINDS.map(({ label, of, spell }) => {
            const series: Series[] = [{ label, values: items.map(of), spell }];
            return <Chart key={label} label={label} times={times} series={series} height={150} />;
          })}
        </div>
      )}
    </section>
  );
}
