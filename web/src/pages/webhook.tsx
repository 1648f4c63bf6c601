// One webhook: how it is, what was sent to it, what became of each call, and the way to send it again.
import { useState } from "preact/hooks";
import { call, withQuery } from "../api/client";
import type { Delivery, DeliveryDetail, DeliveryPage, NewWebhook, Webhook } from "../api/types";
import { nowMs, spellMoment, spellUntil } from "../live/clock";
import { go, link } from "../router";
import { Action } from "../ui/actions";
import { Choice } from "../ui/choice";
import { useLoaded } from "../ui/loading";
import { Paging, usePlace } from "../ui/paging";
import { Age, Cell, Empty, Fact, Fault, Table, Word } from "../ui/parts";
import { plain, shortened } from "../ui/plain";
import { stateOf } from "./webhooks";

/** The addresses that jobs bring along have a secret and deliveries, and no row of their own. */
const JOBS = "jobs";
const STATES = ["", "waiting", "delivered", "failed", "dropped"];
const SINCE_HOURS: Record<string, number> = { "1 h": 1, "1 d": 24, "7 d": 168 };
const PERIOD_MS = 3000;

export function WebhookPage({ id }: { id: string }) {
  const path = `/v1/webhooks/${encodeURIComponent(id)}`;
  const { data, error, again } = useLoaded<Webhook>(id === JOBS ? "" : path, PERIOD_MS);
  const [secret, setSecret] = useState("");
  const rotate = async (): Promise<string> => {
    const done = await call<NewWebhook>("POST", `${path}/rotate`, {});
    setSecret(done.secret ?? "");
    again();
    return `Calls are signed with the old secret as well until ${spellMoment(done.old_secret_until ?? "")}.`;
  };
  return (
    <>
      <p class="crumbs">
        <a href="#/webhooks">Webhooks</a>
      </p>
      <div class="row">
        <h1>{id === JOBS ? "Addresses that jobs bring along" : (data?.url ?? id)}</h1>
        {data && <Word word={stateOf(data)} />}
      </div>
      <Fault error={error} />
      {data && <WebhookFacts webhook={data} />}
      <div class="row actions">
        {data && <Switches webhook={data} path={path} again={again} />}
        {(data || id === JOBS) && (
          <Action
            scope="admin"
            ask={{ title: "Rotate the secret?", text: "A new one is shown once. Calls are signed with both for a day, so that receivers can change over." }}
            run={rotate}
          >
            Rotate the secret
          </Action>
        )}
        {data && <ForgetButton webhook={data} path={path} />}
      </div>
      {secret && (
        <p role="status">
          The new signing secret, shown this once: <code class="token">{secret}</code>
        </p>
      )}
      {(data || id === JOBS) && <Deliveries id={id} />}
    </>
  );
}

function WebhookFacts({ webhook }: { webhook: Webhook }) {
  return (
    <>
      {webhook.disabled_reason && <p class="last-error">{plain(webhook.disabled_reason)}</p>}
      <dl class="facts">
        <Fact name="Is told">{webhook.types.join(", ")}</Fact>
        <Fact name="Endpoint">{webhook.endpoint ? <a href={link("endpoints", webhook.endpoint)}>{webhook.endpoint}</a> : "all"}</Fact>
        {webhook.description && <Fact name="Description">{plain(webhook.description)}</Fact>}
        <Fact name="Id">
          <code>{webhook.id}</code>
        </Fact>
        {webhook.failing_since && (
          <Fact name="Failing since">
            <Age at={webhook.failing_since} />, {webhook.failures} calls
          </Fact>
        )}
        {webhook.old_secret_until && Date.parse(webhook.old_secret_until) > nowMs() && (
          <Fact name="Old secret ends">
            <Age at={webhook.old_secret_until} />
          </Fact>
        )}
        <Fact name="Made">
          <Age at={webhook.created_at} />
        </Fact>
      </dl>
    </>
  );
}

function Switches({ webhook, path, again }: { webhook: Webhook; path: string; again: () => void }) {
  const test = async (): Promise<string> => {
    const sent = await call<DeliveryDetail>("POST", `${path}/test`);
    go("webhooks", webhook.id, sent.id);
    return "The test is on its way.";
  };
  const turn = async (): Promise<string> => {
    await call("PATCH", path, { enabled: !webhook.enabled });
    again();
    return webhook.enabled ? "It is not called any more." : "It is called from now on.";
  };
  const off = { title: "Disable it?", text: "It is not called any more, and what waits to be sent is dropped." };
  return (
    <>
      <Action run={test}>Test</Action>
      <Action scope="admin" run={turn} {...(webhook.enabled ? { ask: off } : {})}>
        {webhook.enabled ? "Disable" : "Enable"}
      </Action>
    </>
  );
}

function ForgetButton({ webhook, path }: { webhook: Webhook; path: string }) {
  const forget = async (): Promise<string> => {
    await call("DELETE", path);
    go("webhooks");
    return `${webhook.url} is forgotten.`;
  };
  return (
    <Action scope="admin" danger ask={{ title: "Forget it?", text: "Its secret and its deliveries are deleted." }} run={forget}>
      Forget
    </Action>
  );
}

function Deliveries({ id }: { id: string }) {
  const [state, setState] = useState("");
  return (
    <section aria-labelledby="deliveries">
      <h2 id="deliveries">Deliveries</h2>
      <form class="filters">
        <Choice name="State" value={state} words={STATES} onChoice={setState} />
        <Replay id={id} />
      </form>
      <DeliveryList key={state} id={id} state={state} />
    </section>
  );
}

