// Shows what only some keys may see, or says why it is not shown.
import type { ComponentChildren } from "preact";
import { may, scopes } from "../api/client";
import { Empty } from "./parts";

/** For administrators; `what` begins the sentence for others. */
export function ForAdmins({ what, children }: { what: string; children: ComponentChildren }) {
  if (may("admin")) return <>{children}</>;
  if (scopes.value === null) return <p class="soft">Asking what this key may do…</p>;
  return <Empty>Only a key with the scope admin {what}.</Empty>;
}
