// One field of the form: what it means, what the API says is wrong with it.
import { Told } from "../ui/told";
import type { Field } from "./schema";

interface FieldProps {
  field: Field;
  text: string;
  fault: string;
  /** It cannot be changed any more. */
  fixed?: boolean;
  onText: (text: string) => void;
}

export function FieldRow({ field, text, fault, fixed = false, onText }: FieldProps) {
  const id = `field-${field.path}`;
  const about = `${id}-about`;
  const wrong = `${id}-wrong`;
  const told = { "aria-describedby": fault ? `${wrong} ${about}` : about, "aria-invalid": fault !== "", id, disabled: fixed };
  const placeholder = field.fallback === undefined || typeof field.fallback === "object" ? "" : String(field.fallback);
  return (
    <div class={`field ${field.kind}`}>
      <label for={id}>
        <code>{field.path}</code>
      </label>
      {field.kind === "choice" ? (
        <select {...told} value={text || placeholder} onChange={(event) => onText(event.currentTarget.value)}>
          {field.words.map((word) => (
            <option key={word}>{word}</option>
          ))}
        </select>
      ) : field.kind === "switch" ? (
        <input {...told} type="checkbox" checked={text === "true"} onChange={(event) => onText(String(event.currentTarget.checked))} />
      ) : field.kind === "lines" || field.kind === "pairs" || field.kind === "json" ? (
        <textarea {...told} rows={Math.min(8, text.split("\n").length + 1)} spellcheck={false} value={text} onInput={(event) => onText(event.currentTarget.value)} />
      ) : (
        <input
          {...told}
          type="text"
          inputMode={field.kind === "number" ? "decimal" : "text"}
          spellcheck={false}
          autocomplete="off"
          placeholder={placeholder}
          value={text}
          onInput={(event) => onText(event.currentTarget.value)}
        />
      )}
      {fault && (
        <p class="wrong" id={wrong}>
          {fault}
        </p>
      )}
      <p class="about" id={about}>
        {HINTS[field.kind]} <Told text={field.text} />
      </p>
    </div>
  );
}

const HINTS: Record<string, string> = { lines: "One a line.", pairs: "NAME=value, one a line.", json: "JSON." };
