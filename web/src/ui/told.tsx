// Shows text of the daemon in which commands stand between backquotes, as the command line prints it.
import { plain } from "./plain";

export function Told({ text }: { text: string }) {
  return <>{plain(text).split("`").map((piece, place) => (place % 2 ? <code key={place}>{piece}</code> : piece))}</>;
}
