// The time, in steps of a second, by the daemon's clock, and how times and amounts are spelled.
import { signal } from "@preact/signals";
import { clockAheadMs } from "./state";

const tick = signal(Date.now());
setInterval(() => {
  if (document.visibilityState === "visible") tick.value = Date.now();
}, 1000);

/** Milliseconds of the daemon's clock; what reads it is drawn anew each second. */
export function nowMs(): number {
  return tick.value + clockAheadMs.value;
}

export function spellDuration(seconds: number): string {
  const s = Math.max(0, seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** Whole seconds, so that what ticks does not jump between units. */
export function spellAge(at: string): string {
  const s = Math.floor((nowMs() - Date.parse(at)) / 1000);
  if (s < 1) return "now";
  return `${s < 60 ? `${s} s` : spellDuration(s)} ago`;
}

export function spellUntil(at: string): string {
  const s = Math.ceil((Date.parse(at) - nowMs()) / 1000);
  if (s <= 0) return "now";
  return `in ${s < 60 ? `${s} s` : spellDuration(s)}`;
}

export function spellMoment(at: string): string {
  return new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

export function spellBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let left = bytes;
  let unit = 0;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${left >= 100 || unit === 0 ? Math.round(left) : left.toFixed(1)} ${units[unit]}`;
}

export function spellMib(mib: number): string {
  return spellBytes(mib * 1024 * 1024);
}

export function spellMicros(micros: number, currency: string): string {
  const amount = micros / 1e6;
  const digits = Math.abs(amount) >= 1 || amount === 0 ? 2 : 4;
  return `${amount.toFixed(digits)} ${currency}`;
}

export function spellEnergy(mj: number): string {
  const wh = mj / 3_600_000;
  return wh >= 1000 ? `${(wh / 1000).toFixed(2)} kWh` : `${wh.toFixed(wh >= 10 ? 0 : 2)} Wh`;
}

export function spellGrams(mg: number): string {
  return mg >= 1_000_000 ? `${(mg / 1_000_000).toFixed(2)} kg` : `${(mg / 1000).toFixed(1)} g`;
}
