// API keys: who has one, what it may do; make one, disable one.
import { useState } from "preact/hooks";
import { call } from "../api/client";
import type { KeyPage, NewKey } from "../api/types";
import { Action } from "../ui/actions";
import { ForAdmins } from "../ui/allowed";
import { FormFault } from "../ui/form";
import { useLoaded } from "../ui/loading";
import { Age, Cell, Fault, Table } from "../ui/parts";

const SCOPES = ["read", "write", "admin", "exec", "metrics", "invoke:*"];

export function KeysPage() {
  return (
    <>
      <h1>Keys</h1>
      <ForAdmins what="sees keys">
        <Keys />
      </ForAdmins>
    </>
  );
}

function Keys() {
  const { data, error, again } = useLoaded<KeyPage>("/v1/keys?limit=500");
  const disable = async (id: string): Promise<string> => {
    await call("DELETE", `/v1/keys/${encodeURIComponent(id)}`);
    again();
    return `${id} is disabled for good.`;
  };
  return (
    <>
      <NewKeyForm again={again} />
      <Fault error={error} />
      {data && (
        <Table label="Keys" heads={["Key", "Scopes", "Made", "Last used", "Ends", ""]}>
          {data.items.map((one) => (
            <tr key={one.id}>
              <Cell head="Key">
                {one.label || <span class="soft">without a label</span>}
                <span class="under">{one.id}</span>
              </Cell>
              <Cell head="Scopes">{one.scopes.join(", ")}</Cell>
              <Cell head="Made">
                <Age at={one.created_at} />
              </Cell>
              <Cell head="Last used">
                <Age at={one.last_used_at} />
              </Cell>
              <Cell head="Ends">{one.disabled ? "disabled" : <Age at={one.expires_at} />}</Cell>
              <Cell head="">
                {!one.disabled && (
                  <Action
                    danger
                    scope="admin"
                    label={`Disable ${one.label || one.id}`}
                    ask={{ title: `Disable ${one.label || one.id}?`, text: "Whoever uses it is refused from now on. It cannot be enabled again." }}
                    run={() => disable(one.id)}
                  >
                    Disable
                  </Action>
                )}
              </Cell>
            </tr>
          ))}
        </Table>
      )}
    </>
  );
}

function NewKeyForm({ again }: { again: () => void }) {
  const [label, setLabel] = useState("");
  const [scopes, setScopes] = useState<readonly string[]>([]);
  const [other, setOther] = useState("");
  const [made, setMade] = useState<NewKey | null>(null);
  const [error, setError] = useState<unknown>(null);
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    setError(null);
    setMade(null);
    try {
      const wanted = [...scopes, ...other.split(/[\s,]+/).filter(Boolean)];
      setMade(await call<NewKey>("POST", "/v1/keys", { label, scopes: wanted }));
      setLabel("");
      again();
    } catch (fault) {
      setError(fault);
    }
  };
  const toggle = (scope: string, on: boolean): void =>
    setScopes(on ? [...scopes, scope] : scopes.filter((one) => one !== scope));
  return (
    <form class="card form" onSubmit={(event) => void submit(event)}>
      <h2>New key</h2>
      <label>
        Label
        <input value={label} maxLength={100} onInput={(event) => setLabel(event.currentTarget.value)} />
      </label>
      <fieldset class="row">
        <legend>Scopes</legend>
        {SCOPES.map((one) => (
          <label key={one} class="check">
            <input type="checkbox" checked={scopes.includes(one)} onChange={(event) => toggle(one, event.currentTarget.checked)} />
            {one}
          </label>
        ))}
      </fieldset>
      <label>
        Other scopes
        <input placeholder="invoke:llm" value={other} onInput={(event) => setOther(event.currentTarget.value)} />
      </label>
      <div class="row">
        <button type="submit" class="primary">
          Make a key
        </button>
      </div>
      <FormFault error={error} fields={[]} />
      {made?.token && (
        <p role="status">
          The key, shown this once: <code class="token">{made.token}</code>
        </p>
      )}
    </form>
  );
}
