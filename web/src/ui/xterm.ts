// xterm.js with its style, in a file of their own, made to work where styles in the page are refused.
//
// xterm.js writes style elements and style attributes into the page, which the content security policy refuses. Here the
// same rules go through the object model, which it allows.
import type { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";

export { FitAddon } from "@xterm/addon-fit";
export { Terminal } from "@xterm/xterm";

const setAttribute = HTMLElement.prototype.setAttribute;
HTMLElement.prototype.setAttribute = function (this: HTMLElement, name: string, value: string): void {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};

/** Open a terminal in a box; all its style elements are made now. */
export function openIn(terminal: Terminal, box: HTMLElement): void {
  const createElement = document.createElement;
  const made = (name: string): HTMLElement => (name === "style" ? sheetElement(createElement) : createElement.call(document, name));
  document.createElement = made as typeof document.createElement;
  try {
    terminal.open(box);
  } finally {
    document.createElement = createElement;
  }
}

/** Takes the place of a style element: the text put into it is a sheet of the page for as long as it lives. */
function sheetElement(createElement: typeof document.createElement): HTMLElement {
  const element = createElement.call(document, "span");
  const sheet = new CSSStyleSheet();
  element.hidden = true;
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    HTMLElement.prototype.remove.call(element);
  };
  return element;
}
