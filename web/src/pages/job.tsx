// One job with every attempt, and what came of it.
import type { Job, JobDetail } from "../api/types";
import { spellBytes, spellDuration, spellEnergy } from "../live/clock";
import { link } from "../router";
import { useLoaded } from "../ui/loading";
import { Age, Cell, Fact, Fault, Table, Word } from "../ui/parts";
import { plain, shortened } from "../ui/plain";
import { JobActions, JobWhy } from "./jobs";

export function JobDetailPage({ id }: { id: string }) {
  const { data: job, error, again } = useLoaded<JobDetail>(`/v1/jobs/${encodeURIComponent(id)}`, 2000);
  return (
    <>
      <p class="crumbs">
        <a href="#/jobs">Jobs</a>
        {job && <a href={link("endpoints", job.endpoint)}>{job.endpoint}</a>}
      </p>
      <div class="row">
        <h1>{id}</h1>
        {job && <Word word={job.state} />}
      </div>
      <Fault error={error} />
      {job && (
        <>
          <p>
            <JobWhy job={job} />
          </p>
          <div class="row actions">
            <a class="button" href={`${link("logs")}?job=${encodeURIComponent(id)}`}>
              Logs
            </a>
            <JobActions job={job} again={again} />
          </div>
          <JobFacts job={job} />
          <Attempts job={job} />
          <Payload name="Progress" value={job.progress} />
          <Payload name="Output" value={job.output} />
        </>
      )}
    </>
  );
}

function JobFacts({ job }: { job: Job }) {
  return (
    <dl class="facts">
      <Fact name="Made">
        <Age at={job.created_at} /> by {job.owner}
      </Fact>
      {job.queue_ms !== null && <Fact name="Waited">{spellDuration(job.queue_ms / 1000)}</Fact>}
      {job.exec_ms !== null && <Fact name="Took">{spellDuration(job.exec_ms / 1000)}</Fact>}
      {job.gpu_ms > 0 && <Fact name="GPU time">{spellDuration(job.gpu_ms / 1000)}</Fact>}
      {job.energy_mj > 0 && <Fact name="Energy">{spellEnergy(job.energy_mj)}</Fact>}
      <Fact name="Attempts">
        {job.attempt} of {job.max_attempts}, handed out {job.deliveries} times
      </Fact>
      <Fact name="Priority">
        {job.priority}
        {job.effective_priority !== job.priority && `, by now ${job.effective_priority}`}
        {job.low_priority && ", low"}
      </Fact>
      <Fact name="Input">{spellBytes(job.input_bytes)}</Fact>
      <Fact name="Given up">
        <Age at={job.expires_at} />
      </Fact>
      {job.kept_until && (
        <Fact name="Deleted">
          <Age at={job.kept_until} />
        </Fact>
      )}
    </dl>
  );
}

function Attempts({ job }: { job: JobDetail }) {
  if (!job.attempts.length) return null;
  return (
    <section aria-labelledby="attempts">
      <h2 id="attempts">Attempts</h2>
      <Table label="Attempts" heads={["Delivery", "Worker", "Began", "Ended", "What came of it"]}>
        {job.attempts.map((one) => (
          <tr key={one.delivery}>
            <Cell head="Delivery">{one.delivery}</Cell>
            <Cell head="Worker">
              <a href={link("workers", one.worker)}>{one.worker}</a>
            </Cell>
            <Cell head="Began">
              <Age at={one.started_at} />
            </Cell>
            <Cell head="Ended">{one.ended_at ? <Age at={one.ended_at} /> : "runs"}</Cell>
            <Cell head="What came of it" cls="why">
              {one.ending} {one.reason} {one.exit_code !== null && `exit code ${one.exit_code}`}
              {one.error && <span class="under">{plain(one.error)}</span>}
              {one.log_tail && (
                <details>
                  <summary>Last output</summary>
                  <pre>{plain(one.log_tail)}</pre>
                </details>
              )}
            </Cell>
          </tr>
        ))}
      </Table>
    </section>
  );
}

function Payload({ name, value }: { name: string; value: unknown }) {
  if (value === null || value === undefined) return null;
  return (
    <section>
      <h2>{name}</h2>
      <pre>{shortened(plain(JSON.stringify(value, null, 2)))}</pre>
    </section>
  );
}
