// Between a spec as JSON and the texts of a form's fields. What cannot be read is sent as it is: the API says what is wrong.
import type { Field } from "./schema";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type Spec = { [name: string]: Json };
/** What stands in each field, by its path. */
export type Texts = Readonly<Record<string, string>>;

export function valueAt(spec: Spec, path: string): Json | undefined {
  let at: Json | undefined = spec;
  for (const part of path.split(".")) {
    if (at === null || typeof at !== "object" || Array.isArray(at)) return undefined;
    at = at[part];
  }
  return at;
}

/** The text that stands for a value in its field. */
export function textOf(field: Field, value: unknown): string {
  if (value === undefined || value === null) return "";
  switch (field.kind) {
    case "lines":
      return Array.isArray(value) ? value.join("\n") : String(value);
    case "pairs":
      return Object.entries(value as Record<string, string>)
        .map(([name, text]) => `${name}=${text}`)
        .join("\n");
    case "json":
      return JSON.stringify(value, null, 2);
    default:
      return String(value);
  }
}

/** The value that a field's text stands for; undefined for an empty one, which takes the default. */
export function valueOf(field: Field, text: string): Json | undefined {
  if (text.trim() === "") return field.kind === "text" && field.fallback === "" ? "" : undefined;
  switch (field.kind) {
    case "number":
      return Number.isFinite(Number(text)) ? Number(text) : text;
    case "switch":
      return text === "true";
    case "lines":
      return text.split("\n").filter((line) => line !== "");
    case "pairs":
      return Object.fromEntries(
        text
          .split("\n")
          .filter((line) => line.trim() !== "")
          .map((line) => {
            const at = line.indexOf("=");
            return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1)];
          }),
      );
    case "json":
      return parsed(text);
    default:
      return text;
  }
}

/** A whole spec of what was typed; empty fields are left out and take their default. */
export function specFrom(fields: readonly Field[], texts: Texts): Spec {
  const spec: Spec = {};
  for (const field of fields) {
    const text = texts[field.path];
    if (text === undefined) continue;
    const value = valueOf(field, text);
    if (value !== undefined) put(spec, field.path, value);
  }
  return spec;
}

/** What has to be sent to change one spec into what was typed; null takes a field's default, or an env's name away. */
export function changesFrom(fields: readonly Field[], texts: Texts, before: Spec): Spec {
  const changes: Spec = {};
  for (const field of fields) {
    const text = texts[field.path];
    const held = valueAt(before, field.path);
    if (text === undefined || text === textOf(field, held)) continue;
    const value = valueOf(field, text) ?? null;
    put(changes, field.path, field.kind === "pairs" ? pairChanges(held, value) : value);
  }
  return changes;
}

function pairChanges(held: Json | undefined, value: Json): Json {
  const gone = Object.keys((held ?? {}) as object).map((name) => [name, null] as const);
  return { ...Object.fromEntries(gone), ...((value ?? {}) as object) };
}

function put(spec: Spec, path: string, value: Json): void {
  const [section = "", field] = path.split(".", 2);
  if (field === undefined) spec[section] = value;
  else spec[section] = { ...((spec[section] ?? {}) as Spec), [field]: value };
}

function parsed(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return text;
  }
}
