// Images: what is on the box and when it was last needed, what is being pulled, and the way to bring and remove some.
import { useEffect, useState } from "preact/hooks";
import { call, may, withQuery } from "../api/client";
import type { Image, ImageGc, ImagePage, Prewarmed, RegistryPage } from "../api/types";
import { spellBytes } from "../live/clock";
import { pulls } from "../live/state";
import { link } from "../router";
import { Action, tell } from "../ui/actions";
import { Choice } from "../ui/choice";
import { FormFault, TextField, useSending } from "../ui/form";
import { useLoaded } from "../ui/loading";
import { Paging, usePlace } from "../ui/paging";
import { Age, Cell, Empty, Fault, Table, Word } from "../ui/parts";
import { plain } from "../ui/plain";
import { PullMeter } from "../ui/waits";
import { Registries } from "./registries";

const PERIOD_MS = 10_000;
const HEADS = ["Image", "Size", "Used by", "Last used", ""];

export function ImagesPage() {
  const registries = useLoaded<RegistryPage>("/v1/registries?limit=500");
  return (
    <>
      <h1>Images</h1>
      <PrewarmForm registries={registries.data?.items.map((one) => one.name) ?? []} />
      <Pulls />
      <ImageList />
      <Registries loaded={registries} />
    </>
  );
}

function PrewarmForm({ registries }: { registries: readonly string[] }) {
  const [image, setImage] = useState("");
  const [registry, setRegistry] = useState("");
  const sending = useSending();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    sending.send(async () => {
      const done = await call<Prewarmed>("POST", "/v1/images/prewarm", { image: image.trim(), registry });
      tell(`${done.image} is ${done.pin}; it is pulled if it is not on the box yet.`);
      setImage("");
    });
  };
  return (
    <form class="card form" onSubmit={submit}>
      <h2>Prewarm</h2>
      <div class="fields">
        <TextField
          label="Image"
          field="image"
          value={image}
          onText={setImage}
          sending={sending}
          required
          autocomplete="off"
          placeholder="vllm/vllm-openai:v0.11.0"
          about="Pulled now, before anyone asks, so that a first start does not wait for it."
        />
        {registries.length > 0 && (
          <div class="field">
            <Choice name="Registry" value={registry} words={["", ...registries]} empty="none: it is public" onChoice={setRegistry} />
          </div>
        )}
      </div>
      <FormFault error={sending.error} fields={["image"]} />
      <div class="row">
        <button type="submit" class="primary" disabled={sending.busy || !may("write")}>
          Prewarm
        </button>
        {!may("write") && <span class="soft">Needs a key with the scope write.</span>}
      </div>
    </form>
  );
}

function Pulls() {
  if (!pulls.value.length) return null;
  return (
    <section aria-labelledby="pulls">
      <h2 id="pulls">Being pulled</h2>
      <div class="cards">
        {pulls.value.map((one) => (
          <article key={one.pin} class="card" aria-label={`Pull of ${one.pin}`}>
            <PinName pin={one.pin} />
            <PullMeter pull={one} />
          </article>
        ))}
      </div>
    </section>
  );
}

function ImageList() {
  const place = usePlace();
  const { data, error, again } = useLoaded<ImagePage>(withQuery("/v1/images", { limit: 100, cursor: place.cursor }), PERIOD_MS);
  const running = pulls.value.map((one) => one.pin).join(" ");
  useEffect(again, [running]); // a pull that ended may have brought one
  return (
    <section aria-labelledby="on-the-box">
      <h2 id="on-the-box">On the box</h2>
      <Fault error={error} />
      {!data && !error && <p class="soft">Asking…</p>}
      {data?.items.length === 0 && place.isFirst && (
        <Empty>
          No images on the box yet. A deploy pulls its image, and so does <code>gpud image prewarm IMAGE</code>.
        </Empty>
      )}
      {data && data.items.length > 0 && (
        <Table label="Images" heads={HEADS}>
          {data.items.map((one) => (
            <ImageRow key={one.id} image={one} again={again} />
          ))}
        </Table>
      )}
      <Paging place={place} next={data?.next ?? null} words={["Back", "More"]} />
      <Collection again={again} />
    </section>
  );
}

