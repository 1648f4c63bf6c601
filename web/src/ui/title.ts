// The name of the tab: the page's heading.

export function showTitle(): void {
  const heading = document.querySelector("h1");
  document.title = heading?.textContent ? `${heading.textContent} · gpud` : "gpud";
}
