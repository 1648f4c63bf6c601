// Deploys an endpoint or changes one; whether a spec is right is for the API to say, field by field.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiProblem, call, may } from "../api/client";
import type { DryRun, Endpoint, Template, TemplateList } from "../api/types";
import { go, link, route, setQuery } from "../router";
import { DryRunResult } from "../spec/dryrun";
import { FieldRow } from "../spec/fields";
import { type Field, type Section, specSections } from "../spec/schema";
import { changesFrom, type Json, type Spec, specFrom, type Texts, textOf, valueAt } from "../spec/values";
import { tell } from "../ui/actions";
import { Choice } from "../ui/choice";
import { useLoaded } from "../ui/loading";
import { Fault } from "../ui/parts";
import { plain } from "../ui/plain";
import { Told } from "../ui/told";

const FIRST = [
  "name",
  "image",
  "type",
  "port",
  "command",
  "env",
  "gpus.count",
  "gpus.memory_mib",
  "scale.min_workers",
  "scale.max_workers",
  "scale.idle_timeout_s",
  "health.path",
  "volumes",
  "registry",
];

function useSections(): { sections: readonly Section[] | null; error: unknown } {
  const [sections, setSections] = useState<readonly Section[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    specSections().then(setSections, setError);
  }, []);
  return { sections, error };
}

export function DeployPage() {
  const { sections, error } = useSections();
  const templates = useLoaded<TemplateList>("/v1/templates");
  const wanted = route.value.query.get("template") ?? "";
  const chosen = templates.data?.items.find((one) => one.name === wanted);
  const isSure = !wanted || templates.data !== null || templates.error !== null;
  return (
    <>
      <h1>Deploy</h1>
      <Fault error={error ?? templates.error} />
      {templates.data && <TemplateChoice templates={templates.data.items} chosen={chosen} />}
      {wanted && templates.data && !chosen && <Fault error={`There is no template named ${wanted}. Choose one of the list, or fill in the form.`} />}
      {sections && isSure && <SpecForm key={chosen?.name ?? ""} sections={sections} before={null} start={(chosen?.spec ?? {}) as Spec} />}
    </>
  );
}

function TemplateChoice({ templates, chosen }: { templates: readonly Template[]; chosen: Template | undefined }) {
  const choose = (template: string): void => setQuery({ template });
  return (
    <section class="card" aria-label="Template">
      <div class="filters">
        <Choice name="Start from the template" value={chosen?.name ?? ""} words={["", ...templates.map((one) => one.name)]} empty="none" onChoice={choose} />
        <p class="about">{chosen ? plain(chosen.about) : "Specs of common servers, which come with gpud. A choice fills in the form anew."}</p>
      </div>
      {chosen && (
        <details>
          <summary>
            As a file for <code>gpud apply -f</code>
          </summary>
          <pre>{plain(chosen.text)}</pre>
        </details>
      )}
    </section>
  );
}

export function EditPage({ name }: { name: string }) {
  const { sections, error } = useSections();
  const loaded = useLoaded<Endpoint>(`/v1/endpoints/${encodeURIComponent(name)}`);
  return (
    <>
      <p class="crumbs">
        <a href="#/">Overview</a>
        <a href={link("endpoints", name)}>{name}</a>
      </p>
      <h1>Edit {name}</h1>
      <Fault error={error ?? loaded.error} />
      {sections && loaded.data && <SpecForm key={loaded.data.revision} sections={sections} before={loaded.data.spec as unknown as Spec} />}
    </>
  );
}

interface FormProps {
  sections: readonly Section[];
  /** The spec to change; null for a new endpoint. */
  before: Spec | null;
  /** What the form of a new endpoint begins with. */
  start?: Spec;
}

