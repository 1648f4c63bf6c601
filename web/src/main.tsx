// Shows the page that the address asks for, to who has signed in.
import { type ComponentChildren, render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { key, learnScopes } from "./api/client";
import { followState, known } from "./live/state";
import { DeployPage, EditPage } from "./pages/deploy";
import { EndpointPage } from "./pages/endpoint";
import { EventsPage } from "./pages/events";
import { GpusPage } from "./pages/gpus";
import { JobDetailPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { KeysPage } from "./pages/keys";
import { LogsPage } from "./pages/logs";
import { Overview } from "./pages/overview";
import { RevisionsPage } from "./pages/revisions";
import { SignIn } from "./pages/signin";
import { StartsPage } from "./pages/starts";
import { UsagePage } from "./pages/usage";
import { WorkerPage } from "./pages/worker";
import { route } from "./router";
import { late } from "./ui/late";
import { Empty } from "./ui/parts";
import { Shell } from "./ui/shell";
import { showTitle } from "./ui/title";
import "./style/base.css";
import "./style/shell.css";
import "./style/parts.css";
import "./style/pages.css";

// Those that are looked at now and then.
const AuditLogPage = late(() => import("./pages/auditlog").then((found) => found.AuditLogPage));
const BudgetsPage = late(() => import("./pages/budgets").then((found) => found.BudgetsPage));
const ImagesPage = late(() => import("./pages/images").then((found) => found.ImagesPage));
const WebhooksPage = late(() => import("./pages/webhooks").then((found) => found.WebhooksPage));
const WebhookPage = late(() => import("./pages/webhook").then((found) => found.WebhookPage));
const WebhookDeliveryPage = late(() => import("./pages/webhook").then((found) => found.WebhookDeliveryPage));

function App() {
  return key.value ? <SignedIn key={key.value} /> : <SignIn />;
}

function SignedIn() {
  useEffect(() => {
    const ends = [learnScopes(), followState()];
    return () => ends.forEach((end) => end());
  }, []);
  const place = route.value.parts.join("/");
  const first = useRef(true);
  useEffect(() => {
    showTitle();
    if (first.current) first.current = false;
    else {
      document.getElementById("main")?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }, [place]);
  return <Shell>{known.value ? <Page /> : <p class="soft">Asking the daemon…</p>}</Shell>;
}

function Page(): ComponentChildren {
  const [first = "", second, third] = route.value.parts;
  switch (first) {
    case "":
      return <Overview />;
    case "endpoints":
      if (second) return endpointPage(second, third);
      return <Overview />;
    case "workers":
      return <WorkerPage key={second} id={second ?? ""} />;
    case "gpus":
      return <GpusPage />;
    case "jobs":
      return second ? <JobDetailPage key={second} id={second} /> : <JobsPage />;
    case "logs":
      return <LogsPage />;
    case "events":
      return <EventsPage />;
    case "usage":
      return <UsagePage />;
    case "images":
      return <ImagesPage />;
    case "budgets":
      return <BudgetsPage />;
    case "webhooks":
      if (second && third) return <WebhookDeliveryPage key={third} webhook={second} id={third} />;
      return second ? <WebhookPage key={second} id={second} /> : <WebhooksPage />;
    case "audit-log":
      return <AuditLogPage />;
    case "keys":
      return <KeysPage />;
    case "deploy":
      return <DeployPage />;
    default:
      return <Nowhere />;
  }
}

function endpointPage(name: string, part: string | undefined): ComponentChildren {
  switch (part) {
    case undefined:
      return <EndpointPage key={name} name={name} />;
    case "edit":
      return <EditPage key={name} name={name} />;
    case "starts":
      return <StartsPage key={name} name={name} />;
    case "revisions":
      return <RevisionsPage key={name} name={name} />;
    default:
      return <Nowhere />;
  }
}

function Nowhere() {
  return (
    <>
      <h1>Nothing here</h1>
      <Empty>
        There is no such page. <a href="#/">Overview</a>
      </Empty>
    </>
  );
}

const app = document.getElementById("app");
if (app) render(<App />, app);
