// Webhooks: who is called when something happens; make one.
import { useState } from "preact/hooks";
import { call, may, withQuery } from "../api/client";
import type { NewWebhook, Webhook, WebhookPage } from "../api/types";
import { link } from "../router";
import { EndpointChoice } from "../ui/choice";
import { FormFault, TextField, useSending } from "../ui/form";
import { useLoaded } from "../ui/loading";
import { Paging, usePlace } from "../ui/paging";
import { Age, Cell, Empty, Fault, Table, Word } from "../ui/parts";
import { plain } from "../ui/plain";

const FIELDS = ["url", "types", "description"];

/** In the word that the command line has for it. */
export function stateOf(webhook: Webhook): string {
  if (!webhook.enabled) return "disabled";
  return webhook.failures ? "failing" : "active";
}

export function WebhooksPage() {
  const place = usePlace();
  const { data, error, again } = useLoaded<WebhookPage>(withQuery("/v1/webhooks", { limit: 100, cursor: place.cursor }), 5000);
  return (
    <>
      <h1>Webhooks</h1>
      <Fault error={error} />
      {!data && !error && <p class="soft">Asking…</p>}
      {data?.items.length === 0 && place.isFirst && (
        <Empty>
          No webhooks. One is called when something happens; make it here, or with <code>gpud webhook create https://…</code>.
        </Empty>
      )}
      {data && data.items.length > 0 && (
        <Table label="Webhooks" heads={["Webhook", "State", "Is told", "Endpoint", "Made"]}>
          {data.items.map((one) => (
            <tr key={one.id}>
              <Cell head="Webhook">
                <a href={link("webhooks", one.id)}>{one.url}</a>
                <span class="under">{one.description ? plain(one.description) : one.id}</span>
              </Cell>
              <Cell head="State">
                <Word word={stateOf(one)} />
                {one.disabled_reason && <span class="under">{plain(one.disabled_reason)}</span>}
              </Cell>
              <Cell head="Is told">{one.types.join(", ")}</Cell>
              <Cell head="Endpoint">{one.endpoint || "all"}</Cell>
              <Cell head="Made">
                <Age at={one.created_at} />
              </Cell>
            </tr>
          ))}
        </Table>
      )}
      <Paging place={place} next={data?.next ?? null} words={["Back", "More"]} />
      <p>
        <a href={link("webhooks", "jobs")}>What was sent to addresses that jobs bring along</a>
      </p>
      {may("admin") ? <NewWebhookForm again={again} /> : <p class="soft">Only a key with the scope admin makes webhooks.</p>}
    </>
  );
}

function NewWebhookForm({ again }: { again: () => void }) {
  const [url, setUrl] = useState("");
  const [types, setTypes] = useState("");
  const [endpoint, setEndpoint] = useState("");
  const [description, setDescription] = useState("");
  const [made, setMade] = useState<NewWebhook | null>(null);
  const sending = useSending();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    setMade(null);
    sending.send(async () => {
      const wanted = types.split(/[\s,]+/).filter(Boolean);
      setMade(await call<NewWebhook>("POST", "/v1/webhooks", { url: url.trim(), types: wanted.length ? wanted : ["*"], endpoint, description }));
      setUrl("");
      setTypes("");
      setDescription("");
      again();
    });
  };
  return (
    <form class="card form" onSubmit={submit}>
      <h2>New webhook</h2>
      <div class="fields">
        <TextField
          label="Address"
          field="url"
          type="url"
          value={url}
          onText={setUrl}
          sending={sending}
          required
          autocomplete="off"
          placeholder="https://app.example/hooks"
        />
        <TextField
          label="Is told"
          field="types"
          value={types}
          onText={setTypes}
          sending={sending}
          autocomplete="off"
          placeholder="*"
          about={
            <>
              Types such as <code>worker.failed</code>, families such as <code>job.*</code>, or <code>*</code>; a space between them.
            </>
          }
        />
        <div class="field">
          <EndpointChoice value={endpoint} onChoice={setEndpoint} />
        </div>
        <TextField label="Description" field="description" value={description} onText={setDescription} sending={sending} autocomplete="off" about="For people." />
      </div>
      <FormFault error={sending.error} fields={FIELDS} />
      <div class="row">
        <button type="submit" class="primary" disabled={sending.busy}>
          Make a webhook
        </button>
      </div>
      {made?.secret && (
        <p role="status">
          Its signing secret, shown this once: <code class="token">{made.secret}</code>
        </p>
      )}
    </form>
  );
}
