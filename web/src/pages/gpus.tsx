// The GPUs: who holds them, what they do, and whether they may be used.
import { call } from "../api/client";
import type { Gpu } from "../api/types";
import { spellMib } from "../live/clock";
import { daemon, gpus } from "../live/state";
import { link } from "../router";
import { Action } from "../ui/actions";
import { Age, Empty, Fact, Meter, Word } from "../ui/parts";

export function GpusPage() {
  return (
    <>
      <h1>GPUs</h1>
      <GpuCards />
    </>
  );
}

export function GpuCards({ short = false }: { short?: boolean }) {
  if (!gpus.value.length) {
    return (
      <Empty>
        No GPU is known (source: {daemon.value?.gpu_source ?? "none"}). Endpoints with <code>gpus.count = 0</code> run on the
        CPU; <code>gpud doctor</code> says what is missing for GPUs.
      </Empty>
    );
  }
  return (
    <div class="cards">
      {gpus.value.map((one) => (
        <GpuCard key={one.uuid} gpu={one} short={short} />
      ))}
    </div>
  );
}

function GpuCard({ gpu, short }: { gpu: Gpu; short: boolean }) {
  return (
    <article class="card" aria-label={`GPU ${gpu.index}`}>
      <header class="row">
        <h3>
          {gpu.index} · {gpu.name}
        </h3>
        <Word word={gpu.health} />
      </header>
      {gpu.reason && (
        <p class="remedy">
          {gpu.reason} {gpu.since && <Age at={gpu.since} />}
        </p>
      )}
      <Holders gpu={gpu} />
      <MemoryMeter gpu={gpu} />
      {gpu.utilization_percent !== null && (
        <Meter label="Utilisation" value={gpu.utilization_percent} max={100} text={`${Math.round(gpu.utilization_percent)} %`} />
      )}
      <p class="soft">{momentary(gpu)}</p>
      {!short && <More gpu={gpu} />}
    </article>
  );
}

function momentary(gpu: Gpu): string {
  const told = [];
  if (gpu.power_w !== null) told.push(`${Math.round(gpu.power_w)} W`);
  if (gpu.temperature_c !== null) told.push(`${Math.round(gpu.temperature_c)} °C`);
  return told.join(" · ");
}

function MemoryMeter({ gpu }: { gpu: Gpu }) {
  if (gpu.used_mib === null) return <p class="soft">{spellMib(gpu.memory_mib)}; its use cannot be told.</p>;
  return (
    <Meter
      label="Memory"
      value={gpu.used_mib}
      max={gpu.memory_mib}
      text={`${spellMib(gpu.used_mib)} of ${spellMib(gpu.memory_mib)}`}
    />
  );
}

function Holders({ gpu }: { gpu: Gpu }) {
  if (gpu.shared_by.length) {
    return (
      <ul class="plain">
        {gpu.shared_by.map((share) => (
          <li key={share.worker_id}>
            <a href={link("endpoints", share.endpoint)}>{share.endpoint}</a> reserves {spellMib(share.memory_mib)}{" "}
            <a class="soft" href={link("workers", share.worker_id)}>
              {share.worker_id}
            </a>
          </li>
        ))}
      </ul>
    );
  }
  if (!gpu.worker_id || !gpu.endpoint) return <p class="soft">Held by nobody</p>;
  return (
    <p>
      Held by <a href={link("endpoints", gpu.endpoint)}>{gpu.endpoint}</a>{" "}
      <a class="soft" href={link("workers", gpu.worker_id)}>
        {gpu.worker_id}
      </a>
    </p>
  );
}

function More({ gpu }: { gpu: Gpu }) {
  const change = async (verb: "cordon" | "uncordon"): Promise<string> => {
    await call("POST", `/v1/gpus/${encodeURIComponent(gpu.uuid)}/${verb}`);
    return verb === "cordon" ? `GPU ${gpu.index} takes no further worker.` : `GPU ${gpu.index} is in use again.`;
  };
  const ask = {
    title: `Cordon GPU ${gpu.index}?`,
    text: "It is leased to no further worker, and the one that holds it is drained.",
  };
  return (
    <>
      <dl class="facts">
        <Fact name="UUID">
          <code>{gpu.uuid}</code>
        </Fact>
        {gpu.mig_parent && <Fact name="MIG parent">{gpu.mig_parent}</Fact>}
        {gpu.numa_node !== null && <Fact name="NUMA node">{gpu.numa_node}</Fact>}
        {gpu.cpus && <Fact name="CPUs">{gpu.cpus}</Fact>}
        {gpu.pids && <Fact name="Processes">{gpu.pids.join(", ") || "none"}</Fact>}
      </dl>
      {gpu.health === "healthy" ? (
        <Action danger ask={ask} label={`Cordon GPU ${gpu.index}`} run={() => change("cordon")}>
          Cordon
        </Action>
      ) : (
        <Action label={`Uncordon GPU ${gpu.index}`} run={() => change("uncordon")}>
          Uncordon
        </Action>
      )}
    </>
  );
}
