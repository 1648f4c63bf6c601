// Asks the API, with the key of this browser tab, and tells what it refuses in its own words.
import { signal } from "@preact/signals";
import type { OwnKey, Problem } from "./types";

const KEPT_AS = "gpud.key";

/** The key is kept by this tab alone, and gone when the tab is closed. It is never a cookie. */
export const key = signal<string>(sessionStorage.getItem(KEPT_AS) ?? "");

/** What the key may do; null until the API has said so. */
export const scopes = signal<readonly string[] | null>(null);

/** Why the sign-in page is shown again; empty at first. */
export const signedOutWhy = signal<string>("");

/** A refusal, as the API said it. */
export class ApiProblem extends Error {
  constructor(
    readonly status: number,
    readonly problem: Partial<Problem>,
  ) {
    super(problem.detail ?? `The daemon answered with status ${status}.`);
  }

  get fields(): Readonly<Record<string, string>> {
    return this.problem.fields ?? {};
  }
}

/** The daemon could not be reached at all. */
export class Unreachable extends Error {
  constructor() {
    super("The daemon does not answer. This page tries again by itself.");
  }
}

export function may(scope: "read" | "write" | "exec" | "admin"): boolean {
  const held = scopes.value ?? [];
  return held.includes("admin") || held.includes(scope);
}

export async function signIn(given: string): Promise<void> {
  const own = await ask<OwnKey>("GET", "/v1/own-key", undefined, given);
  if (!own.scopes.includes("admin") && !own.scopes.includes("read")) {
    const has = own.scopes.join(", ");
    throw new Error(`This key has the scopes ${has}; the dashboard needs read. An administrator can make one.`);
  }
  sessionStorage.setItem(KEPT_AS, given);
  signedOutWhy.value = "";
  scopes.value = own.scopes;
  key.value = given;
}

export function signOut(why = ""): void {
  sessionStorage.removeItem(KEPT_AS);
  signedOutWhy.value = why;
  key.value = "";
  scopes.value = null;
}

const LEARN_FIRST_MS = 500;
const LEARN_LATEST_MS = 15_000;

/** Ask what the kept key may do, again until the API has said so; ends when the returned function is called. */
export function learnScopes(): () => void {
  let ended = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const learn = (pauseMs: number): void => {
    get<OwnKey>("/v1/own-key").then(
      (own) => {
        if (!ended) scopes.value = own.scopes;
      },
      () => {
        if (!ended) timer = setTimeout(learn, pauseMs, Math.min(pauseMs * 2, LEARN_LATEST_MS));
      },
    );
  };
  if (scopes.value === null) learn(LEARN_FIRST_MS);
  return () => {
    ended = true;
    clearTimeout(timer);
  };
}

export function get<T>(path: string): Promise<T> {
  return call<T>("GET", path);
}

export async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  try {
    return await ask<T>(method, path, body, key.value);
  } catch (error) {
    if (error instanceof ApiProblem && error.status === 401) signOut(error.message);
    throw error;
  }
}

export function bearer(): Record<string, string> {
  return { Authorization: `Bearer ${key.value}` };
}

/** A path with its parameters; those that are empty are left out. */
export function withQuery(path: string, query: Record<string, string | number | boolean | undefined>): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "" && value !== false);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text ? `${path}?${text}` : path;
}

export async function problemOf(response: Response): Promise<ApiProblem> {
  const text = await response.text();
  try {
    return new ApiProblem(response.status, JSON.parse(text) as Problem);
  } catch {
    return new ApiProblem(response.status, {});
  }
}

async function ask<T>(method: string, path: string, body: unknown, withKey: string): Promise<T> {
  const headers: Record<string, string> = { Authorization: `Bearer ${withKey}`, Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response: Response;
  try {
    const text = body === undefined ? null : JSON.stringify(body);
    response = await fetch(path, { method, headers, body: text, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Unreachable();
  }
  if (!response.ok) throw await problemOf(response);
  return (response.status === 204 ? undefined : await response.json()) as T;
}
