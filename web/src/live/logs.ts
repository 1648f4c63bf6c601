// Lines of the workers' output: what was asked for, then new ones as they are written; a bounded number is held.
import { signal } from "@preact/signals";
import { get, withQuery } from "../api/client";
import { follow, type Line } from "../api/streams";
import type { LogLine, LogPage } from "../api/types";

const HELD_MAX = 3000;
/** So many lines are asked for at once. */
export const FIRST = 400;

export interface Asked {
  endpoint: string;
  worker: string;
  job: string;
  stream: string;
  grep: string;
  regex: string;
  ignore_case: boolean;
  previous: boolean;
  since: string;
}

/** Lines of one question. */
export class LogLines {
  readonly lines = signal<readonly LogLine[]>([]);
  readonly line = signal<Line>("connecting");
  readonly error = signal<string>("");
  readonly lostBytes = signal(0);
  readonly noOlder = signal(false);
  private fresh: LogLine[] = [];
  private flushing = 0;
  private end: () => void = () => undefined;

  constructor(private readonly asked: Asked) {}

  follow(): void {
    this.end = follow({
      path: () => withQuery("/v1/logs", { ...this.asked, limit: FIRST, follow: true }),
      onLine: (now) => {
        this.line.value = now;
      },
      onRefusal: (why) => {
        this.error.value = why;
      },
      onEvent: ({ event, data }) => {
        if (event === "lost") this.lostBytes.value += (JSON.parse(data) as { lost_bytes: number }).lost_bytes;
        else this.add(JSON.parse(data) as LogLine);
      },
    });
  }

  async once(): Promise<void> {
    try {
      const page = await get<LogPage>(withQuery("/v1/logs", { ...this.asked, limit: FIRST }));
      this.lines.value = page.items;
      this.line.value = "live";
    } catch (error) {
      this.error.value = error instanceof Error ? error.message : String(error);
    }
  }

  /** Put what was written before the first line before it. */
  async older(): Promise<void> {
    const first = this.lines.value[0];
    if (!first) return;
    // Times of questions are in milliseconds, of lines in nanoseconds: the last one is asked for again.
    const until = new Date(Date.parse(first.at) + 1).toISOString();
    const page = await get<LogPage>(withQuery("/v1/logs", { ...this.asked, until, limit: FIRST }));
    const held = new Set(this.lines.value.map((one) => one.cursor));
    const before = page.items.filter((one) => !held.has(one.cursor));
    this.noOlder.value = before.length === 0;
    this.lines.value = [...before, ...this.lines.value];
  }

  stop(): void {
    this.end();
    cancelAnimationFrame(this.flushing);
  }

  private add(one: LogLine): void {
    this.fresh.push(one);
    if (this.fresh.length > HELD_MAX) this.fresh.splice(0, this.fresh.length - HELD_MAX);
    if (!this.flushing) this.flushing = requestAnimationFrame(() => this.flush());
  }

  private flush(): void {
    this.flushing = 0;
    this.lines.value = [...this.lines.value, ...this.fresh].slice(-HELD_MAX);
    this.fresh = [];
  }
}
