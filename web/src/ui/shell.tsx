// What is around every page: the way to the others, how the line to the daemon is, and what is wrong with it.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { signOut } from "../api/client";
import { daemon, known, line, refusal } from "../live/state";
import { link, route } from "../router";
import { NoticeBox, QuestionBox } from "./actions";
import { THEMES, theme } from "./theme";

const PAGES = [
  ["", "Overview"],
  ["gpus", "GPUs"],
  ["images", "Images"],
  ["jobs", "Jobs"],
  ["logs", "Logs"],
  ["events", "Events"],
  ["usage", "Usage"],
  ["budgets", "Budgets"],
  ["webhooks", "Webhooks"],
  ["keys", "Keys"],
  ["audit-log", "Audit log"],
  ["deploy", "Deploy"],
] as const;

const open = signal(false);

export function Shell({ children }: { children: ComponentChildren }) {
  const here = route.value.parts[0] ?? "";
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        To the content
      </a>
      <header class="top">
        <a class="brand" href="#/">
          gpud
        </a>
        <LineWord />
        <button type="button" class="menu" aria-expanded={open.value} aria-controls="pages" onClick={() => (open.value = !open.value)}>
          Menu
        </button>
        <nav id="pages" class={open.value ? "open" : ""} aria-label="Pages" onClick={() => (open.value = false)}>
          {PAGES.map(([path, name]) => (
            <a key={path} href={link(path)} aria-current={isHere(here, path) ? "page" : undefined}>
              {name}
            </a>
          ))}
        </nav>
        <div class="tools">
          <label>
            <span class="unseen">Colours</span>
            <select value={theme.value} onChange={(event) => (theme.value = event.currentTarget.value)}>
              {THEMES.map((one) => (
                <option key={one}>{one}</option>
              ))}
            </select>
          </label>
          <button type="button" onClick={() => signOut()}>
            Sign out
          </button>
        </div>
      </header>
      <Troubles />
      <main id="main" tabIndex={-1}>
        {children}
      </main>
      <NoticeBox />
      <QuestionBox />
    </>
  );
}

function isHere(here: string, path: string): boolean {
  if (path === "") return here === "" || here === "endpoints" || here === "workers";
  return here === path;
}

function LineWord() {
  const words = { connecting: "connecting", live: "live", lost: "no connection" };
  return (
    <span class={`line ${line.value}`} role="status">
      {words[line.value]}
    </span>
  );
}

/** What is wrong with the daemon, or with the way to it. */
function Troubles() {
  const parts = Object.entries(daemon.value?.parts ?? {}).filter(([, fault]) => fault);
  const lost = line.value === "lost";
  if (!lost && !parts.length && !refusal.value) return null;
  return (
    <div class="troubles" role="alert">
      {refusal.value && <p>{refusal.value}</p>}
      {lost && (
        <p>
          The daemon does not answer. This page tries again by itself{known.value ? "; what it shows may be out of date" : ""}.
        </p>
      )}
      {parts.map(([part, fault]) => (
        <p key={part}>
          <b>{part}</b>: {fault}
        </p>
      ))}
    </div>
  );
}
