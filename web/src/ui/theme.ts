// Which colours the page has: the system's choice, or its user's, which this browser keeps.
import { effect, signal } from "@preact/signals";

export const THEMES = ["auto", "light", "dark"] as const;
const KEPT_AS = "gpud.theme";

export const theme = signal<string>(localStorage.getItem(KEPT_AS) ?? "auto");

effect(() => {
  document.documentElement.dataset.theme = theme.value;
  localStorage.setItem(KEPT_AS, theme.value);
});
