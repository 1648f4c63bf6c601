// The shapes of the API's answers. Written by `scripts/docs web` from the code; do not edit.

export interface AuditEntry {
  seq: number;
  at: string;
  request_id: string;
  caller: string;
  source: string;
  operation: string;
  method: string;
  path: string;
  subject: string;
  status: number;
  before: string;
  after: string;
  detail: string;
}

export interface AuditLogPage {
  items: readonly AuditEntry[];
  next: string | null;
}

export type Balance = "round_robin" | "pack" | "least_inflight";

export interface Budget {
  id: string;
  endpoint: string;
  key: string;
  label: string;
  per: BudgetPeriod;
  state: BudgetState;
  amount_micros: number | null;
  used_micros: number | null;
  amount_gpu_ms: number | null;
  used_gpu_ms: number | null;
  used_percent: number;
  warn_percent: readonly number[];
  passed_percent: number;
  since: string;
  until: string;
  detail: string;
  refuses: string;
}

export interface BudgetList {
  items: readonly Budget[];
  next: string | null;
  currency: string;
  check_s: number;
}

export type BudgetPeriod = "day" | "month";

export type BudgetState = "within" | "warned" | "spent";

export type Cause = "scale_up" | "image_absent" | "pull_failed" | "unwanted" | "gpus_reserved" | "gpu_busy" | "gpus_verified" | "container_started" | "image_vanished" | "launch_failed" | "probe_passed" | "start_timeout" | "start_stalled" | "probe_failed" | "not_ready_timeout" | "exited" | "out_of_memory" | "vanished" | "inconsistent" | "pin_violated" | "gpu_lost" | "engine_restarted" | "scale_down" | "idle" | "reclaimed" | "new_revision" | "endpoint_deleted" | "ejected" | "operator" | "killed" | "shutdown" | "paused" | "pause_failed" | "put_to_sleep" | "fell_asleep" | "sleep_failed" | "woken" | "wake_failed" | "demand_returned" | "drained" | "drain_timeout" | "container_stopped" | "stop_unanswered" | "seen_again" | "adopted" | "rebooted" | "released" | "not_returned";

export interface DaemonState {
  ready: boolean;
  version: string;
  gpu_source: string;
  parts: Readonly<Record<string, string>>;
}

export interface Delivery {
  id: string;
  webhook_id: string;
  type: WebhookType;
  endpoint: string;
  url: string;
  format: WebhookFormat;
  state: DeliveryState;
  attempts: number;
  next_at: string | null;
  created_at: string;
}

export interface DeliveryDetail {
  id: string;
  webhook_id: string;
  type: WebhookType;
  endpoint: string;
  url: string;
  format: WebhookFormat;
  state: DeliveryState;
  attempts: number;
  next_at: string | null;
  created_at: string;
  body: unknown;
  log: readonly gpud__api__schemas__webhooks__Attempt[];
}

export interface DeliveryPage {
  items: readonly Delivery[];
  next: string | null;
}

export type DeliveryState = "waiting" | "delivered" | "failed" | "dropped";

export interface DryRun {
  name: string;
  change: "create" | "restart" | "rescale" | "none";
  revision: string;
  spec: EndpointSpec;
  image_pin: string;
  image_present: boolean;
  workers: number;
  workers_present: number;
  placements: readonly Placement[];
  evictions: readonly Leaver[];
  wait: Wait | null;
  expected_ready_in_s: number | null;
  cold_start_s: number;
  cold_start_measured: boolean;
}

export interface Endpoint {
  name: string;
  condition: EndpointCondition;
  revision: string;
  spec: EndpointSpec;
  image: PinnedImage;
  desired: number;
  scale_reason: string;
  waiting: number;
  in_flight: number;
  workers: readonly Worker[];
  standbys: readonly Standby[];
  waits: readonly Wait[];
  last_error: string;
  pull: PullProgress | null;
  serving: string;
  rollout: Rollout | null;
  window: Window | null;
  forecast: Forecast;
  created_at: string;
  updated_at: string;
}

export type EndpointCondition = "ready" | "starting" | "pulling" | "sleeping" | "waiting_for_gpu" | "failing" | "paused";