function nameOf(image: Image): string {
  return image.references[0] ?? image.pins.find((pin) => pin.includes("@")) ?? image.id;
}

/** The first digits, as the engine's own command shows them; the whole is there for a pointer that rests on it. */
function Digest({ digest }: { digest: string }) {
  return (
    <code class="under" title={digest}>
      {digest.replace("sha256:", "").slice(0, 12)}
    </code>
  );
}

function PinName({ pin }: { pin: string }) {
  const [repository = "", digest = ""] = pin.split("@", 2);
  if (!digest) return <Digest digest={pin} />;
  return (
    <>
      {plain(repository)}
      <Digest digest={digest} />
    </>
  );
}

function ImageRow({ image, again }: { image: Image; again: () => void }) {
  const name = nameOf(image);
  const remove = async (): Promise<string> => {
    const pin = image.pins.at(-1) ?? image.id;
    await call("DELETE", `/v1/images/${pin.split("/").map(encodeURIComponent).join("/")}`);
    again();
    return `${name} is removed.`;
  };
  return (
    <tr>
      <Cell head="Image">
        {image.references.length ? (
          <>
            {plain(image.references.join(", "))}
            <Digest digest={image.id} />
          </>
        ) : (
          <PinName pin={name} />
        )}
      </Cell>
      <Cell head="Size" cls="number">
        {spellBytes(image.size_bytes)}
      </Cell>
      <Cell head="Used by">
        {image.endpoints.length
          ? image.endpoints.map((one) => (
              <a key={one} class="pair" href={link("endpoints", one)}>
                {one}
              </a>
            ))
          : "nobody"}
      </Cell>
      <Cell head="Last used">{image.used_at ? <Age at={image.used_at} /> : <span class="soft">gpud did not pull it</span>}</Cell>
      <Cell head="">
        {image.endpoints.length === 0 && (
          <Action
            danger
            label={`Remove ${name}`}
            ask={{ title: `Remove ${name}?`, text: "Who needs it again pulls it again." }}
            run={remove}
          >
            Remove
          </Action>
        )}
      </Cell>
    </tr>
  );
}

/** What nobody needs: shown first, removed on demand. */
function Collection({ again }: { again: () => void }) {
  const [found, setFound] = useState<ImageGc | null>(null);
  const collect = async (dryRun: boolean): Promise<string> => {
    const done = await call<ImageGc>("POST", "/v1/images/gc", { dry_run: dryRun, everything: true });
    setFound(dryRun ? done : null);
    if (!dryRun) again();
    return `${spellBytes(done.freed_bytes)} of ${spellBytes(done.taken_bytes)} ${dryRun ? "would go" : "removed"}.`;
  };
  const amount = found ? `${found.removed.length} images, ${spellBytes(found.freed_bytes)}` : "";
  return (
    <>
      <div class="row actions">
        <Action run={() => collect(true)}>Show what nobody needs</Action>
        {found && found.removed.length > 0 && (
          <Action danger ask={{ title: "Remove what nobody needs?", text: `${amount}. Who needs them again pulls them again.` }} run={() => collect(false)}>
            Remove these
          </Action>
        )}
      </div>
      {found &&
        (found.removed.length + found.kept.length === 0 ? (
          <Empty>gpud has pulled no images that are still here.</Empty>
        ) : (
          <Table label="What would go" heads={["Image", "Size", "Last used", "What"]}>
            {found.removed.map((one) => (
              <tr key={one.id}>
                <Cell head="Image">
                  <PinName pin={one.pin} />
                </Cell>
                <Cell head="Size" cls="number">
                  {spellBytes(one.size_bytes)}
                </Cell>
                <Cell head="Last used">
                  <Age at={one.used_at} />
                </Cell>
                <Cell head="What">would go</Cell>
              </tr>
            ))}
            {found.kept.map((one) => (
              <tr key={one.id}>
                <Cell head="Image">
                  <PinName pin={one.pin} />
                </Cell>
                <Cell head="Size" cls="number">
                  {spellBytes(one.size_bytes)}
                </Cell>
                <Cell head="Last used">
                  <Age at={one.used_at} />
                </Cell>
                <Cell head="What">
                  kept: <Word word={one.why} />
                </Cell>
              </tr>
            ))}
          </Table>
        ))}
    </>
  );
}
