// A small form: what its fields say is wrong with them is the API's to tell.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { ApiProblem } from "../api/client";
import { Fault } from "./parts";

export interface Sending {
  busy: boolean;
  error: unknown;
  /** Do something for the form; what goes wrong is kept. */
  send: (work: () => Promise<void>) => void;
}

export function useSending(): Sending {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const run = async (work: () => Promise<void>): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      await work();
    } catch (fault) {
      setError(fault);
    } finally {
      setBusy(false);
    }
  };
  return { busy, error, send: (work) => void run(work) };
}

/** What is wrong with a field, or with a part of it. */
export function faultAt(error: unknown, field: string): string {
  if (!(error instanceof ApiProblem)) return "";
  return Object.entries(error.fields)
    .filter(([path]) => path === field || path.startsWith(`${field}.`))
    .map(([, why]) => why)
    .join("; ");
}

interface TextFieldProps {
  label: string;
  /** As the API calls it. */
  field: string;
  value: string;
  onText: (text: string) => void;
  sending: Sending;
  about?: ComponentChildren;
  type?: "text" | "password" | "url";
  autocomplete?: string;
  placeholder?: string;
  required?: boolean;
}

export function TextField({ label, field, value, onText, sending, about, type = "text", ...rest }: TextFieldProps) {
  const fault = faultAt(sending.error, field);
  const id = `form-${field}`;
  const told = [fault && `${id}-wrong`, about && `${id}-about`].filter(Boolean).join(" ");
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        name={field}
        type={type as "text"} // the three take the same properties
        value={value}
        spellcheck={false}
        aria-invalid={fault !== ""}
        {...(told ? { "aria-describedby": told } : {})}
        {...rest}
        onInput={(event) => onText(event.currentTarget.value)}
      />
      {fault && (
        <p class="wrong" id={`${id}-wrong`}>
          {fault}
        </p>
      )}
      {about && (
        <p class="about" id={`${id}-about`}>
          {about}
        </p>
      )}
    </div>
  );
}

/** What went wrong and stands at no field of these. */
export function FormFault({ error, fields }: { error: unknown; fields: readonly string[] }) {
  if (!(error instanceof ApiProblem) || !Object.keys(error.fields).length) return <Fault error={error} />;
  const isPlaced = (path: string): boolean => fields.some((field) => path === field || path.startsWith(`${field}.`));
  const left = Object.entries(error.fields).filter(([path]) => !isPlaced(path));
  return <Fault error={left.map(([path, why]) => `${path}: ${why}`).join("; ")} />;
}
