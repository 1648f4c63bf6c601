// The audit log: who changed what, from where, and whether it changed by that.
import { useState } from "preact/hooks";
import { withQuery } from "../api/client";
import type { AuditEntry, AuditLogPage as AuditPage } from "../api/types";
import { spellMoment } from "../live/clock";
import { route, setQuery } from "../router";
import { ForAdmins } from "../ui/allowed";
import { Choice } from "../ui/choice";
import { useLoaded } from "../ui/loading";
import { Paging, usePlace } from "../ui/paging";
import { Age, Cell, Empty, Fault, Table } from "../ui/parts";
import { plain } from "../ui/plain";

const SINCE_HOURS: Record<string, number> = { "1 h": 1, "1 d": 24, "7 d": 168, "30 d": 720 };
const SINCE = ["", ...Object.keys(SINCE_HOURS)];
const TEXTS = ["caller", "operation", "subject"] as const;
const HEADS = ["When", "Caller", "Operation", "Subject", "Status", "Change", "Detail"];
const PERIOD_MS = 5000;

export function AuditLogPage() {
  const query = route.value.query;
  return (
    <>
      <h1>Audit log</h1>
      <ForAdmins what="sees who changed what">
        <Filters query={query} />
        <Entries key={query.toString()} query={query} />
      </ForAdmins>
    </>
  );
}

function Filters({ query }: { query: URLSearchParams }) {
  const [texts, setTexts] = useState(() => Object.fromEntries(TEXTS.map((name) => [name, query.get(name) ?? ""])));
  const since = query.get("since") ?? "";
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    setQuery({ ...texts, since });
  };
  return (
    <form class="filters" role="search" onSubmit={submit}>
      {TEXTS.map((name) => (
        <label key={name}>
          {name[0]?.toUpperCase() + name.slice(1)}
          <input
            type="search"
            value={texts[name] ?? ""}
            placeholder={{ caller: "key_… or local", operation: "put_endpoint", subject: "endpoints/llm" }[name]}
            maxLength={name === "subject" ? 500 : 100}
            spellcheck={false}
            onInput={(event) => setTexts({ ...texts, [name]: event.currentTarget.value })}
          />
        </label>
      ))}
      <Choice name="Since" value={since} words={SINCE} empty="the beginning" onChoice={(word) => setQuery({ ...texts, since: word })} />
      <button type="submit">Search</button>
    </form>
  );
}

function Entries({ query }: { query: URLSearchParams }) {
  const place = usePlace();
  const [since] = useState(() => {
    const hours = SINCE_HOURS[query.get("since") ?? ""];
    return hours ? new Date(Date.now() - hours * 3_600_000).toISOString() : "";
  });
  const asked = Object.fromEntries(TEXTS.map((name) => [name, query.get(name) ?? ""]));
  const { data, error } = useLoaded<AuditPage>(withQuery("/v1/audit-log", { ...asked, since, limit: 50, cursor: place.cursor }), PERIOD_MS);
  if (!data) return error ? <Fault error={error} /> : <p class="soft">Asking…</p>;
  return (
    <>
      <Fault error={error} />
      {data.items.length ? (
        <Table label="Audit log" heads={HEADS}>
          {data.items.map((one) => (
            <Entry key={one.seq} entry={one} />
          ))}
        </Table>
      ) : (
        <Empty>{query.size ? "No such call." : "No call has changed anything yet."}</Empty>
      )}
      <Paging place={place} next={data.next} />
    </>
  );
}

function Entry({ entry }: { entry: AuditEntry }) {
  return (
    <tr>
      <Cell head="When" cls="nowrap">
        <Age at={entry.at} />
        <span class="under">{spellMoment(entry.at)}</span>
      </Cell>
      <Cell head="Caller" cls="nowrap">
        {entry.caller}
        <span class="under">from {plain(entry.source)}</span>
      </Cell>
      <Cell head="Operation" cls="nowrap">
        <code title={`${entry.method} ${plain(entry.path)}`}>{entry.operation}</code>
      </Cell>
      <Cell head="Subject" cls="thing">{plain(entry.subject)}</Cell>
      <Cell head="Status">{entry.status}</Cell>
      <Cell head="Change" cls="nowrap">
        <Change before={entry.before} after={entry.after} />
      </Cell>
      <Cell head="Detail" cls="why">
        {plain(entry.detail)}
      </Cell>
    </tr>
  );
}

/** SHA-256 of what the thing was declared to be before the call and after it; the first digits, the rest on demand. */
function Change({ before, after }: { before: string; after: string }) {
  if (before === after) return null;
  return (
    <details>
      <summary>
        <code>
          {before.slice(0, 8) || "-"} &gt; {after.slice(0, 8) || "-"}
        </code>
      </summary>
      <span class="under">
        before <code>{before || "nothing"}</code>
      </span>
      <span class="under">
        after <code>{after || "nothing"}</code>
      </span>
    </details>
  );
}
