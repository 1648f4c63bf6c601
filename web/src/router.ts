// Which page is asked for: everything behind the #, so that the server knows one page only.
import { computed, signal } from "@preact/signals";

export interface Route {
  /** Parts of the path, decoded. */
  parts: readonly string[];
  query: URLSearchParams;
}

const hash = signal(location.hash);
addEventListener("hashchange", () => {
  hash.value = location.hash;
});

export const route = computed<Route>(() => {
  const [path = "", query = ""] = hash.value.replace(/^#/, "").split("?", 2);
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
});

export function link(...parts: string[]): string {
  return `#/${parts.map(encodeURIComponent).join("/")}`;
}

export function go(...parts: string[]): void {
  location.hash = link(...parts);
}

/** Change the query behind the page's path without a step in the history. */
export function setQuery(values: Record<string, string>): void {
  const given = Object.entries(values).filter(([, value]) => value !== "");
  const text = new URLSearchParams(given).toString();
  const target = `#/${route.value.parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
  history.replaceState(null, "", target);
  hash.value = target;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
