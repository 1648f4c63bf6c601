// Why something is not as it should be: the same reason, sentence and remedy as the API and the command line tell.
import type { EndpointState, PullProgress, Wait } from "../api/types";
import { nowMs, spellBytes, spellUntil } from "../live/clock";
import { Meter, Word } from "./parts";
import { plain } from "./plain";
import { Told } from "./told";

export function Waits({ waits }: { waits: readonly Wait[] }) {
  return (
    <ul class="waits">
      {waits.map((wait) => (
        <li key={wait.reason + wait.detail}>
          <Word word={wait.reason} /> {plain(wait.detail)}
          {wait.until && Date.parse(wait.until) > nowMs() && <span class="soft"> Expected {spellUntil(wait.until)}.</span>}
          {wait.remedy && (
            <span class="remedy">
              <Told text={wait.remedy} />
            </span>
          )}
        </li>
      ))}
    </ul>
  );
}

/** Everything an endpoint has to say about itself at once; nothing when all is well. */
export function Plight({ endpoint }: { endpoint: EndpointState }) {
  const { waits, last_error: lastError, pull } = endpoint;
  const said = waits.some((wait) => wait.detail.includes(lastError));
  if (!waits.length && !lastError && !pull) return null;
  return (
    <div class="plight">
      {waits.length > 0 && <Waits waits={waits} />}
      {pull && <PullMeter pull={pull} />}
      {lastError && !said && <p class="last-error">Last error: {plain(lastError)}</p>}
    </div>
  );
}

export function PullMeter({ pull }: { pull: PullProgress }) {
  const text = `${spellBytes(pull.bytes_done)} of ${spellBytes(pull.bytes_total)}, ${pull.layers_done} of ${pull.layers} layers`;
  return <Meter label="Pull" value={pull.bytes_done} max={pull.bytes_total} text={text} />;
}
