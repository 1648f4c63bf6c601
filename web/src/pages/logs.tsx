// The workers' output: searched by the daemon, followed live.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { LogLine } from "../api/types";
import { type Asked, FIRST, LogLines } from "../live/logs";
import { link, route, setQuery } from "../router";
import { Choice, EndpointChoice } from "../ui/choice";
import { Empty, Fault } from "../ui/parts";
import { plain, shortened } from "../ui/plain";

const SINCE_MIN: Record<string, number> = { "15 min": 15, "1 h": 60, "6 h": 360, "1 d": 1440, "7 d": 10_080 };
const SINCE = ["", ...Object.keys(SINCE_MIN)];
const STREAMS = ["", "stdout", "stderr", "gpud"];

export function LogsPage() {
  const query = route.value.query;
  const text = query.toString();
  return (
    <>
      <h1>Logs</h1>
      <LogFilters query={query} />
      <LogPanel key={text} query={query} />
    </>
  );
}

function LogFilters({ query }: { query: URLSearchParams }) {
  const [grep, setGrep] = useState(query.get("text") ?? "");
  const set = (changes: Record<string, string>): void => setQuery({ ...Object.fromEntries(query), ...changes });
  const box = (name: string, label: string) => (
    <label class="check">
      <input type="checkbox" checked={query.has(name)} onChange={(event) => set({ [name]: event.currentTarget.checked ? "1" : "" })} />
      {label}
    </label>
  );
  const submit = (event: Event): void => {
    event.preventDefault();
    set({ text: grep });
  };
  return (
    <form class="filters" role="search" onSubmit={submit}>
      <EndpointChoice value={query.get("endpoint") ?? ""} onChoice={(name) => set({ endpoint: name, worker: "", job: "" })} />
      <Choice name="Stream" value={query.get("stream") ?? ""} words={STREAMS} onChoice={(stream) => set({ stream })} />
      <Choice name="Since" value={query.get("since") ?? ""} words={SINCE} empty="the beginning" onChoice={(since) => set({ since })} />
      <label class="grow">
        Search
        <input type="search" value={grep} maxLength={1000} onInput={(event) => setGrep(event.currentTarget.value)} />
      </label>
      <button type="submit">Search</button>
      {box("regex", "Regular expression")}
      {box("case", "Match case")}
      {box("previous", "Ended workers only")}
      {box("still", "Do not follow")}
      {["worker", "job"].map(
        (name) =>
          query.get(name) && (
            <button key={name} type="button" onClick={() => set({ [name]: "" })} aria-label={`All ${name}s`}>
              {name} {query.get(name)} ×
            </button>
          ),
      )}
    </form>
  );
}

function askedBy(query: URLSearchParams): Asked {
  const text = query.get("text") ?? "";
  const minutes = SINCE_MIN[query.get("since") ?? ""];
  return {
    endpoint: query.get("endpoint") ?? "",
    worker: query.get("worker") ?? "",
    job: query.get("job") ?? "",
    stream: query.get("stream") ?? "",
    grep: query.has("regex") ? "" : text,
    regex: query.has("regex") ? text : "",
    ignore_case: text !== "" && !query.has("case"),
    previous: query.has("previous"),
    since: minutes ? new Date(Date.now() - minutes * 60_000).toISOString() : "",
  };
}

function LogPanel({ query }: { query: URLSearchParams }) {
  const still = query.has("still");
  const found = useMemo(() => new LogLines(askedBy(query)), []);
  useEffect(() => {
    if (still) void found.once();
    else found.follow();
    return () => found.stop();
  }, [found, still]);
  const lines = found.lines.value;
  const mark = query.has("regex") ? "" : (query.get("text") ?? "");
  if (found.error.value) return <Fault error={found.error.value} />;
  return (
    <>
      {found.lostBytes.value > 0 && <p class="soft">{found.lostBytes.value} bytes were deleted before they could be shown.</p>}
      <LineList lines={lines} mark={mark} caseless={!query.has("case")} found={found} />
      {!lines.length && found.line.value === "live" && <Empty>No line matches{still ? "" : " yet; new ones come by themselves"}.</Empty>}
    </>
  );
}

interface LineListProps {
  lines: readonly LogLine[];
  mark: string;
  caseless: boolean;
  found: LogLines;
}

function LineList({ lines, mark, caseless, found }: LineListProps) {
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  useLayoutEffect(() => {
    const panel = box.current;
    if (panel && atEnd.current) panel.scrollTop = panel.scrollHeight;
  }, [lines]);
  const scrolled = (): void => {
    const panel = box.current;
    if (panel) atEnd.current = panel.scrollHeight - panel.scrollTop - panel.clientHeight < 30;
  };
  const workers = new Set(lines.map((one) => one.worker_id)).size;
  return (
    <div class="log" ref={box} onScroll={scrolled} tabIndex={0} role="log" aria-label="Lines">
      {lines.length >= FIRST && !found.noOlder.value && (
        <button type="button" class="quiet" onClick={() => void found.older()}>
          Show older lines
        </button>
      )}
      {lines.map((one) => (
        <p key={one.cursor} class={one.stream}>
          <time dateTime={one.at} title={one.at}>
            {new Date(one.at).toLocaleTimeString(undefined, { hour12: false })}
          </time>{" "}
          {workers > 1 && (
            <>
              <a href={link("workers", one.worker_id)} title={`${one.endpoint} ${one.worker_id}`}>
                {one.worker_id.slice(-4)}
              </a>{" "}
            </>
          )}
          {one.stream !== "stdout" && <b>{one.stream} </b>}
          <Marked text={shortened(plain(one.text))} mark={mark} caseless={caseless} />
        </p>
      ))}
    </div>
  );
}

function Marked({ text, mark, caseless }: { text: string; mark: string; caseless: boolean }) {
  if (!mark) return <>{text}</>;
  const inText = caseless ? text.toLowerCase() : text;
  const wanted = caseless ? mark.toLowerCase() : mark;
  const at = inText.indexOf(wanted);
  if (at < 0 || inText.length !== text.length) return <>{text}</>;
  const end = at + wanted.length;
  return (
    <>
      {text.slice(0, at)}
      <mark>{text.slice(at, end)}</mark>
      {text.slice(end)}
    </>
  );
}
