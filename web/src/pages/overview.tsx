// The endpoints and GPUs of the box at a glance.
import type { EndpointState } from "../api/types";
import { endpointNamed, endpoints, gpus, standbys, workers, workersByEndpoint } from "../live/state";
import { link } from "../router";
import { Cell, Empty, Table, Word } from "../ui/parts";
import { Plight } from "../ui/waits";
import { WorkerTable } from "./endpoint";
import { GpuCards } from "./gpus";

const HEADS = ["Endpoint", "Condition", "Workers", "In flight", "Waiting", "Why"];

export function Overview() {
  return (
    <>
      <h1>Overview</h1>
      <Totals />
      <section aria-labelledby="endpoints">
        <div class="row">
          <h2 id="endpoints">Endpoints</h2>
          <a class="button" href="#/deploy">
            Deploy
          </a>
        </div>
        {endpoints.value.length ? <EndpointTable /> : <NoEndpoints />}
      </section>
      <Leaving />
      <section aria-labelledby="gpus">
        <h2 id="gpus">GPUs</h2>
        <GpuCards short />
      </section>
    </>
  );
}

function Totals() {
  const list = endpoints.value;
  const sum = (of: (one: EndpointState) => number): number => list.reduce((total, one) => total + of(one), 0);
  const held = gpus.value.filter((one) => one.worker_id).length;
  const facts: [string, string][] = [
    ["Endpoints", String(list.length)],
    ["Workers", String(workers.value.length)],
    ["Standbys", String(standbys.value.length)],
    ["In flight", String(sum((one) => one.in_flight))],
    ["Waiting", String(sum((one) => one.waiting))],
    ["GPUs held", `${held} of ${gpus.value.length}`],
  ];
  return (
    <dl class="totals">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function EndpointTable() {
  return (
    <Table label="Endpoints" heads={HEADS}>
      {endpoints.value.map((one) => (
        <EndpointRow key={one.name} endpoint={one} />
      ))}
    </Table>
  );
}

function EndpointRow({ endpoint }: { endpoint: EndpointState }) {
  const present = workersByEndpoint.value.get(endpoint.name) ?? [];
  return (
    <tr>
      <Cell head="Endpoint">
        <a href={link("endpoints", endpoint.name)}>{endpoint.name}</a>
        <span class="under">{endpoint.image}</span>
      </Cell>
      <Cell head="Condition">
        <Word word={endpoint.condition} />
      </Cell>
      <Cell head="Workers" cls="nowrap">
        {present.filter((one) => one.state === "ready").length} ready of {present.length}
        <span class="under">
          {endpoint.desired} desired ({endpoint.scale_reason}), at most {endpoint.max_workers}
        </span>
      </Cell>
      <Cell head="In flight">{endpoint.in_flight}</Cell>
      <Cell head="Waiting">{endpoint.waiting}</Cell>
      <Cell head="Why" cls="why">
        <Plight endpoint={endpoint} />
        {endpoint.rollout?.active && (
          <span class="under">
            rollout: <code>{endpoint.rollout.step}</code> {endpoint.rollout.detail}
          </span>
        )}
      </Cell>
    </tr>
  );
}

/** Workers that finish their requests though their endpoint is deleted: they still hold GPUs. */
function Leaving() {
  const left = workers.value.filter((one) => !endpointNamed(one.endpoint));
  if (!left.length) return null;
  return (
    <section aria-labelledby="leaving">
      <h2 id="leaving">Workers of deleted endpoints</h2>
      <WorkerTable workers={left} named />
    </section>
  );
}

function NoEndpoints() {
  return (
    <Empty>
      There is no endpoint yet. <a href="#/deploy">Deploy one</a>, or run <code>gpud deploy IMAGE --name NAME</code>.
    </Empty>
  );
}
