// Budgets: what endpoints and keys may use, what they used of it, and what a spent one refuses.
import { may } from "../api/client";
import type { Budget, BudgetList } from "../api/types";
import { spellDuration, spellMicros } from "../live/clock";
import { link } from "../router";
import { useLoaded } from "../ui/loading";
import { Age, Empty, Fact, Fault, Meter, Word } from "../ui/parts";
import { plain } from "../ui/plain";

export function BudgetsPage() {
  const { data, error } = useLoaded<BudgetList>("/v1/budgets", 10_000);
  return (
    <>
      <h1>Budgets</h1>
      <Fault error={error} />
      {!data && !error && <p class="soft">Asking…</p>}
      {data?.items.length === 0 && (
        <Empty>
          No budgets. They are set in <code>[[budgets.limits]]</code> of gpud.toml: an endpoint or a key, money or GPU seconds, a day or a month.
        </Empty>
      )}
      <div class="cards wider">{data?.items.map((one) => <BudgetCard key={one.id} budget={one} currency={data.currency} />)}</div>
      {data && data.items.length > 0 && (
        <p class="soft">
          Days and months are UTC's. What was used is looked at every {spellDuration(data.check_s)}; a spent budget is enforced from the next look on.
        </p>
      )}
    </>
  );
}

function BudgetCard({ budget, currency }: { budget: Budget; currency: string }) {
  const isMoney = budget.amount_micros !== null;
  const spell = (amount: number): string => (isMoney ? spellMicros(amount, currency) : spellDuration(amount / 1000));
  const used = budget.used_micros ?? budget.used_gpu_ms ?? 0;
  const amount = budget.amount_micros ?? budget.amount_gpu_ms ?? 0;
  const label = isMoney ? "Money used" : "GPU time used";
  return (
    <article class="card" aria-label={`Budget of ${budget.id}`}>
      <header class="row">
        <h3>
          <Owner budget={budget} />
        </h3>
        <Word word={budget.state} />
      </header>
      <Meter label={label} value={used} max={amount} text={`${spell(used)} of ${spell(amount)} a ${budget.per}, ${budget.used_percent} %`} />
      <dl class="facts">
        <Fact name="Warns at">{budget.warn_percent.length ? budget.warn_percent.map((percent) => `${percent} %`).join(", ") : "the whole only"}</Fact>
        <Fact name="Passed">{budget.passed_percent ? `${budget.passed_percent} %` : "none yet"}</Fact>
        <Fact name="Begins anew">
          <Age at={budget.until} />
        </Fact>
      </dl>
      {budget.detail && (
        <p class="last-error">
          {plain(budget.detail)} {budget.refuses}
        </p>
      )}
    </article>
  );
}

function Owner({ budget }: { budget: Budget }) {
  if (budget.endpoint) {
    return (
      <>
        endpoint <a href={link("endpoints", budget.endpoint)}>{budget.endpoint}</a>
      </>
    );
  }
  const name = budget.label ? plain(budget.label) : budget.key;
  return <>key {may("admin") ? <a href={link("keys")}>{name}</a> : name}</>;
}
