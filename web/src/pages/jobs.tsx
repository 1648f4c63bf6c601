// Jobs: where each is and why, and what can be done about it.
import { call, withQuery } from "../api/client";
import type { Job, JobPage } from "../api/types";
import { spellDuration } from "../live/clock";
import { link, route, setQuery } from "../router";
import { Action } from "../ui/actions";
import { Choice, EndpointChoice } from "../ui/choice";
import { useLoaded } from "../ui/loading";
import { Paging, usePlace } from "../ui/paging";
import { Age, Cell, Empty, Fault, Table, Word } from "../ui/parts";
import { plain } from "../ui/plain";

const STATES = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];
const PERIOD_MS = 3000;
const HEADS = ["Job", "State", "Why", "Attempts", "Made", "Took", ""];

export function JobsPage() {
  const query = route.value.query;
  return (
    <>
      <h1>Jobs</h1>
      <JobFilters query={query} />
      <JobList key={query.toString()} query={query} />
    </>
  );
}

function JobFilters({ query }: { query: URLSearchParams }) {
  const set = (changes: Record<string, string>): void => setQuery({ ...Object.fromEntries(query), ...changes });
  return (
    <form class="filters">
      <EndpointChoice value={query.get("endpoint") ?? ""} onChoice={(name) => set({ endpoint: name })} />
      <Choice name="State" value={query.get("state") ?? ""} words={["", ...STATES]} onChoice={(state) => set({ state })} />
      <label class="check">
        <input type="checkbox" checked={query.has("dead")} onChange={(event) => set({ dead: event.currentTarget.checked ? "true" : "" })} />
        Dead letters only
      </label>
    </form>
  );
}

function JobList({ query }: { query: URLSearchParams }) {
  const place = usePlace();
  const { data, error, again } = useLoaded<JobPage>(
    withQuery("/v1/jobs", { ...Object.fromEntries(query), limit: 50, cursor: place.cursor }),
    PERIOD_MS,
  );
  if (!data) return error ? <Fault error={error} /> : <p class="soft">Asking…</p>;
  return (
    <>
      <Fault error={error} />
      {query.has("dead") && data.items.length > 0 && <DeadLetters endpoint={query.get("endpoint") ?? ""} again={again} />}
      {data.items.length ? (
        <Table label="Jobs" heads={HEADS}>
          {data.items.map((one) => (
            <JobRow key={one.id} job={one} again={again} />
          ))}
        </Table>
      ) : (
        <Empty>
          No such job. <code>POST /v2/ENDPOINT/run</code> makes one.
        </Empty>
      )}
      <Paging place={place} next={data.next} />
    </>
  );
}

function JobRow({ job, again }: { job: Job; again: () => void }) {
  return (
    <tr>
      <Cell head="Job">
        <a href={link("jobs", job.id)}>{job.id}</a>
        <a class="under" href={link("endpoints", job.endpoint)}>
          {job.endpoint}
        </a>
      </Cell>
      <Cell head="State">
        <Word word={job.state} />
        {job.dead && <span class="under">dead letter</span>}
      </Cell>
      <Cell head="Why" cls="why">
        <JobWhy job={job} />
      </Cell>
      <Cell head="Attempts" cls="nowrap">
        {job.attempt} of {job.max_attempts}
      </Cell>
      <Cell head="Made">
        <Age at={job.created_at} />
      </Cell>
      <Cell head="Took" cls="nowrap">{job.exec_ms !== null && spellDuration(job.exec_ms / 1000)}</Cell>
      <Cell head="">
        <JobActions job={job} again={again} />
      </Cell>
    </tr>
  );
}

export function JobWhy({ job }: { job: Job }) {
  return (
    <>
      {job.reason && <Word word={job.reason} />}
      {job.estimate_ms !== null && <span class="soft"> expected to wait {spellDuration(job.estimate_ms / 1000)}</span>}
      {job.cancel_requested && !isOver(job) && <span class="under">is being cancelled</span>}
      {job.error && <span class="under">{plain(job.error)}</span>}
    </>
  );
}

function isOver(job: Job): boolean {
  return job.state !== "IN_QUEUE" && job.state !== "IN_PROGRESS";
}

export function JobActions({ job, again }: { job: Job; again: () => void }) {
  const act = async (verb: "retry" | "cancel", told: string): Promise<string> => {
    await call("POST", `/v1/jobs/${encodeURIComponent(job.id)}/${verb}`);
    again();
    return told;
  };
  if (!isOver(job)) {
    const ask = { title: `Cancel ${job.id}?`, text: "A worker that has it is told to stop." };
    return (
      <Action danger scope="any" ask={ask} label={`Cancel ${job.id}`} run={() => act("cancel", `${job.id} is being cancelled.`)}>
        Cancel
      </Action>
    );
  }
  if (job.state !== "FAILED" && job.state !== "TIMED_OUT") return null;
  return (
    <Action scope="any" label={`Retry ${job.id}`} run={() => act("retry", `${job.id} is back in the queue.`)}>
      Retry
    </Action>
  );
}

function DeadLetters({ endpoint, again }: { endpoint: string; again: () => void }) {
  const all = async (verb: "redrive" | "purge"): Promise<string> => {
    const done = await call<{ count: number }>("POST", withQuery(`/v1/dead-letters/${verb}`, { endpoint, limit: 1000 }));
    again();
    return verb === "redrive" ? `${done.count} jobs are back in the queue.` : `${done.count} jobs are deleted.`;
  };
  const ask = { title: "Delete dead letters?", text: "Their inputs and errors are gone for good." };
  return (
    <div class="row actions">
      <Action scope="any" run={() => all("redrive")}>
        Retry all
      </Action>
      <Action scope="any" danger ask={ask} run={() => all("purge")}>
        Delete all
      </Action>
    </div>
  );
}
