// What happened, newest first, and as it happens.
import { useEffect, useState } from "preact/hooks";
import { get, withQuery } from "../api/client";
import { follow } from "../api/streams";
import type { Event as BoxEvent, EventPage } from "../api/types";
import { link, route, setQuery } from "../router";
import { EndpointChoice } from "../ui/choice";
import { Age, Cell, Empty, Fault, Table } from "../ui/parts";
import { plain, shortened } from "../ui/plain";

const HELD_MAX = 1000;

export function EventsPage() {
  const endpoint = route.value.query.get("endpoint") ?? "";
  return (
    <>
      <h1>Events</h1>
      <form class="filters">
        <EndpointChoice value={endpoint} onChoice={(name) => setQuery({ endpoint: name })} />
      </form>
      <EventList key={endpoint} query={{ endpoint }} />
    </>
  );
}

interface EventListProps {
  query: { endpoint?: string; worker?: string };
  /** How many at first. */
  limit?: number;
}

export function EventList({ query, limit = 100 }: EventListProps) {
  const { events, next, error, older } = useEvents(query, limit);
  if (error) return <Fault error={error} />;
  if (!events) return <p class="soft">Asking…</p>;
  if (!events.length) return <Empty>Nothing has happened yet.</Empty>;
  return (
    <>
      <Table label="Events" heads={["When", "Event", "Endpoint", "Facts"]}>
        {events.map((one) => (
          <tr key={one.seq}>
            <Cell head="When">
              <Age at={one.at} />
            </Cell>
            <Cell head="Event" cls="nowrap">
              <code>{one.kind}</code>
            </Cell>
            <Cell head="Endpoint" cls="nowrap">
              {one.endpoint && <a href={link("endpoints", one.endpoint)}>{one.endpoint}</a>}
              {one.worker_id && (
                <a class="under" href={link("workers", one.worker_id)}>
                  {one.worker_id}
                </a>
              )}
            </Cell>
            <Cell head="Facts" cls="why">
              <Facts facts={one.facts} />
            </Cell>
          </tr>
        ))}
      </Table>
      {next && (
        <button type="button" onClick={older}>
          Show older events
        </button>
      )}
    </>
  );
}

function useEvents(query: EventListProps["query"], limit: number) {
  const [events, setEvents] = useState<readonly BoxEvent[] | null>(null);
  const [next, setNext] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let end = (): void => undefined;
    let gone = false;
    const begin = async (): Promise<void> => {
      const page = await get<EventPage>(withQuery("/v1/events", { ...query, limit }));
      if (gone) return;
      setEvents(page.items);
      setNext(page.next);
      end = follow({
        path: () => withQuery("/v1/events", { ...query, follow: true }),
        lastId: String(page.items[0]?.seq ?? ""),
        onRefusal: setError,
        onEvent: ({ data }) => {
          const one = JSON.parse(data) as BoxEvent;
          setEvents((held) => [one, ...(held ?? [])].slice(0, HELD_MAX));
        },
      });
    };
    begin().catch(setError);
    return () => {
      gone = true;
      end();
    };
  }, []);
  const older = (): void => {
    get<EventPage>(withQuery("/v1/events", { ...query, limit: 100, cursor: next ?? "" })).then((page) => {
      setEvents((held) => [...(held ?? []), ...page.items]);
      setNext(page.next);
    }, setError);
  };
  return { events, next, error, older };
}

/** Facts in a line; those of many lines can be opened. */
export function Facts({ facts }: { facts: Readonly<Record<string, unknown>> }) {
  return (
    <>
      {Object.entries(facts).map(([name, value]) => {
        const text = plain(typeof value === "string" ? value : JSON.stringify(value));
        if (text.length > 160 || text.includes("\n")) {
          return (
            <details key={name}>
              <summary>{name}</summary>
              <pre>{shortened(text)}</pre>
            </details>
          );
        }
        return (
          <span key={name} class="pair">
            <span class="soft">{name}</span> {text}{" "}
          </span>
        );
      })}
    </>
  );
}
