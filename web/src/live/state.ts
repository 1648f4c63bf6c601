// The state of the box as the API tells it: a snapshot, then changes; after a lost line a snapshot again.
import { computed, signal } from "@preact/signals";
import { follow, type Line, type StreamEvent } from "../api/streams";
import type { DaemonState, EndpointState, Gpu, Pull, Standby, State, Worker } from "../api/types";

type Kinds = {
  daemon: DaemonState;
  endpoints: EndpointState;
  workers: Worker;
  standbys: Standby;
  gpus: Gpu;
  pulls: Pull;
};
type Kind = keyof Kinds;
type Things = { [K in Kind]: ReadonlyMap<string, Kinds[K]> };

interface Change {
  at: string;
  upsert: Partial<{ [K in Kind]: Kinds[K][] }>;
  remove: Partial<Record<Kind, string[]>>;
}

const NAME_OF: { [K in Kind]: (thing: Kinds[K]) => string } = {
  daemon: () => "",
  endpoints: (one) => one.name,
  workers: (one) => one.id,
  standbys: (one) => one.id,
  gpus: (one) => one.uuid,
  pulls: (one) => one.pin,
};
const KINDS = Object.keys(NAME_OF) as Kind[];

const things = signal<Things | null>(null);

/** How the line to the daemon is. */
export const line = signal<Line>("connecting");

/** Why the daemon tells nothing; empty when it does. */
export const refusal = signal<string>("");

/** How far the daemon's clock is ahead of this one. */
export const clockAheadMs = signal(0);

export const known = computed(() => things.value !== null);
export const daemon = computed(() => things.value?.daemon.get("") ?? null);
export const endpoints = computed(() => sorted(things.value?.endpoints, (one) => one.name));
export const gpus = computed(() => sorted(things.value?.gpus, (one) => String(one.index).padStart(6, "0") + one.uuid));
export const workers = computed(() => sorted(things.value?.workers, (one) => one.created_at + one.id));
export const standbys = computed(() => sorted(things.value?.standbys, (one) => one.created_at + one.id));
export const pulls = computed(() => sorted(things.value?.pulls, (one) => one.pin));

export const workersByEndpoint = computed(() => {
  const found = new Map<string, Worker[]>();
  for (const one of workers.value) {
    const list = found.get(one.endpoint);
    if (list) list.push(one);
    else found.set(one.endpoint, [one]);
  }
  return found;
});

export function endpointNamed(name: string): EndpointState | undefined {
  return things.value?.endpoints.get(name);
}

export function workerNamed(id: string): Worker | undefined {
  return things.value?.workers.get(id);
}

/** Follow the state until the returned function is called. */
export function followState(): () => void {
  line.value = "connecting";
  refusal.value = "";
  const end = follow({
    path: () => "/v1/state?follow=true",
    onEvent: take,
    onLine: (now) => {
      line.value = now;
    },
    onRefusal: (why) => {
      refusal.value = why;
    },
  });
  return () => {
    end();
    things.value = null;
  };
}

function take(event: StreamEvent): void {
  if (event.event === "snapshot") {
    const told = JSON.parse(event.data) as State;
    things.value = Object.fromEntries(KINDS.map((kind) => [kind, byName(kind, told)])) as Things;
    clockAheadMs.value = Date.parse(told.at) - Date.now();
  } else if (event.event === "change" && things.value) {
    things.value = changed(things.value, JSON.parse(event.data) as Change);
  }
}

function byName<K extends Kind>(kind: K, told: State): ReadonlyMap<string, Kinds[K]> {
  const list = told[kind] as readonly Kinds[K][];
  return new Map(list.map((one) => [NAME_OF[kind](one), one]));
}

function changed(before: Things, change: Change): Things {
  const after: Partial<Record<Kind, ReadonlyMap<string, unknown>>> = { ...before };
  for (const kind of KINDS) {
    const put = change.upsert[kind] as readonly Kinds[typeof kind][] | undefined;
    const gone = change.remove[kind];
    if (!put && !gone) continue;
    const map = new Map<string, unknown>(before[kind]);
    for (const name of gone ?? []) map.delete(name);
    for (const one of put ?? []) map.set((NAME_OF[kind] as (thing: unknown) => string)(one), one);
    after[kind] = map;
  }
  return after as Things;
}

function sorted<T>(map: ReadonlyMap<string, T> | undefined, by: (one: T) => string): readonly T[] {
  const keyed = [...(map?.values() ?? [])].map((one) => [by(one), one] as const);
  return keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)).map(([, one]) => one);
}
