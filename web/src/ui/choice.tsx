// A choice among words, such as one of the endpoints.
import type { ComponentChildren } from "preact";
import { endpoints } from "../live/state";

interface ChoiceProps {
  name: string;
  value: string;
  words: readonly string[];
  /** What an empty word is called. */
  empty?: string;
  onChoice: (word: string) => void;
  children?: ComponentChildren;
}

export function Choice({ name, value, words, empty = "all", onChoice, children }: ChoiceProps) {
  return (
    <label>
      {name}
      <select value={value} onChange={(event) => onChoice(event.currentTarget.value)}>
        {words.map((one) => (
          <option key={one} value={one}>
            {one || empty}
          </option>
        ))}
      </select>
      {children}
    </label>
  );
}

/** One of the endpoints, or all of them; one that is gone may still be asked for. */
export function EndpointChoice({ value, onChoice }: { value: string; onChoice: (name: string) => void }) {
  const names = endpoints.value.map((one) => one.name);
  const gone = value && !names.includes(value) ? [value] : [];
  return <Choice name="Endpoint" value={value} words={["", ...gone, ...names]} onChoice={onChoice} />;
}
