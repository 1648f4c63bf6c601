// One worker: what it is, and the way to its output.
import { call } from "../api/client";
import type { Worker } from "../api/types";
import { known, workerNamed } from "../live/state";
import { link } from "../router";
import { Action } from "../ui/actions";
import { Age, Empty, Fact, Word } from "../ui/parts";
import { plain } from "../ui/plain";
import { WorkerStats } from "../ui/stats";
import { TerminalPanel } from "../ui/terminal";
import { EventList } from "./events";

export function StopButton({ worker }: { worker: Worker }) {
  const ends = worker.state === "draining" || worker.state === "stopping" || worker.state === "releasing";
  const stop = async (): Promise<string> => {
    await call("DELETE", `/v1/workers/${encodeURIComponent(worker.id)}${ends ? "?force=true" : ""}`);
    return ends ? `${worker.id} is ended at once.` : `${worker.id} finishes its requests and ends.`;
  };
  const ask = ends
    ? { title: `Kill ${worker.id}?`, text: "Its requests are broken off." }
    : { title: `Stop ${worker.id}?`, text: "It finishes its requests and ends. The endpoint may start another." };
  return (
    <Action danger run={stop} ask={ask} label={`${ends ? "Kill" : "Stop"} ${worker.id}`}>
      {ends ? "Kill" : "Stop"}
    </Action>
  );
}

export function WorkerPage({ id }: { id: string }) {
  const worker = workerNamed(id);
  return (
    <>
      <p class="crumbs">
        <a href="#/">Overview</a> {worker && <a href={link("endpoints", worker.endpoint)}>{worker.endpoint}</a>}
      </p>
      <div class="row">
        <h1>{id}</h1>
        {worker && <Word word={worker.state} />}
      </div>
      {!worker && known.value && <Empty>This worker does not run any more. What it wrote is kept.</Empty>}
      <div class="row actions">
        <a class="button" href={`${link("logs")}?worker=${encodeURIComponent(id)}`}>
          Logs
        </a>
        {worker && <StopButton worker={worker} />}
      </div>
      {worker && <WorkerFacts worker={worker} />}
      <WorkerStats id={id} />
      {worker && (
        <section aria-labelledby="terminal">
          <h2 id="terminal">Terminal</h2>
          <TerminalPanel worker={id} />
        </section>
      )}
      <section aria-labelledby="events">
        <h2 id="events">Events</h2>
        <EventList query={{ worker: id }} limit={20} />
      </section>
    </>
  );
}

function WorkerFacts({ worker }: { worker: Worker }) {
  return (
    <dl class="facts">
      <Fact name="Endpoint">
        <a href={link("endpoints", worker.endpoint)}>{worker.endpoint}</a>
      </Fact>
      <Fact name="Why">
        {worker.cause} {plain(worker.detail)}
      </Fact>
      <Fact name="GPUs">{worker.gpu_uuids.join(", ") || "none"}</Fact>
      {worker.gpu_memory_mib > 0 && <Fact name="Reserves">{worker.gpu_memory_mib} MiB</Fact>}
      <Fact name="Address">{worker.address ? `${worker.address}:${worker.port}` : "none yet"}</Fact>
      <Fact name="Revision">
        <code>{worker.revision.slice(0, 12)}</code>
      </Fact>
      <Fact name="Created">
        <Age at={worker.created_at} />
      </Fact>
      {worker.container_started_at && (
        <Fact name="Container started">
          <Age at={worker.container_started_at} />
        </Fact>
      )}
      {worker.adopted && <Fact name="Adopted">by a daemon that started after it</Fact>}
      {worker.exit_code !== null && <Fact name="Exit code">{worker.exit_code}</Fact>}
    </dl>
  );
}
