// What a page asks the API for: while it is asked for, what came, what went wrong; asked again on demand.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { get } from "../api/client";

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  again: () => void;
}

/** Ask for a path; an empty one asks for nothing. With a period it is asked again while the page is looked at. */
export function useLoaded<T>(path: string, periodMs = 0): Loaded<T> {
  const [found, setFound] = useState<{ path: string; data: T | null; error: unknown }>({ path: "", data: null, error: null });
  const turn = useRef(0);
  const ask = useCallback(() => {
    if (!path) return;
    const mine = ++turn.current;
    get<T>(path).then(
      (data) => mine === turn.current && setFound({ path, data, error: null }),
      (error: unknown) => mine === turn.current && setFound((held) => ({ path, data: held.path === path ? held.data : null, error })),
    );
  }, [path]);
  useEffect(() => {
    ask();
    if (!periodMs) return undefined;
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") ask();
    }, periodMs);
    return () => {
      turn.current += 1;
      clearInterval(timer);
    };
  }, [ask, periodMs]);
  const current = found.path === path;
  return { data: current ? found.data : null, error: current ? found.error : null, again: ask };
}