export interface EndpointSpec {
  name: string;
  image: string;
  type: EndpointType;
  command: readonly string[];
  port: number;
  aliases: readonly string[];
  registry: string;
  env: Readonly<Record<string, string>>;
  public: boolean;
  forward_authorization: boolean;
  gpus: GpusSection;
  scale: ScaleSection;
  health: HealthSection;
  limits: LimitsSection;
  standby: StandbySection;
  pause: PauseSection;
  sleep: SleepSection;
  page_cache: PageCacheSection;
  jobs: JobsSection;
  requests: RequestsSection;
  volumes: readonly VolumeSection[];
  rollout: RolloutSection;
}

export interface EndpointState {
  name: string;
  condition: EndpointCondition;
  type: EndpointType;
  image: string;
  public: boolean;
  aliases: readonly string[];
  revision: string;
  serving: string;
  policy: PolicyName;
  min_workers: number;
  max_workers: number;
  gpus: number;
  gpu_memory_mib: number;
  desired: number;
  scale_reason: string;
  waiting: number;
  in_flight: number;
  waits: readonly Wait[];
  last_error: string;
  pull: PullProgress | null;
  rollout: Rollout | null;
  window: Window | null;
  updated_at: string;
}

export type EndpointType = "http" | "queue";

export interface Engine {
  version: string;
  api_version: string;
  storage_driver: string;
  cgroup_version: string;
  runtimes: readonly string[];
  runtime: string;
  warnings: readonly string[];
}

export interface Event {
  seq: number;
  kind: string;
  at: string;
  endpoint: string;
  worker_id: string;
  facts: Readonly<Record<string, unknown>>;
}

export interface EventPage {
  items: readonly Event[];
  next: string | null;
}

export interface Forecast {
  gaps: number;
  ready_after_s: number | null;
  until_s: number | null;
  forecasts: number;
  hits: number;
  cold_starts_saved: number;
  cold_starts_added: number;
  gpu_s_cost: number;
  gpu_s_saved: number;
}

export interface Gateway {
  connections: number;
  requests: number;
  statuses: Readonly<Record<string, number>>;
  loop_lag_ms: number;
  loop_lag_ms_max: number;
}

export interface Gpu {
  uuid: string;
  name: string;
  index: number;
  memory_mib: number;
  numa_node: number | null;
  cpus: string;
  mig_parent: string | null;
  health: GpuHealth;
  reason: string;
  since: string | null;
  worker_id: string | null;
  endpoint: string | null;
  shared_by: readonly GpuShare[];
  used_mib: number | null;
  pids: readonly number[] | null;
  utilization_percent: number | null;
  power_w: number | null;
  temperature_c: number | null;
}

export type GpuHealth = "healthy" | "cordoned" | "quarantined" | "unhealthy";

export interface GpuShare {
  worker_id: string;
  endpoint: string;
  memory_mib: number;
}

export interface GpusSection {
  count: number;
  memory_mib: number;
  least_memory_mib: number;
  model: string;
}

export interface HealthSection {
  path: string;
  start_timeout_s: number;
  stall_timeout_s: number;
  period_s: number;
  timeout_s: number;
  fail_threshold: number;
  not_ready_timeout_s: number;
}

export interface HookSection {
  method: "GET" | "POST" | "PUT" | "DELETE";
  path: string;
  body: Readonly<Record<string, JsonValue>> | null;
  expect: Readonly<Record<string, JsonValue>> | null;
}

export interface Image {
  id: string;
  pins: readonly string[];
  references: readonly string[];
  size_bytes: number;
  created_at: string | null;
  used_at: string | null;
  endpoints: readonly string[];
}

export interface ImageGc {
  dry_run: boolean;
  removed: readonly RemovedImage[];
  kept: readonly KeptImage[];
  taken_bytes: number;
  freed_bytes: number;
  over_bytes: number;
  free_bytes: number | null;
}

export interface ImagePage {
  items: readonly Image[];
  next: string | null;
}

export interface Job {
  id: string;
  endpoint: string;
  owner: string;
  state: JobState;
  reason: string;
  estimate_ms: number | null;
  error: string;
  priority: number;
  effective_priority: number;
  low_priority: boolean;
  group_key: string;
  attempt: number;
  max_attempts: number;
  deliveries: number;
  redrives: number;
  dead: boolean;
  cancel_requested: boolean;
  worker: string;
  created_at: string;
  available_at: string;
  expires_at: string;
  started_at: string | null;
  finished_at: string | null;
  kept_until: string | null;
  queue_ms: number | null;
  exec_ms: number | null;
  gpu_ms: number;
  cost_micros: number;
  energy_mj: number;
  execution_timeout_ms: number;
  input_bytes: number;
  path: string;
}

