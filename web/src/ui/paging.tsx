// The way through a list that comes in pages.
import { useState } from "preact/hooks";

export interface Place {
  /** Of the page that is shown; empty for the first. */
  cursor: string;
  isFirst: boolean;
  back: () => void;
  on: (cursor: string) => void;
}

export function usePlace(): Place {
  const [cursors, setCursors] = useState<readonly string[]>([]);
  return {
    cursor: cursors.at(-1) ?? "",
    isFirst: cursors.length === 0,
    back: () => setCursors(cursors.slice(0, -1)),
    on: (cursor) => setCursors([...cursors, cursor]),
  };
}

interface PagingProps {
  place: Place;
  /** As the API gave it with this page. */
  next: string | null;
  words?: readonly [string, string];
}

export function Paging({ place, next, words: [back, on] = ["Newer", "Older"] }: PagingProps) {
  if (place.isFirst && !next) return null;
  return (
    <nav class="row paging" aria-label="Pages of the list">
      {!place.isFirst && (
        <button type="button" onClick={place.back}>
          {back}
        </button>
      )}
      {next && (
        <button type="button" onClick={() => place.on(next)}>
          {on}
        </button>
      )}
    </nav>
  );
}
