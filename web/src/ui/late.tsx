// A page whose code is loaded when it is first shown.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Fault } from "./parts";
import { showTitle } from "./title";

const GONE = "This page could not be loaded. gpud may have been upgraded since this tab was opened: load the page anew.";

export function late<P extends object>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  let Loaded: ComponentType<P> | null = null;
  return function Late(props: P) {
    const [isLoaded, loaded] = useState(Loaded !== null);
    const [error, setError] = useState("");
    useEffect(() => {
      if (Loaded) return undefined;
      let gone = false;
      load().then(
        (component) => {
          Loaded = component;
          if (!gone) loaded(true);
        },
        () => !gone && setError(GONE),
      );
      return () => {
        gone = true;
      };
    }, []);
    useEffect(() => {
      if (isLoaded) showTitle(); // its heading was not there when the address changed
    }, [isLoaded]);
    if (Loaded) return <Loaded {...props} />;
    return error ? <Fault error={error} /> : <p class="soft">Loading…</p>;
  };
}
