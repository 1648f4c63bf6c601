// What deploying a spec would do, as the API foresees it.
import type { DryRun } from "../api/types";
import { spellDuration } from "../live/clock";
import { link } from "../router";
import { Fact, Word } from "../ui/parts";
import { Told } from "../ui/told";

const CHANGES: Record<DryRun["change"], string> = {
  create: "a new endpoint",
  restart: "another revision, rolled out to all workers",
  rescale: "other settings, at once and without a restart",
  none: "nothing",
};

export function DryRunResult({ found }: { found: DryRun }) {
  return (
    <section class="card" aria-labelledby="dry-run">
      <h2 id="dry-run">What it would do</h2>
      <dl class="facts">
        <Fact name="Change">
          <Word word={found.change} /> {CHANGES[found.change]}
        </Fact>
        <Fact name="Image">
          <code>{found.image_pin}</code>
          {found.image_present ? ", is on the box" : ", would be pulled first"}
        </Fact>
        <Fact name="Workers">
          {found.workers}, of which {found.workers_present} run already
        </Fact>
        <Fact name="First one ready">
          {found.expected_ready_in_s === null ? "nobody can tell when" : `in ${spellDuration(found.expected_ready_in_s)}`}
        </Fact>
        <Fact name="Cold start">
          {spellDuration(found.cold_start_s)}, {found.cold_start_measured ? "measured" : "a guess"}
        </Fact>
        {found.placements.length > 0 && (
          <Fact name="GPUs">{found.placements.map((one) => one.gpu_uuids.join(" + ") || "none").join("; ")}</Fact>
        )}
      </dl>
      {found.evictions.length > 0 && (
        <ul>
          {found.evictions.map((one) => (
            <li key={one.worker_id}>
              <a href={link("endpoints", one.endpoint)}>{one.endpoint}</a>: {one.worker_id} would give way
              {one.in_s > 0 ? ` in ${spellDuration(one.in_s)}` : " at once"}
              {one.busy && ", after its requests"}
            </li>
          ))}
        </ul>
      )}
      {found.wait && (
        <p>
          <Word word={found.wait.reason} /> {found.wait.detail} <Told text={found.wait.remedy} />
        </p>
      )}
    </section>
  );
}
