// Credentials for private images: stored, listed without their passwords, forgotten.
import { useState } from "preact/hooks";
import { call, may } from "../api/client";
import type { RegistryPage } from "../api/types";
import { Action, tell } from "../ui/actions";
import { FormFault, TextField, useSending } from "../ui/form";
import type { Loaded } from "../ui/loading";
import { Age, Cell, Empty, Fault, Table } from "../ui/parts";

const FIELDS = ["name", "host", "username", "password"];

export function Registries({ loaded }: { loaded: Loaded<RegistryPage> }) {
  const { data, error, again } = loaded;
  const forget = async (name: string): Promise<string> => {
    await call("DELETE", `/v1/registries/${encodeURIComponent(name)}`);
    again();
    return `The credential ${name} is forgotten.`;
  };
  return (
    <section aria-labelledby="registries">
      <h2 id="registries">Registries</h2>
      <Fault error={error} />
      {data?.items.length === 0 && <Empty>No registry credentials: only public images can be pulled.</Empty>}
      {data && data.items.length > 0 && (
        <Table label="Registries" heads={["Name", "Host", "Username", "Stored", ""]}>
          {data.items.map((one) => (
            <tr key={one.name}>
              <Cell head="Name">{one.name}</Cell>
              <Cell head="Host">{one.host}</Cell>
              <Cell head="Username">{one.username}</Cell>
              <Cell head="Stored">
                <Age at={one.created_at} />
              </Cell>
              <Cell head="">
                <Action
                  danger
                  scope="admin"
                  label={`Forget ${one.name}`}
                  ask={{ title: `Forget ${one.name}?`, text: "Its password is deleted. Images of endpoints that name it cannot be pulled with it any more." }}
                  run={() => forget(one.name)}
                >
                  Forget
                </Action>
              </Cell>
            </tr>
          ))}
        </Table>
      )}
      {may("admin") ? <CredentialForm again={again} /> : <p class="soft">Only a key with the scope admin stores credentials.</p>}
    </section>
  );
}

function CredentialForm({ again }: { again: () => void }) {
  const [name, setName] = useState("");
  const [host, setHost] = useState("");
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const sending = useSending();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    sending.send(async () => {
      await call("PUT", `/v1/registries/${encodeURIComponent(name.trim())}`, { host: host.trim(), username, password });
      tell(`Stored. Private images of ${host} deploy with registry ${name}.`);
      setName("");
      setHost("");
      setUsername("");
      setPassword("");
      again();
    });
  };
  return (
    <form class="card form" onSubmit={submit}>
      <h3>New credential</h3>
      <div class="fields">
        <TextField
          label="Name"
          field="name"
          value={name}
          onText={setName}
          sending={sending}
          required
          autocomplete="off"
          placeholder="ghcr"
          about="What deploys call it. One that is there already is replaced."
        />
        <TextField label="Host" field="host" value={host} onText={setHost} sending={sending} required autocomplete="off" placeholder="ghcr.io" />
        <TextField label="Username" field="username" value={username} onText={setUsername} sending={sending} required autocomplete="off" />
        <TextField
          label="Password or token"
          field="password"
          type="password"
          value={password}
          onText={setPassword}
          sending={sending}
          required
          autocomplete="new-password"
          about="Kept encrypted on the box and never shown again."
        />
      </div>
      <FormFault error={sending.error} fields={FIELDS} />
      <div class="row">
        <button type="submit" class="primary" disabled={sending.busy}>
          Store
        </button>
      </div>
    </form>
  );
}
