// Buttons that change something: disabled for keys that may not, asking first where it cannot be undone.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { may } from "../api/client";

interface Question {
  title: string;
  text: string;
  verb: string;
  answer: (yes: boolean) => void;
}

const question = signal<Question | null>(null);

/** What was done, or why not; read out by screen readers. */
export const notice = signal<{ text: string; bad: boolean } | null>(null);
let noticeTimer: ReturnType<typeof setTimeout> | undefined;

export function tell(text: string, bad = false): void {
  clearTimeout(noticeTimer);
  notice.value = { text, bad };
  noticeTimer = setTimeout(() => {
    notice.value = null;
  }, bad ? 15_000 : 5000);
}

export function askFirst(title: string, text: string, verb: string): Promise<boolean> {
  return new Promise((answer) => {
    question.value = { title, text, verb, answer };
  });
}

interface ActionProps {
  children: ComponentChildren;
  /** Does it; what it returns is told. */
  run: () => Promise<string>;
  /** Asked before; none for what can be undone. */
  ask?: { title: string; text: string };
  scope?: "write" | "admin" | "any";
  danger?: boolean;
  label?: string;
}

export function Action({ children, run, ask, scope = "write", danger, label }: ActionProps) {
  const [busy, setBusy] = useState(false);
  const allowed = scope === "any" || may(scope);
  const click = async (): Promise<void> => {
    if (ask && !(await askFirst(ask.title, ask.text, String(children)))) return;
    setBusy(true);
    try {
      tell(await run());
    } catch (error) {
      tell(error instanceof Error ? error.message : String(error), true);
    } finally {
      setBusy(false);
    }
  };
  return (
    <button
      type="button"
      class={danger ? "danger" : ""}
      disabled={busy || !allowed}
      title={allowed ? undefined : `Needs a key with the scope ${scope}.`}
      aria-label={label}
      onClick={() => void click()}
    >
      {children}
    </button>
  );
}

/** The one question that may be open. */
export function QuestionBox() {
  const box = useRef<HTMLDialogElement>(null);
  const asked = question.value;
  useEffect(() => {
    if (asked) box.current?.showModal();
  }, [asked]);
  if (!asked) return null;
  const answer = (yes: boolean): void => {
    box.current?.close(); // gives the focus back to where it was
    question.value = null;
    asked.answer(yes);
  };
  return (
    <dialog ref={box} aria-labelledby="question-title" onCancel={() => answer(false)}>
      <h2 id="question-title">{asked.title}</h2>
      <p>{asked.text}</p>
      <div class="row end">
        <button type="button" onClick={() => answer(false)}>
          Keep
        </button>
        <button type="button" class="danger" onClick={() => answer(true)}>
          {asked.verb}
        </button>
      </div>
    </dialog>
  );
}

export function NoticeBox() {
  const told = notice.value;
  return (
    <div class="notice-place" role="status" aria-live="polite">
      {told && (
        <p class={told.bad ? "notice bad" : "notice"}>
          <span>{told.text}</span>
          <button type="button" class="quiet" aria-label="Close this message" onClick={() => (notice.value = null)}>
            ×
          </button>
        </p>
      )}
    </div>
  );
}
