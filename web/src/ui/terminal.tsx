// A terminal in a worker: bytes both ways over a WebSocket, shown by xterm.js, which is loaded when one is opened.
import { useEffect, useRef, useState } from "preact/hooks";
import { key, may } from "../api/client";
import { Fault } from "./parts";

interface Last {
  exit_code?: number;
  problem?: { detail?: string };
}

export function TerminalPanel({ worker }: { worker: string }) {
  const [command, setCommand] = useState("/bin/sh");
  const [running, setRunning] = useState<readonly string[] | null>(null);
  const [ended, setEnded] = useState("");
  const allowed = may("exec");
  if (running) {
    const end = (why: string): void => {
      setRunning(null);
      setEnded(why);
    };
    return <OpenTerminal worker={worker} command={running} onEnd={end} />;
  }
  const submit = (event: Event): void => {
    event.preventDefault();
    setEnded("");
    setRunning(command.trim().split(/\s+/));
  };
  return (
    <form class="filters" onSubmit={submit}>
      <label class="grow">
        Command
        <input value={command} required spellcheck={false} autocomplete="off" onInput={(event) => setCommand(event.currentTarget.value)} />
      </label>
      <button type="submit" disabled={!allowed} title={allowed ? undefined : "Needs a key with the scope exec."}>
        Open a terminal
      </button>
      {ended && <Fault error={ended} />}
    </form>
  );
}

interface OpenProps {
  worker: string;
  command: readonly string[];
  onEnd: (why: string) => void;
}

function OpenTerminal({ worker, command, onEnd }: OpenProps) {
  const place = useRef<HTMLDivElement>(null);
  const leave = useRef<HTMLButtonElement>(null);
  const hangUp = useRef<() => void>(() => undefined);
  useEffect(() => {
    let gone = false;
    void import("./xterm").then((loaded) => {
      if (!gone && place.current) hangUp.current = connect(loaded, place.current, worker, command, onEnd, leave.current);
    });
    return () => {
      gone = true;
      hangUp.current();
    };
  }, []);
  return (
    <>
      <div class="row">
        <span class="soft">
          {command.join(" ")} in {worker}. Shift+Escape leaves the terminal's keyboard.
        </span>
        <button ref={leave} type="button" onClick={() => onEnd("")}>
          Close the terminal
        </button>
      </div>
      <div class="shell-box" ref={place} />
    </>
  );
}

function connect(
  { Terminal, FitAddon, openIn }: typeof import("./xterm"),
  box: HTMLElement,
  worker: string,
  command: readonly string[],
  onEnd: (why: string) => void,
  leave: HTMLElement | null,
): () => void {
  const terminal = new Terminal({
    cursorBlink: false,
    fontFamily: "ui-monospace, DejaVu Sans Mono, Menlo, monospace",
    fontSize: 14,
    theme: { background: "#000000", foreground: "#e6ece9" },
    screenReaderMode: true,
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  openIn(terminal, box);
  box.scrollIntoView({ block: "nearest" });
  fit.fit();
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/v1/workers/${encodeURIComponent(worker)}/exec`);
  socket.binaryType = "arraybuffer";
  const coder = new TextEncoder();
  let why = "The line to the worker was lost.";
  const size = (): { rows: number; cols: number } => ({ rows: terminal.rows, cols: terminal.cols });
  socket.onopen = () => {
    socket.send(JSON.stringify({ token: key.value, command, tty: true, ...size() }));
    terminal.focus();
  };
  socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
    if (typeof data === "string") why = lastWord(JSON.parse(data) as Last);
    else terminal.write(new Uint8Array(data));
  };
  let over = false;
  socket.onclose = () => {
    if (!over) onEnd(why);
  };
  const ready = (): boolean => socket.readyState === WebSocket.OPEN;
  terminal.onData((text) => ready() && socket.send(coder.encode(text)));
  terminal.onBinary((text) => ready() && socket.send(Uint8Array.from(text, (char) => char.charCodeAt(0))));
  terminal.onResize(() => ready() && socket.send(JSON.stringify({ resize: size() })));
  terminal.attachCustomKeyEventHandler((event) => {
    if (event.key !== "Escape" || !event.shiftKey) return true;
    leave?.focus();
    return false;
  });
  const resize = new ResizeObserver(() => fit.fit());
  resize.observe(box);
  return () => {
    over = true;
    resize.disconnect();
    socket.close();
    terminal.dispose();
  };
}

function lastWord(last: Last): string {
  if (last.problem) return last.problem.detail ?? "The daemon refused.";
  return last.exit_code === undefined ? "" : `The command ended with code ${last.exit_code}.`;
}
