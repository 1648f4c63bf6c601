// One endpoint: its load, its workers, why it waits, and what can be done with it.
import { call } from "../api/client";
import type { EndpointState, Rollout, Standby, Worker } from "../api/types";
import { endpointNamed, known, standbys, workersByEndpoint } from "../live/state";
import { go, link } from "../router";
import { Action } from "../ui/actions";
import { Age, Cell, Empty, Fact, Table, Word } from "../ui/parts";
import { plain } from "../ui/plain";
import { Plight } from "../ui/waits";
import { StopButton } from "./worker";

export function EndpointPage({ name }: { name: string }) {
  const endpoint = endpointNamed(name);
  const workers = workersByEndpoint.value.get(name) ?? [];
  if (!endpoint) {
    return (
      <>
        <h1>{name}</h1>
        {known.value && (
          <Empty>
            There is no endpoint named {name}. <a href="#/">All endpoints</a>
          </Empty>
        )}
        {workers.length > 0 && <WorkerTable workers={workers} />}
      </>
    );
  }
  return (
    <>
      <p class="crumbs">
        <a href="#/">Overview</a>
      </p>
      <div class="row">
        <h1>{endpoint.name}</h1>
        <Word word={endpoint.condition} />
      </div>
      <Plight endpoint={endpoint} />
      <EndpointActions endpoint={endpoint} />
      <EndpointFacts endpoint={endpoint} />
      {endpoint.rollout && <RolloutNote rollout={endpoint.rollout} />}
      <section aria-labelledby="workers">
        <h2 id="workers">Workers</h2>
        <WorkerTable workers={workers} />
      </section>
      <Standbys list={standbys.value.filter((one) => one.endpoint === name)} />
    </>
  );
}

function EndpointActions({ endpoint }: { endpoint: EndpointState }) {
  const { name } = endpoint;
  const path = `/v1/endpoints/${encodeURIComponent(name)}`;
  const retry = async (): Promise<string> => {
    await call("POST", `${path}/retry`);
    return `The start failures of ${name} are forgotten; it is tried at once.`;
  };
  const pause = async (): Promise<string> => {
    const most = endpoint.max_workers ? 0 : 1;
    await call("PATCH", path, { scale: most ? { max_workers: most } : { max_workers: 0, min_workers: 0 } });
    return most ? `${name} may have a worker again.` : `${name} is paused: max_workers is 0.`;
  };
  const remove = async (): Promise<string> => {
    await call("DELETE", path);
    go();
    return `${name} is being drained and forgotten. Its usage and events stay.`;
  };
  return (
    <div class="row actions">
      <a class="button" href={link("endpoints", name, "edit")}>
        Edit
      </a>
      <a class="button" href={`${link("logs")}?endpoint=${encodeURIComponent(name)}`}>
        Logs
      </a>
      <a class="button" href={`${link("events")}?endpoint=${encodeURIComponent(name)}`}>
        Events
      </a>
      <a class="button" href={`${link("jobs")}?endpoint=${encodeURIComponent(name)}`}>
        Jobs
      </a>
      <a class="button" href={link("endpoints", name, "starts")}>
        Cold starts
      </a>
      <a class="button" href={link("endpoints", name, "revisions")}>
        Revisions
      </a>
      <Action run={retry}>Retry</Action>
      <Action run={pause} {...(endpoint.max_workers ? { ask: pauseQuestion(name) } : {})}>
        {endpoint.max_workers ? "Pause" : "Resume"}
      </Action>
      <Action danger run={remove} ask={{ title: `Delete ${name}?`, text: "Its workers finish their requests and end. Its usage and events stay." }}>
        Delete
      </Action>
    </div>
  );
}

function pauseQuestion(name: string): { title: string; text: string } {
  return { title: `Pause ${name}?`, text: "Its workers finish their requests and end; requests are refused until it is resumed." };
}