export interface JobDetail {
  id: string;
  endpoint: string;
  owner: string;
  state: JobState;
  reason: string;
  estimate_ms: number | null;
  error: string;
  priority: number;
  effective_priority: number;
  low_priority: boolean;
  group_key: string;
  attempt: number;
  max_attempts: number;
  deliveries: number;
  redrives: number;
  dead: boolean;
  cancel_requested: boolean;
  worker: string;
  created_at: string;
  available_at: string;
  expires_at: string;
  started_at: string | null;
  finished_at: string | null;
  kept_until: string | null;
  queue_ms: number | null;
  exec_ms: number | null;
  gpu_ms: number;
  cost_micros: number;
  energy_mj: number;
  execution_timeout_ms: number;
  input_bytes: number;
  path: string;
  attempts: readonly gpud__api__schemas__jobs__Attempt[];
  output: unknown;
  progress: unknown;
}

export interface JobPage {
  items: readonly Job[];
  next: string | null;
}

export type JobState = "IN_QUEUE" | "IN_PROGRESS" | "COMPLETED" | "FAILED" | "CANCELLED" | "TIMED_OUT";

export interface JobsSection {
  path: string;
  cancel_path: string;
  status_path: string;
  execution_timeout_s: number;
  max_attempts: number;
  on_adopt: OnAdopt;
}

export type JsonValue = unknown;

export type KeptFor = "pinned" | "in_use" | "named" | "young" | "fits";

export interface KeptImage {
  id: string;
  pin: string;
  size_bytes: number;
  used_at: string;
  why: KeptFor;
}

export interface Key {
  id: string;
  label: string;
  scopes: readonly string[];
  disabled: boolean;
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
}

export interface KeyPage {
  items: readonly Key[];
  next: string | null;
}

export interface Leaver {
  worker_id: string;
  endpoint: string;
  in_s: number;
  busy: boolean;
}

export interface LimitsSection {
  request_timeout_s: number;
  first_request_timeout_s: number;
  stream_idle_timeout_s: number;
  max_queue: number;
  queue_timeout_s: number;
  drain_timeout_s: number;
  stop_grace_s: number;
  memory_mib: number;
  cpus: number;
  shm_mib: number;
  pids: number;
}

export interface LogLine {
  at: string;
  endpoint: string;
  worker_id: string;
  stream: LogStream;
  text: string;
  cursor: string;
}

export interface LogPage {
  items: readonly LogLine[];
  next: string;
  complete: boolean;
  lost_bytes: number;
}

export type LogStream = "stdout" | "stderr" | "gpud";

export interface NewKey {
  id: string;
  label: string;
  scopes: readonly string[];
  disabled: boolean;
  created_at: string;
  expires_at: string | null;
  last_used_at: string | null;
  token: string | null;
}

export interface NewWebhook {
  id: string;
  url: string;
  types: readonly string[];
  endpoint: string;
  description: string;
  enabled: boolean;
  disabled_reason: string;
  failures: number;
  failing_since: string | null;
  old_secret_until: string | null;
  created_at: string;
  secret: string | null;
}

export type OnAdopt = "auto" | "recycle" | "wait";

export interface OwnKey {
  id: string;
  scopes: readonly string[];
}

export interface PageCacheSection {
  record: boolean;
  files: readonly string[];
  budget_mib: number;
}

export interface PauseSection {
  after_idle_s: number;
}

export interface PinnedImage {
  reference: string;
  pin: string;
  exposed_ports: readonly number[];
}

export interface Placement {
  gpu_uuids: readonly string[];
  memory_mib: number;
}

export type PolicyName = "concurrency" | "queue_delay" | "request_count" | "fixed";

export type Preempt = "drain" | "kill";

export interface Prewarmed {
  image: string;
  pin: string;
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  fields: Readonly<Record<string, string>>;
  retry_after_s: number | null;
}

export interface Pull {
  layers: number;
  layers_done: number;
  bytes_total: number;
  bytes_done: number;
  pin: string;
}

