// The fields of an endpoint's spec, read from the API's own description, so that the form has every one of them.
import { get } from "../api/client";

interface Schema {
  $ref?: string;
  type?: string;
  description?: string;
  default?: unknown;
  enum?: readonly string[];
  properties?: Record<string, Schema>;
  items?: Schema;
  additionalProperties?: Schema | boolean;
  anyOf?: readonly Schema[];
}

export type FieldKind = "text" | "number" | "choice" | "switch" | "lines" | "pairs" | "json";

export interface Field {
  /** Such as `scale.max_workers`, as the API's errors name it. */
  path: string;
  kind: FieldKind;
  text: string;
  words: readonly string[];
  fallback: unknown;
}

export interface Section {
  name: string;
  text: string;
  fields: readonly Field[];
}

const REF = "#/components/schemas/";
let asked: Promise<readonly Section[]> | null = null;

/** Every section of a spec; the first holds what stands outside of sections. */
export function specSections(): Promise<readonly Section[]> {
  asked ??= get<{ components: { schemas: Record<string, Schema> } }>("/v1/openapi.json").then(
    (document) => sectionsOf(document.components.schemas),
    (error: unknown) => {
      asked = null;
      throw error;
    },
  );
  return asked;
}

function sectionsOf(schemas: Record<string, Schema>): readonly Section[] {
  const whole = schemas["EndpointSpec"]?.properties ?? {};
  const outside: Field[] = [];
  const sections: Section[] = [];
  for (const [name, schema] of Object.entries(whole)) {
    const inner = schema.$ref ? schemas[schema.$ref.slice(REF.length)] : undefined;
    if (inner?.properties) {
      const fields = Object.entries(inner.properties).map(([field, one]) => fieldOf(`${name}.${field}`, one, schemas));
      sections.push({ name, text: oneLine(schema.description ?? inner.description), fields });
    } else {
      outside.push(fieldOf(name, schema, schemas));
    }
  }
  return [{ name: "", text: "", fields: outside }, ...sections];
}

function fieldOf(path: string, schema: Schema, schemas: Record<string, Schema>): Field {
  const meant = schema.$ref ? { ...schemas[schema.$ref.slice(REF.length)], ...schema } : schema;
  const words = meant.enum ?? [];
  return { path, kind: kindOf(meant), text: oneLine(schema.description), words, fallback: schema.default };
}

function kindOf(schema: Schema): FieldKind {
  if (schema.enum) return "choice";
  switch (schema.type) {
    case "integer":
    case "number":
      return "number";
    case "boolean":
      return "switch";
    case "string":
      return "text";
    case "array":
      return schema.items?.type === "string" ? "lines" : "json";
    case "object":
      return typeof schema.additionalProperties === "object" ? "pairs" : "json";
    default:
      return "json";
  }
}

function oneLine(text: string | undefined): string {
  return (text ?? "").replace(/\s+/g, " ");
}
