// What was deployed of an endpoint, what became of it, and the way back.
import { call } from "../api/client";
import type { RevisionPage } from "../api/types";
import { link } from "../router";
import { Action } from "../ui/actions";
import { useLoaded } from "../ui/loading";
import { Age, Cell, Empty, Fault, Table, Word } from "../ui/parts";

export function RevisionsPage({ name }: { name: string }) {
  const path = `/v1/endpoints/${encodeURIComponent(name)}`;
  const { data, error, again } = useLoaded<RevisionPage>(`${path}/revisions`, 5000);
  const back = async (revision: string, number: number): Promise<string> => {
    await call("POST", `${path}/rollback`, { revision });
    again();
    return `${name} goes back to revision ${number}.`;
  };
  return (
    <>
      <p class="crumbs">
        <a href="#/">Overview</a>
        <a href={link("endpoints", name)}>{name}</a>
      </p>
      <h1>Revisions of {name}</h1>
      <Fault error={error} />
      {data?.items.length === 0 && <Empty>There is none yet.</Empty>}
      {data && data.items.length > 0 && (
        <Table label="Revisions" heads={["Number", "State", "Image", "Deployed", ""]}>
          {data.items.map((one) => (
            <tr key={one.number}>
              <Cell head="Number">
                {one.number} <code class="soft">{one.revision.slice(0, 12)}</code>
              </Cell>
              <Cell head="State">
                <Word word={one.state} /> <span class="under">{one.detail}</span>
              </Cell>
              <Cell head="Image">
                {one.image}
                <span class="under">{one.pin}</span>
              </Cell>
              <Cell head="Deployed">
                <Age at={one.created_at} />
              </Cell>
              <Cell head="">
                {one.state !== "current" && one.state !== "deploying" && (
                  <Action
                    ask={{ title: `Go back to revision ${one.number}?`, text: "It is rolled out as any change is." }}
                    run={() => back(one.revision, one.number)}
                  >
                    Go back
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
