// Makes text of programs fit to be shown: terminal sequences are left out, other control characters become visible.

// CSI, OSC and other sequences that a terminal would obey.
const SEQUENCES = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b[@-Z\\-_]/g;
// Also those that turn the direction of what follows.
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

export function plain(text: string): string {
  return text.replace(SEQUENCES, "").replace(CONTROLS, (char) => {
    const code = char.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : "\ufffd";
  });
}

export const SHOWN_CHARS_MAX = 4000;

/** The beginning of a long text, and how much more there is. */
export function shortened(text: string): string {
  if (text.length <= SHOWN_CHARS_MAX) return text;
  return `${text.slice(0, SHOWN_CHARS_MAX)} … and ${text.length - SHOWN_CHARS_MAX} more characters`;
}