function Replay({ id }: { id: string }) {
  const [since, setSince] = useState("1 d");
  const run = async (): Promise<string> => {
    const from = new Date(nowMs() - (SINCE_HOURS[since] ?? 24) * 3_600_000).toISOString();
    const done = await call<{ replayed: number }>("POST", `/v1/webhooks/${encodeURIComponent(id)}/replay`, { since: from });
    return `${done.replayed} deliveries are sent again.`;
  };
  return (
    <>
      <Choice name="In the last" value={since} words={Object.keys(SINCE_HOURS)} onChoice={setSince} />
      <Action run={run}>Send what was missed</Action>
    </>
  );
}

function DeliveryList({ id, state }: { id: string; state: string }) {
  const place = usePlace();
  const path = `/v1/webhooks/${encodeURIComponent(id)}/deliveries`;
  const { data, error, again } = useLoaded<DeliveryPage>(withQuery(path, { state, limit: 50, cursor: place.cursor }), PERIOD_MS);
  if (!data) return error ? <Fault error={error} /> : <p class="soft">Asking…</p>;
  return (
    <>
      <Fault error={error} />
      {data.items.length ? (
        <Table label="Deliveries" heads={["Delivery", "State", "Type", "Tries", "Next try", "Made", ""]}>
          {data.items.map((one) => (
            <tr key={one.id}>
              <Cell head="Delivery">
                <a href={link("webhooks", id, one.id)}>{one.id}</a>
                {id === JOBS && <span class="under">{one.url}</span>}
              </Cell>
              <Cell head="State">
                <Word word={one.state} />
              </Cell>
              <Cell head="Type">
                <code>{one.type}</code>
                {one.endpoint && <span class="under">{one.endpoint}</span>}
              </Cell>
              <Cell head="Tries">{one.attempts}</Cell>
              <Cell head="Next try">{one.next_at && spellUntil(one.next_at)}</Cell>
              <Cell head="Made">
                <Age at={one.created_at} />
              </Cell>
              <Cell head="">
                <Redeliver webhook={id} delivery={one} again={again} />
              </Cell>
            </tr>
          ))}
        </Table>
      ) : (
        <Empty>{state ? `No delivery is ${state}.` : "Nothing was sent yet."}</Empty>
      )}
      <Paging place={place} next={data.next} />
    </>
  );
}

function Redeliver({ webhook, delivery, again }: { webhook: string; delivery: Delivery; again: () => void }) {
  const run = async (): Promise<string> => {
    await call("POST", `/v1/webhooks/${encodeURIComponent(webhook)}/deliveries/${encodeURIComponent(delivery.id)}/redeliver`);
    again();
    return `${delivery.id} is sent again.`;
  };
  return (
    <Action label={`Send ${delivery.id} again`} run={run}>
      Send again
    </Action>
  );
}

export function WebhookDeliveryPage({ webhook, id }: { webhook: string; id: string }) {
  const path = `/v1/webhooks/${encodeURIComponent(webhook)}/deliveries/${encodeURIComponent(id)}`;
  const { data, error, again } = useLoaded<DeliveryDetail>(path, 1000);
  return (
    <>
      <p class="crumbs">
        <a href="#/webhooks">Webhooks</a>
        <a href={link("webhooks", webhook)}>{webhook}</a>
      </p>
      <div class="row">
        <h1>{id}</h1>
        {data && <Word word={data.state} />}
      </div>
      <Fault error={error} />
      {data && (
        <>
          <div class="row actions">
            <Redeliver webhook={webhook} delivery={data} again={again} />
          </div>
          <dl class="facts">
            <Fact name="Type">
              <code>{data.type}</code>
            </Fact>
            {data.endpoint && <Fact name="Endpoint">{data.endpoint}</Fact>}
            <Fact name="Address">{data.url}</Fact>
            <Fact name="Made">
              <Age at={data.created_at} />
            </Fact>
            {data.next_at && (
              <Fact name="Next try">{spellUntil(data.next_at)}</Fact>
            )}
          </dl>
          <Tries delivery={data} />
          <section>
            <h2>What was sent</h2>
            <pre>{shortened(plain(JSON.stringify(data.body, null, 2)))}</pre>
          </section>
        </>
      )}
    </>
  );
}

function Tries({ delivery }: { delivery: DeliveryDetail }) {
  return (
    <section aria-labelledby="tries">
      <h2 id="tries">Tries</h2>
      {delivery.log.length === 0 && <Empty>Not tried yet.</Empty>}
      {delivery.log.length > 0 && (
        <Table label="Tries" heads={["Try", "When", "Took", "Status", "What came of it"]}>
          {delivery.log.map((one) => (
            <tr key={one.number}>
              <Cell head="Try" cls="short">{one.number}</Cell>
              <Cell head="When">
                <Age at={one.at} />
              </Cell>
              <Cell head="Took" cls="number">
                {one.took_ms} ms
              </Cell>
              <Cell head="Status">{one.status ?? "no answer"}</Cell>
              <Cell head="What came of it" cls="why">
                {plain(one.error)}
                {one.answer && (
                  <details>
                    <summary>Answer</summary>
                    <pre>{shortened(plain(one.answer))}</pre>
                  </details>
                )}
              </Cell>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