export interface PullProgress {
  layers: number;
  layers_done: number;
  bytes_total: number;
  bytes_done: number;
}

export interface Registry {
  name: string;
  host: string;
  username: string;
  created_at: string;
}

export interface RegistryPage {
  items: readonly Registry[];
  next: string | null;
}

export interface RemovedImage {
  id: string;
  pin: string;
  size_bytes: number;
  used_at: string;
}

export interface RequestsSection {
  denied_paths: readonly string[];
  quiet_methods: readonly ("HEAD" | "OPTIONS" | "GET")[];
  quiet_paths: readonly string[];
  progress: boolean;
}

export interface Revision {
  number: number;
  revision: string;
  state: RevisionState;
  detail: string;
  image: string;
  pin: string;
  created_at: string;
  changed_at: string;
  ready_at: string | null;
}

export interface RevisionPage {
  items: readonly Revision[];
  next: string | null;
}

export type RevisionState = "deploying" | "current" | "last_good" | "superseded" | "failed";

export type RollbackReason = "start_failures" | "image" | "deadline" | "smoke" | "error_rate" | "asked";

export interface Rollout {
  base: string;
  target: string;
  step: RolloutStep;
  active: boolean;
  failures: number;
  last_error: string;
  reason: RollbackReason | null;
  detail: string;
  started_at: string;
  changed_at: string;
}

export interface RolloutSection {
  strategy: RolloutStrategy;
  verify: boolean;
  min_healthy_time_s: number;
  progress_deadline_s: number;
  smoke: SmokeSection;
}

export type RolloutStep = "pull" | "canary" | "prove" | "shift" | "completed" | "rolled_back" | "superseded";

export type RolloutStrategy = "rolling" | "recreate";

export type Rung = "created" | "parked" | "sleeping" | "paused";

export interface ScaleSection {
  min_workers: number;
  max_workers: number;
  policy: PolicyName;
  more_policies: readonly PolicyName[];
  target: number;
  queue_delay_s: number;
  beta: number;
  concurrency: number;
  activation_workers: number;
  scale_down_delay_s: number;
  idle_timeout_s: number;
  idle_timeout_auto: boolean;
  scale_to_zero_delay_s: number;
  priority: number;
  weight: number;
  quantum_s: number;
  exclusive: boolean;
  priority_aging_s: number;
  preempt: Preempt;
  balance: Balance;
  warm_windows: readonly WarmWindowSection[];
}

export type SleepPreset = "none" | "custom" | "vllm" | "sglang";

export interface SleepSection {
  preset: SleepPreset;
  enter: HookSection;
  wake: HookSection;
  check: HookSection;
  after_idle_s: number;
  timeout_s: number;
  host_memory_mib: number;
  vram_mib: number;
}

export interface Slowdown {
  culprit: StartPhase;
  culprit_ms: number;
  culprit_usual_ms: number;
  detail: string;
}

export interface SmokeSection {
  path: string;
  body: string;
  timeout_s: number;
}

export interface Standby {
  id: string;
  endpoint: string;
  revision: string;
  rung: Rung;
  state: StandbyState;
  gpu_uuids: readonly string[];
  address: string;
  ram_mib: number;
  detail: string;
  created_at: string;
}

export type StandbyMode = "none" | "created" | "parked";

export interface StandbySection {
  mode: StandbyMode;
  workers: number;
}

export type StandbyState = "preparing" | "ready" | "claimed" | "discarding";

export interface Start {
  worker_id: string;
  revision: string;
  ready_at: string;
  woken: string;
  why: string;
  wanted: string;
  total_ms: number;
  usual_ms: number | null;
  wait_ms: number;
  evict_ms: number;
  pull_ms: number;
  reserve_ms: number;
  create_ms: number;
  engine_start_ms: number;
  wake_ms: number;
  listen_ms: number;
  ready_ms: number;
  first_byte_ms: number | null;
  slower: Slowdown | null;
}

export interface StartList {
  items: readonly Start[];
  next: string | null;
}

export type StartPhase = "wait" | "evict" | "pull" | "reserve" | "create" | "engine_start" | "wake" | "listen" | "ready" | "first_byte";