function EndpointFacts({ endpoint }: { endpoint: EndpointState }) {
  return (
    <dl class="facts">
      <Fact name="Image">
        <code>{endpoint.image}</code>
      </Fact>
      <Fact name="Type">{endpoint.type}</Fact>
      <Fact name="Desired workers">
        {endpoint.desired} <span class="soft">({endpoint.scale_reason})</span>
      </Fact>
      <Fact name="Bounds">
        {endpoint.min_workers} to {endpoint.max_workers} workers, policy {endpoint.policy}
      </Fact>
      <Fact name="In flight">{endpoint.in_flight}</Fact>
      <Fact name="Waiting">{endpoint.waiting}</Fact>
      <Fact name="Revision">
        <code>{endpoint.revision.slice(0, 12)}</code>
        {endpoint.serving !== endpoint.revision && (
          <>
            , <code>{endpoint.serving.slice(0, 12)}</code> serves
          </>
        )}
      </Fact>
      {endpoint.window && endpoint.window.window && (
        <Fact name="Warm window">
          {endpoint.window.window}: {endpoint.window.workers} workers
        </Fact>
      )}
      {endpoint.aliases.length > 0 && <Fact name="Aliases">{endpoint.aliases.join(", ")}</Fact>}
      <Fact name="Called at">
        <code>/e/{endpoint.name}/</code> {endpoint.public && "without a key"}
      </Fact>
      <Fact name="Changed">
        <Age at={endpoint.updated_at} />
      </Fact>
    </dl>
  );
}

function RolloutNote({ rollout }: { rollout: Rollout }) {
  return (
    <p>
      Rollout from <code>{rollout.base.slice(0, 12)}</code> to <code>{rollout.target.slice(0, 12)}</code>: <Word word={rollout.step} />{" "}
      <Age at={rollout.changed_at} /> {rollout.detail}
      {rollout.last_error && <span class="last-error"> Last error: {plain(rollout.last_error)}</span>}
    </p>
  );
}

const WORKER_HEADS = ["Worker", "State", "Why", "GPUs", "Created", ""];

/** Workers, with the name of their endpoint where the page is not about one. */
export function WorkerTable({ workers, named = false }: { workers: readonly Worker[]; named?: boolean }) {
  if (!workers.length) return <Empty>No worker runs. A request, a job or min_workers starts one.</Empty>;
  return (
    <Table label="Workers" heads={WORKER_HEADS}>
      {workers.map((one) => (
        <tr key={one.id}>
          <Cell head="Worker">
            <a href={link("workers", one.id)}>{one.id}</a>
            {named && <span class="under">{one.endpoint}</span>}
          </Cell>
          <Cell head="State">
            <Word word={one.state} />
          </Cell>
          <Cell head="Why" cls="why">
            {one.cause}
            {one.detail && <span class="under">{plain(one.detail)}</span>}
          </Cell>
          <Cell head="GPUs">{one.gpu_uuids.join(", ") || "none"}</Cell>
          <Cell head="Created">
            <Age at={one.created_at} />
          </Cell>
          <Cell head="">
            <StopButton worker={one} />
          </Cell>
        </tr>
      ))}
    </Table>
  );
}

function Standbys({ list }: { list: readonly Standby[] }) {
  if (!list.length) return null;
  return (
    <section aria-labelledby="standbys">
      <h2 id="standbys">Standbys</h2>
      <Table label="Standbys" heads={["Standby", "Rung", "State", "Memory"]}>
        {list.map((one) => (
          <tr key={one.id}>
            <Cell head="Standby">{one.id}</Cell>
            <Cell head="Rung">{one.rung}</Cell>
            <Cell head="State">
              <Word word={one.state} />
              {one.detail && <span class="under">{one.detail}</span>}
            </Cell>
            <Cell head="Memory">{one.ram_mib} MiB</Cell>
          </tr>
        ))}
      </Table>
    </section>
  );
}