function SpecForm({ sections, before, start = {} }: FormProps) {
  const fields = sections.flatMap((section) => section.fields);
  const [texts, setTexts] = useState<Texts>(() => textsAtFirst(fields, before ?? start));
  const [fault, setFault] = useState<unknown>(null);
  const [foreseen, setForeseen] = useState<DryRun | null>(null);
  const [busy, setBusy] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const faults = fault instanceof ApiProblem ? fault.fields : {};
  const faultOf = (path: string): string => faultsAt(faults, path);
  const send = async (work: () => Promise<void>): Promise<void> => {
    setBusy(true);
    setFault(null);
    setForeseen(null);
    try {
      await work();
    } catch (error) {
      setFault(error);
    } finally {
      setBusy(false);
    }
  };
  useEffect(() => {
    if (fault) showFirstFault(form.current);
  }, [fault]);
  const tryIt = () =>
    send(async () => setForeseen(await call<DryRun>("POST", "/v1/dry-runs", wholeSpec(fields, texts, before))));
  const deploy = () =>
    send(async () => {
      const done = await deployed(fields, texts, before);
      tell(before ? `${done.name} is changed.` : `${done.name} is deployed.`);
      go("endpoints", done.name);
    });
  const rows = (list: readonly Field[]) =>
    list.map((field) => (
      <FieldRow
        key={field.path}
        field={field}
        text={texts[field.path] ?? ""}
        fault={faultOf(field.path)}
        fixed={before !== null && (field.path === "name" || field.path === "type")}
        onText={(text) => setTexts((held) => ({ ...held, [field.path]: text }))}
      />
    ));
  const unplaced = Object.entries(faults).filter(([path]) => !fields.some((field) => isAt(path, field.path)));
  return (
    <form ref={form} class="form spec" noValidate onSubmit={(event) => (event.preventDefault(), void deploy())}>
      <div class="fields">{rows(FIRST.flatMap((path) => fields.filter((field) => field.path === path)))}</div>
      {sections.map((section) => {
        const more = section.fields.filter((field) => !FIRST.includes(field.path));
        const wrong = more.some((field) => faultOf(field.path));
        const isFilled = more.some((field) => valueAt(start, field.path) !== undefined);
        return (
          <details key={section.name} open={wrong || isFilled || undefined}>
            <summary>
              <code>{section.name || "more"}</code> <Told text={section.text} />
            </summary>
            <div class="fields">{rows(more)}</div>
          </details>
        );
      })}
      {unplaced.map(([path, why]) => (
        <Fault key={path} error={`${path}: ${why}`} />
      ))}
      {Object.keys(faults).length === 0 && <Fault error={fault} />}
      <div class="row bar">
        <button type="button" disabled={busy || !may("write")} onClick={() => void tryIt()}>
          Dry run
        </button>
        <button type="submit" class="primary" disabled={busy || !may("write")}>
          {before ? "Change" : "Deploy"}
        </button>
        {!may("write") && <span class="soft">Needs a key with the scope write.</span>}
      </div>
      {foreseen && <DryRunResult found={foreseen} />}
    </form>
  );
}

function textsAtFirst(fields: readonly Field[], spec: Spec): Texts {
  const filled = fields.filter((field) => valueAt(spec, field.path) !== undefined);
  return Object.fromEntries(filled.map((field) => [field.path, textOf(field, valueAt(spec, field.path))]));
}

function wholeSpec(fields: readonly Field[], texts: Texts, before: Spec | null): Spec {
  const spec = specFrom(fields, texts);
  return before ? { ...spec, name: before["name"] as Json } : spec;
}

function deployed(fields: readonly Field[], texts: Texts, before: Spec | null): Promise<Endpoint> {
  if (!before) return call<Endpoint>("POST", "/v1/endpoints", specFrom(fields, texts));
  return call<Endpoint>("PATCH", `/v1/endpoints/${encodeURIComponent(String(before["name"]))}`, changesFrom(fields, texts, before));
}

/** A fault inside of a field, such as `volumes.0.target`, stands at the field. */
function isAt(fault: string, path: string): boolean {
  return fault === path || fault.startsWith(`${path}.`);
}

function faultsAt(faults: Readonly<Record<string, string>>, path: string): string {
  return Object.entries(faults)
    .filter(([at]) => isAt(at, path))
    .map(([at, why]) => (at === path ? why : `${at.slice(path.length + 1)}: ${why}`))
    .join("; ");
}

function showFirstFault(form: HTMLFormElement | null): void {
  const field = form?.querySelector<HTMLElement>('[aria-invalid="true"]');
  field?.scrollIntoView({ block: "center" });
  field?.focus();
}
