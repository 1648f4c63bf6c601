// Follows server-sent events with fetch, which can send the key in a header; comes back when the line is lost.
import { bearer, problemOf, signOut } from "./client";

export interface StreamEvent {
  id: string;
  event: string;
  data: string;
}

export type Line = "connecting" | "live" | "lost";

export interface Following {
  /** The path to ask for; asked anew at each try. */
  path: () => string;
  /** After which event to go on at first; empty for where the API begins by itself. */
  lastId?: string;
  onEvent: (event: StreamEvent) => void;
  onLine?: (line: Line) => void;
  /** The API refused: trying again makes no sense. */
  onRefusal?: (why: string) => void;
}

// The daemon says something every 15 s at least; a line that says nothing for longer is dead.
const SILENCE_MS = 25_000;
const HIDDEN_MS = 20_000;
const RETRY_MS = [250, 500, 1000, 2000, 4000, 8000];

/** Follow until the returned function is called. */
export function follow(following: Following): () => void {
  const end = new AbortController();
  void keepFollowing(following, end.signal);
  return () => end.abort();
}

async function keepFollowing(following: Following, end: AbortSignal): Promise<void> {
  let lastId = following.lastId ?? "";
  let fails = 0;
  while (!end.aborted) {
    await untilVisible(end);
    if (end.aborted) return;
    const one = oneConnection(end);
    try {
      const headers: Record<string, string> = { ...bearer(), Accept: "text/event-stream" };
      if (lastId) headers["Last-Event-ID"] = lastId;
      const init: RequestInit = { headers, signal: one.signal, credentials: "omit", cache: "no-store" };
      const response = await fetch(following.path(), init);
      if (!response.ok || !response.body) {
        if (await refused(response, following)) return;
      } else {
        following.onLine?.("live");
        for await (const event of eventsIn(response.body, one.heard)) {
          fails = 0;
          if (event.id) lastId = event.id;
          following.onEvent(event);
        }
      }
    } catch {
      // The line broke, or was ended here: either way the loop decides.
    } finally {
      one.end();
    }
    if (end.aborted) return;
    if (document.visibilityState === "visible") following.onLine?.("lost");
    await pause(RETRY_MS[Math.min(fails++, RETRY_MS.length - 1)] ?? 8000, end);
  }
}

/** Whether the answer means that asking again is of no use. */
async function refused(response: Response, following: Following): Promise<boolean> {
  const problem = await problemOf(response);
  if (response.status === 401) signOut(problem.message);
  const forGood = response.status < 500 && response.status !== 429;
  if (forGood) following.onRefusal?.(problem.message);
  return forGood;
}

/** One try: it ends with the whole, when nothing is heard for long, or when nobody looks at the page. */
function oneConnection(end: AbortSignal): { signal: AbortSignal; heard: () => void; end: () => void } {
  const control = new AbortController();
  const stop = (): void => control.abort();
  let silence = setTimeout(stop, SILENCE_MS);
  let hidden: ReturnType<typeof setTimeout> | undefined;
  const look = (): void => {
    clearTimeout(hidden);
    if (document.visibilityState === "hidden") hidden = setTimeout(stop, HIDDEN_MS);
  };
  end.addEventListener("abort", stop);
  document.addEventListener("visibilitychange", look);
  look();
  return {
    signal: control.signal,
    heard: () => {
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE_MS);
    },
    end: () => {
      stop();
      clearTimeout(silence);
      clearTimeout(hidden);
      end.removeEventListener("abort", stop);
      document.removeEventListener("visibilitychange", look);
    },
  };
}

/** Cut a body into events. */
export async function* eventsIn(
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
  heard: () => void,
): AsyncGenerator<StreamEvent> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    left += value;
    for (let cut = left.indexOf("\n\n"); cut >= 0; cut = left.indexOf("\n\n")) {
      const event = eventFrom(left.slice(0, cut));
      left = left.slice(cut + 2);
      if (event) yield event;
    }
  }
}

function eventFrom(block: string): StreamEvent | null {
  const event: StreamEvent = { id: "", event: "message", data: "" };
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const name = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (name === "id") event.id = value;
    else if (name === "event") event.event = value;
    else if (name === "data") data.push(value);
  }
  if (!data.length) return null;
  event.data = data.join("\n");
  return event;
}

function untilVisible(end: AbortSignal): Promise<void> {
  if (document.visibilityState === "visible") return Promise.resolve();
  return new Promise((done) => {
    const look = (): void => {
      if (document.visibilityState !== "visible" && !end.aborted) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
    end.addEventListener("abort", look);
  });
}

function pause(ms: number, end: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    end.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}