export interface State {
  at: string;
  daemon: readonly DaemonState[];
  endpoints: readonly EndpointState[];
  workers: readonly Worker[];
  standbys: readonly Standby[];
  gpus: readonly Gpu[];
  pulls: readonly Pull[];
}

export interface Stats {
  at: string;
  cpu_cores: number;
  memory_bytes: number;
  memory_bytes_max: number;
  gpu_memory_bytes: number;
  gpu_utilization_percent: number;
}

export interface StatsPage {
  worker_id: string;
  step_s: number;
  items: readonly Stats[];
}

export interface System {
  ready: boolean;
  version: string;
  gpu_source: string;
  uptime_s: number;
  parts: Readonly<Record<string, string>>;
  engine: Engine | null;
  checkpoints: Readonly<Record<string, string>>;
  gateway: Gateway;
}

export interface Template {
  name: string;
  image: string;
  about: string;
  spec: Readonly<Record<string, unknown>>;
  text: string;
}

export interface TemplateList {
  items: readonly Template[];
  next: string | null;
}

export interface Usage {
  by: UsageBy;
  since: string | null;
  until: string;
  currency: string;
  gpu_hour_micros: number;
  kwh_micros: number;
  co2_g_per_kwh: number;
  items: readonly UsageLine[];
  total: UsageTotal;
}

export type UsageBy = "endpoint" | "worker" | "key" | "gpu" | "phase" | "day" | "hour" | "minute" | "second";

export interface UsageLine {
  key: string;
  label: string;
  gpu_ms: number;
  wall_ms: number;
  billed_s: number;
  sessions: number;
  phases_ms: Readonly<Record<string, number>>;
  cost_micros: number;
  energy_mj: number;
  sampled_mj: number;
  energy_cost_micros: number;
  co2_mg: number;
}

export interface UsageTotal {
  gpu_ms: number;
  wall_ms: number;
  billed_s: number;
  sessions: number;
  cost_micros: number;
  energy_mj: number;
  sampled_mj: number;
  energy_cost_micros: number;
  co2_mg: number;
}

export interface VolumeSection {
  source: string;
  target: string;
  read_only: boolean;
}

export interface Wait {
  reason: string;
  detail: string;
  facts: Readonly<Record<string, unknown>>;
  until: string | null;
  remedy: string;
}

export interface WarmWindowSection {
  start: string;
  duration_s: number;
  end: string;
  time_zone: string;
  workers: number;
}

export interface Webhook {
  id: string;
  url: string;
  types: readonly string[];
  endpoint: string;
  description: string;
  enabled: boolean;
  disabled_reason: string;
  failures: number;
  failing_since: string | null;
  old_secret_until: string | null;
  created_at: string;
}

export type WebhookFormat = "standard" | "runpod";

export interface WebhookPage {
  items: readonly Webhook[];
  next: string | null;
}

export type WebhookType = "job.completed" | "job.failed" | "job.cancelled" | "job.timed_out" | "job.dead" | "endpoint.scaled" | "endpoint.circuit_open" | "endpoint.rolled_back" | "worker.failed" | "gpu.unhealthy" | "budget.threshold" | "webhook.test";

export interface Window {
  window: string;
  workers: number;
  changes_at: string | null;
}

export interface Worker {
  id: string;
  endpoint: string;
  revision: string;
  state: WorkerState;
  cause: Cause;
  detail: string;
  failed: boolean;
  adopted: boolean;
  gpu_uuids: readonly string[];
  gpu_memory_mib: number;
  address: string;
  port: number;
  created_at: string;
  container_started_at: string | null;
  container_finished_at: string | null;
  exit_code: number | null;
}

export type WorkerState = "pending" | "pulling" | "reserved" | "creating" | "starting" | "ready" | "not_ready" | "paused" | "dozing" | "sleeping" | "waking" | "draining" | "stopping" | "releasing" | "discarding" | "failed" | "lost" | "gone";

export interface gpud__api__schemas__jobs__Attempt {
  delivery: number;
  attempt: number;
  worker: string;
  started_at: string;
  ended_at: string | null;
  ending: string;
  reason: string;
  error: string;
  exit_code: number | null;
  log_tail: string;
}

export interface gpud__api__schemas__webhooks__Attempt {
  number: number;
  at: string;
  took_ms: number;
  status: number | null;
  error: string;
  answer: string;
}
