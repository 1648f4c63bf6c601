// Asks for an API key and keeps it in this tab.
import { useState } from "preact/hooks";
import { signedOutWhy, signIn } from "../api/client";
import { Fault } from "../ui/parts";

export function SignIn() {
  const [given, setGiven] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await signIn(given.trim());
    } catch (fault) {
      setError(fault);
      setBusy(false);
    }
  };
  return (
    <main class="signin" id="main">
      <form onSubmit={(event) => void submit(event)}>
        <h1>gpud</h1>
        <input class="unseen" name="username" autocomplete="username" value="gpud" aria-label="Account" aria-hidden="true" tabIndex={-1} readOnly />
        <label for="key">API key</label>
        <input
          id="key"
          name="password"
          type="password"
          autocomplete="current-password"
          spellcheck={false}
          required
          autofocus
          placeholder="gpud_…"
          value={given}
          onInput={(event) => setGiven(event.currentTarget.value)}
        />
        <button type="submit" class="primary" disabled={busy}>
          Sign in
        </button>
        <Fault error={error ?? signedOutWhy.value} />
        <p class="soft">
          Needs the scope <code>read</code>; to change things, <code>write</code> as well. On the box,{" "}
          <code>gpud key create --scope admin</code> makes one. The page keeps it in this tab and forgets it with it; a password
          manager may keep it for longer.
        </p>
      </form>
    </main>
  );
}
