-- The schema as the last migration leaves it. A test has the migrations build exactly this.
-- JSON columns are checked by their shape only: with trusted_schema off, SQLite 3.40 refuses
-- its own JSON functions in a CHECK.

CREATE TABLE install (
    id               INTEGER PRIMARY KEY CHECK (id = 1),
    install_id       TEXT    NOT NULL CHECK (length(install_id) >= 8),
    created_at_ms    INTEGER NOT NULL,
    master_key_check BLOB    CHECK (length(master_key_check) = 16)
) STRICT;

CREATE TABLE endpoint_revision (
    endpoint      TEXT    NOT NULL,
    revision      TEXT    NOT NULL,
    spec          TEXT    NOT NULL CHECK (spec LIKE '{%}'),
    image         TEXT    NOT NULL CHECK (image LIKE '{%}'),
    created_at_ms INTEGER NOT NULL,
    number INTEGER NOT NULL DEFAULT 0 CHECK (number >= 0),
    state TEXT NOT NULL DEFAULT 'superseded' CHECK (state IN (
    'deploying', 'current', 'last_good', 'superseded', 'failed')),
    detail TEXT NOT NULL DEFAULT '',
    changed_at_ms INTEGER NOT NULL DEFAULT 0,
    ready_at_ms INTEGER NOT NULL DEFAULT 0 CHECK (ready_at_ms >= 0),
    PRIMARY KEY (endpoint, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoint (
    name          TEXT    PRIMARY KEY NOT NULL CHECK (length(name) BETWEEN 1 AND 40),
    revision      TEXT    NOT NULL,
    spec          TEXT    NOT NULL CHECK (spec LIKE '{%}'),
    image         TEXT    NOT NULL CHECK (image LIKE '{%}'),
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    FOREIGN KEY (name, revision) REFERENCES endpoint_revision (endpoint, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE rollout (
    endpoint      TEXT    PRIMARY KEY NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    base          TEXT    NOT NULL,
    target        TEXT    NOT NULL,
    step          TEXT    NOT NULL CHECK (step IN (
                      'pull', 'canary', 'prove', 'shift', 'completed', 'rolled_back', 'superseded')),
    since_s       REAL    NOT NULL,
    clock_s       REAL,
    replaced      INTEGER NOT NULL CHECK (replaced >= 0),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    permanent     INTEGER NOT NULL CHECK (permanent IN (0, 1)),
    last_error    TEXT    NOT NULL,
    smoke         TEXT    NOT NULL CHECK (smoke IN ('untried', 'passed', 'failed')),
    reason        TEXT,
    detail        TEXT    NOT NULL,
    started_at_ms INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    CHECK ((step = 'rolled_back') = (reason IS NOT NULL)),
    FOREIGN KEY (endpoint, base) REFERENCES endpoint_revision (endpoint, revision),
    FOREIGN KEY (endpoint, target) REFERENCES endpoint_revision (endpoint, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE "worker" (
    id                    TEXT    PRIMARY KEY NOT NULL,
    endpoint              TEXT    NOT NULL,
    revision              TEXT    NOT NULL,
    state                 TEXT    NOT NULL CHECK (state IN (
                              'pending', 'pulling', 'reserved', 'creating', 'starting', 'ready', 'not_ready',
                              'paused', 'dozing', 'sleeping', 'waking', 'draining', 'stopping', 'releasing',
                              'discarding', 'failed', 'lost', 'gone')),
    generation            INTEGER NOT NULL CHECK (generation >= 0),
    since_s               REAL    NOT NULL,
    created_at_ms         INTEGER NOT NULL,
    port                  INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    gpu_uuids             TEXT    NOT NULL CHECK (gpu_uuids LIKE '[%]'),
    address               TEXT    NOT NULL,
    cause                 TEXT    NOT NULL CHECK (cause <> ''),
    detail                TEXT    NOT NULL,
    container_started_ns  INTEGER NOT NULL CHECK (container_started_ns >= 0),
    container_finished_ns INTEGER NOT NULL CHECK (container_finished_ns >= 0),
    exit_code             INTEGER,
    ready_s               REAL,
    adopted               INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    failed                INTEGER NOT NULL CHECK (failed IN (0, 1)),
    force                 INTEGER NOT NULL CHECK (force IN (0, 1)),
    gpu_slice_mib         INTEGER NOT NULL DEFAULT 0 CHECK (gpu_slice_mib >= 0),
    gpu_total_mib         INTEGER NOT NULL DEFAULT 0 CHECK (gpu_total_mib >= 0),
    -- GPUs are held from RESERVED on, and only a worker with an address can be given requests.
    CHECK (state NOT IN ('pending', 'pulling') OR gpu_uuids = '[]'),
    CHECK (state <> 'ready' OR address <> ''),
    FOREIGN KEY (endpoint, revision) REFERENCES endpoint_revision (endpoint, revision)
) STRICT;

CREATE INDEX worker_live ON worker (id) WHERE state <> 'gone';
CREATE INDEX worker_newest ON worker (created_at_ms, id);
CREATE INDEX worker_of_endpoint ON worker (endpoint, created_at_ms, id);

CREATE TABLE gpu_lease (
    id               INTEGER PRIMARY KEY,
    gpu_uuid         TEXT    NOT NULL,
    worker_id        TEXT    NOT NULL REFERENCES worker (id),
    boot_id          TEXT    NOT NULL,
    leased_boot_ns   INTEGER NOT NULL CHECK (leased_boot_ns >= 0),
    released_boot_ns INTEGER CHECK (released_boot_ns >= leased_boot_ns),
    memory_mib INTEGER CHECK (memory_mib > 0),
    of_mib INTEGER CHECK (of_mib >= memory_mib)
) STRICT;

-- The promise that a GPU has one holder, or holders of slices that fit it together. The index
-- refuses a second whole holder, the trigger all else.
CREATE UNIQUE INDEX gpu_lease_whole ON gpu_lease (gpu_uuid) WHERE released_boot_ns IS NULL AND memory_mib IS NULL;
CREATE UNIQUE INDEX gpu_lease_open ON gpu_lease (gpu_uuid, worker_id) WHERE released_boot_ns IS NULL;

CREATE TRIGGER gpu_lease_fits BEFORE INSERT ON gpu_lease WHEN NEW.released_boot_ns IS NULL
BEGIN
    SELECT RAISE(ABORT, 'the GPU has other holders')
    WHERE EXISTS (
        SELECT 1 FROM gpu_lease AS held
        WHERE held.gpu_uuid = NEW.gpu_uuid AND held.released_boot_ns IS NULL
          AND (NEW.memory_mib IS NULL OR held.memory_mib IS NULL)
    );
    SELECT RAISE(ABORT, 'the GPU has not so much memory left')
    WHERE NEW.memory_mib IS NOT NULL AND NEW.memory_mib + (
        SELECT ifnull(sum(held.memory_mib), 0) FROM gpu_lease AS held
        WHERE held.gpu_uuid = NEW.gpu_uuid AND held.released_boot_ns IS NULL
    ) > ifnull(NEW.of_mib, 0);
END;

CREATE TRIGGER gpu_lease_stays BEFORE UPDATE ON gpu_lease
WHEN NEW.gpu_uuid <> OLD.gpu_uuid OR NEW.memory_mib IS NOT OLD.memory_mib OR NEW.of_mib IS NOT OLD.of_mib
  OR (NEW.released_boot_ns IS NULL AND OLD.released_boot_ns IS NOT NULL)
BEGIN
    SELECT RAISE(ABORT, 'a lease changes only by being released');
END;
CREATE INDEX gpu_lease_of_worker ON gpu_lease (worker_id);

CREATE TABLE usage_segment (
    worker_id     TEXT    NOT NULL REFERENCES worker (id),
    seq           INTEGER NOT NULL CHECK (seq >= 0),
    phase         TEXT    NOT NULL CHECK (phase IN (
                      'setup', 'start', 'active', 'idle', 'unready', 'drain', 'stop', 'release', 'unsupervised')),
    endpoint      TEXT    NOT NULL,
    revision      TEXT    NOT NULL,
    gpu_uuids     TEXT    NOT NULL CHECK (gpu_uuids LIKE '[%]'),
    boot_id       TEXT    NOT NULL,
    start_boot_ns INTEGER NOT NULL CHECK (start_boot_ns >= 0),
    end_boot_ns   INTEGER CHECK (end_boot_ns >= start_boot_ns),
    start_wall_ms INTEGER NOT NULL,
    -- A label for finding rows, as start_wall_ms is; durations come from the boot clock alone.
    end_wall_ms   INTEGER GENERATED ALWAYS AS (start_wall_ms + (end_boot_ns - start_boot_ns) / 1000000) VIRTUAL,
    close_reason  TEXT    NOT NULL,
    estimated     INTEGER NOT NULL CHECK (estimated IN (0, 1)),
    share_ppm INTEGER NOT NULL DEFAULT 1000000 CHECK (share_ppm BETWEEN 0 AND 1000000),
    keys TEXT NOT NULL DEFAULT '{}' CHECK (keys LIKE '{%}'),
    CHECK (end_boot_ns IS NOT NULL OR (close_reason = '' AND estimated = 0)),
    PRIMARY KEY (worker_id, seq)
) STRICT;

-- At most one open segment a worker.
CREATE UNIQUE INDEX usage_segment_open ON usage_segment (worker_id) WHERE end_boot_ns IS NULL;
CREATE INDEX usage_segment_begun ON usage_segment (start_wall_ms);
CREATE INDEX usage_segment_ended ON usage_segment (end_wall_ms);

-- Closed segments summed by hour, written with them, so that a report need not read every segment.
CREATE TABLE usage_hour (
    worker_id TEXT    NOT NULL REFERENCES worker (id),
    hour      INTEGER NOT NULL,
    phase     TEXT    NOT NULL,
    endpoint  TEXT    NOT NULL,
    gpu_uuids TEXT    NOT NULL CHECK (gpu_uuids LIKE '[%]'),
    ns        INTEGER NOT NULL CHECK (ns > 0),
    share_ppm INTEGER NOT NULL DEFAULT 1000000 CHECK (share_ppm BETWEEN 0 AND 1000000),
    PRIMARY KEY (worker_id, hour, phase)
) STRICT, WITHOUT ROWID;

-- What API keys had of those hours, out of the `keys` of the segments.
CREATE TABLE usage_key_hour (
    worker_id TEXT    NOT NULL REFERENCES worker (id),
    hour      INTEGER NOT NULL,
    phase     TEXT    NOT NULL,
    key       TEXT    NOT NULL CHECK (key <> ''),
    ns        INTEGER NOT NULL CHECK (ns > 0),
    PRIMARY KEY (worker_id, hour, phase, key)
) STRICT, WITHOUT ROWID;

-- When the daemon ran and saw which GPUs.
CREATE TABLE gpu_watch (
    gpu_uuid      TEXT    NOT NULL,
    boot_id       TEXT    NOT NULL,
    start_boot_ns INTEGER NOT NULL CHECK (start_boot_ns >= 0),
    end_boot_ns   INTEGER NOT NULL CHECK (end_boot_ns >= start_boot_ns),
    start_wall_ms INTEGER NOT NULL,
    PRIMARY KEY (gpu_uuid, boot_id, start_boot_ns)
) STRICT, WITHOUT ROWID;

-- What GPUs drew by hour, and whose it was; no worker for what was nobody's.
CREATE TABLE usage_energy (
    gpu_uuid   TEXT    NOT NULL,
    worker_id  TEXT    NOT NULL,
    phase      TEXT    NOT NULL,
    hour       INTEGER NOT NULL,
    endpoint   TEXT    NOT NULL,
    mj         INTEGER NOT NULL CHECK (mj >= 0),
    -- Reckoned from power, where the driver counts no energy.
    sampled_mj INTEGER NOT NULL CHECK (sampled_mj BETWEEN 0 AND mj),
    PRIMARY KEY (gpu_uuid, worker_id, phase, hour)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_energy_of_hour ON usage_energy (hour);

-- What of it is known by the minute, for some days: looks that were further apart tell no minute.
CREATE TABLE usage_energy_minute (
    minute     INTEGER NOT NULL,
    gpu_uuid   TEXT    NOT NULL,
    worker_id  TEXT    NOT NULL,
    phase      TEXT    NOT NULL,
    endpoint   TEXT    NOT NULL,
    mj         INTEGER NOT NULL CHECK (mj >= 0),
    sampled_mj INTEGER NOT NULL CHECK (sampled_mj BETWEEN 0 AND mj),
    PRIMARY KEY (minute, gpu_uuid, worker_id, phase)
) STRICT, WITHOUT ROWID;

-- The highest threshold of each budget that people were told of, and in which period.
CREATE TABLE budget_told (
    budget   TEXT    PRIMARY KEY NOT NULL CHECK (budget <> ''),
    since_ms INTEGER NOT NULL,
    percent  INTEGER NOT NULL CHECK (percent > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE gpu_health (
    gpu_uuid   TEXT    PRIMARY KEY NOT NULL,
    name       TEXT    NOT NULL,
    memory_mib INTEGER NOT NULL,
    gpu_index  INTEGER NOT NULL,
    numa_node  INTEGER NOT NULL,
    cpus       TEXT    NOT NULL,
    mig_parent TEXT,
    health     TEXT    NOT NULL CHECK (health IN ('healthy', 'cordoned', 'quarantined', 'unhealthy')),
    reason     TEXT    NOT NULL,
    since_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    kind      TEXT    NOT NULL CHECK (kind <> ''),
    at_ms     INTEGER NOT NULL,
    endpoint  TEXT    NOT NULL,
    worker_id TEXT    NOT NULL,
    facts     TEXT    NOT NULL CHECK (facts LIKE '{%}')
) STRICT;

CREATE INDEX event_of_endpoint ON event (endpoint, seq) WHERE endpoint <> '';
CREATE INDEX event_of_worker ON event (worker_id, seq) WHERE worker_id <> '';

CREATE TABLE heartbeat (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    boot_id TEXT    NOT NULL,
    boot_ns INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE api_key (
    id              TEXT    PRIMARY KEY NOT NULL,
    label           TEXT    NOT NULL,
    secret_sha256   BLOB    NOT NULL CHECK (length(secret_sha256) = 32),
    scopes          TEXT    NOT NULL CHECK (scopes LIKE '[%]'),
    created_at_ms   INTEGER NOT NULL,
    expires_at_ms   INTEGER NOT NULL CHECK (expires_at_ms >= 0),
    disabled        INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    last_used_at_ms INTEGER NOT NULL CHECK (last_used_at_ms >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE registry (
    name            TEXT    PRIMARY KEY NOT NULL CHECK (name <> ''),
    host            TEXT    NOT NULL,
    username        TEXT    NOT NULL,
    password_nonce  BLOB    NOT NULL CHECK (length(password_nonce) = 12),
    password_sealed BLOB    NOT NULL CHECK (length(password_sealed) >= 16),
    created_at_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook (
    id                  TEXT    PRIMARY KEY NOT NULL,
    url                 TEXT    NOT NULL,
    destination         TEXT    NOT NULL,
    types               TEXT    NOT NULL CHECK (types LIKE '[%]'),
    endpoint            TEXT    NOT NULL,
    description         TEXT    NOT NULL,
    created_at_ms       INTEGER NOT NULL,
    secret_nonce        BLOB    NOT NULL CHECK (length(secret_nonce) = 12),
    secret_sealed       BLOB    NOT NULL CHECK (length(secret_sealed) >= 16),
    old_secret_nonce    BLOB    CHECK (length(old_secret_nonce) = 12),
    old_secret_sealed   BLOB    CHECK (length(old_secret_sealed) >= 16),
    old_secret_until_ms INTEGER NOT NULL CHECK (old_secret_until_ms >= 0),
    disabled_reason     TEXT    NOT NULL,
    failing_since_ms    INTEGER NOT NULL CHECK (failing_since_ms >= 0),
    failures            INTEGER NOT NULL CHECK (failures >= 0),
    CHECK ((old_secret_nonce IS NULL) = (old_secret_sealed IS NULL))
) STRICT, WITHOUT ROWID;

-- The outbox: written with what it tells of, in one transaction.
CREATE TABLE webhook_delivery (
    id            TEXT    PRIMARY KEY NOT NULL,
    webhook_id    TEXT    NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind <> ''),
    endpoint      TEXT    NOT NULL,
    url           TEXT    NOT NULL,
    destination   TEXT    NOT NULL,
    format        TEXT    NOT NULL CHECK (format IN ('standard', 'runpod')),
    state         TEXT    NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed', 'dropped')),
    created_at_ms INTEGER NOT NULL,
    body          BLOB    NOT NULL,
    attempts      INTEGER NOT NULL CHECK (attempts >= 0),
    tries         INTEGER NOT NULL CHECK (tries BETWEEN 0 AND attempts),
    next_at_ms    INTEGER NOT NULL,
    delay_ms      INTEGER NOT NULL CHECK (delay_ms >= 0)
) STRICT;

CREATE INDEX webhook_delivery_waiting ON webhook_delivery (destination, next_at_ms) WHERE state = 'waiting';
CREATE INDEX webhook_delivery_of_webhook ON webhook_delivery (webhook_id, created_at_ms, id);
CREATE INDEX webhook_delivery_ended ON webhook_delivery (next_at_ms) WHERE state <> 'waiting';

CREATE TABLE webhook_attempt (
    delivery_id TEXT    NOT NULL REFERENCES webhook_delivery (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL CHECK (number > 0),
    at_ms       INTEGER NOT NULL,
    took_ms     INTEGER NOT NULL CHECK (took_ms >= 0),
    status      INTEGER NOT NULL CHECK (status >= 0),
    error       TEXT    NOT NULL,
    answer      BLOB    NOT NULL CHECK (length(answer) <= 65536),
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    at_ms       INTEGER NOT NULL,
    status      INTEGER,
    body        BLOB,
    -- Both or neither: a row without an answer is a request still being answered.
    CHECK ((status IS NULL) = (body IS NULL)),
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_age ON idempotency (at_ms);

-- Jobs: work that outlives its request. Times are milliseconds of the job timeline, not of the wall clock.

CREATE TABLE job_timeline (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    boot_id TEXT    NOT NULL,
    boot_ns INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL
) STRICT;

CREATE TABLE job (
    seq                  INTEGER PRIMARY KEY AUTOINCREMENT,
    id                   TEXT    NOT NULL UNIQUE,
    endpoint             TEXT    NOT NULL,
    owner                TEXT    NOT NULL,
    state                TEXT    NOT NULL CHECK (state IN (
                             'IN_QUEUE', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT')),
    reason               TEXT    NOT NULL,
    priority             INTEGER NOT NULL,
    effective_priority   INTEGER NOT NULL,
    low_priority         INTEGER NOT NULL CHECK (low_priority IN (0, 1)),
    group_key            TEXT    NOT NULL,
    solo                 INTEGER NOT NULL CHECK (solo IN (0, 1)),
    attempt              INTEGER NOT NULL CHECK (attempt >= 0),
    deliveries           INTEGER NOT NULL CHECK (deliveries >= attempt),
    deliveries_before    INTEGER NOT NULL CHECK (deliveries_before BETWEEN 0 AND deliveries),
    max_attempts         INTEGER NOT NULL,
    created_at_ms        INTEGER NOT NULL,
    available_at_ms      INTEGER NOT NULL,
    expires_at_ms        INTEGER NOT NULL,
    deadline_ms          INTEGER NOT NULL,
    ttl_ms               INTEGER NOT NULL,
    execution_timeout_ms INTEGER NOT NULL,
    started_at_ms        INTEGER NOT NULL,
    finished_at_ms       INTEGER NOT NULL,
    purge_at_ms          INTEGER NOT NULL,
    worker_id            TEXT    NOT NULL,
    instance             TEXT    NOT NULL,
    cancel_requested     INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    dead                 INTEGER NOT NULL CHECK (dead IN (0, 1)),
    redrives             INTEGER NOT NULL,
    sync                 INTEGER NOT NULL CHECK (sync IN (0, 1)),
    webhook              TEXT    NOT NULL,
    error                TEXT    NOT NULL,
    input_bytes          INTEGER NOT NULL,
    -- Waits for `available_at_ms`; a timer puts it back into the ready index, which is then never scanned over it.
    scheduled            INTEGER NOT NULL CHECK (scheduled IN (0, 1)),
    lease_until_ms       INTEGER NOT NULL DEFAULT 0,
    gpu_ns INTEGER NOT NULL DEFAULT 0 CHECK (gpu_ns >= 0),
    cost_micros INTEGER NOT NULL DEFAULT 0 CHECK (cost_micros >= 0),
    energy_mj INTEGER NOT NULL DEFAULT 0 CHECK (energy_mj >= 0),
    path                 TEXT    NOT NULL DEFAULT '',
    CHECK ((state = 'IN_PROGRESS') = (instance <> '')),
    CHECK (state = 'IN_QUEUE' OR scheduled = 0),
    CHECK ((state IN ('IN_QUEUE', 'IN_PROGRESS')) = (finished_at_ms = 0))
) STRICT;

CREATE INDEX job_ready ON job (endpoint, effective_priority DESC, available_at_ms, seq)
    WHERE state = 'IN_QUEUE' AND scheduled = 0;
CREATE INDEX job_scheduled ON job (available_at_ms) WHERE scheduled = 1;
CREATE INDEX job_expiry ON job (expires_at_ms) WHERE state = 'IN_QUEUE';
CREATE INDEX job_running ON job (seq) WHERE state = 'IN_PROGRESS';
CREATE INDEX job_purge ON job (purge_at_ms) WHERE purge_at_ms > 0;
CREATE INDEX job_of_endpoint ON job (endpoint, seq);
CREATE INDEX job_dead ON job (seq) WHERE dead = 1;

-- What jobs used whose rows are gone: kept for bills, long after inputs and results. Those that never ran used nothing.
CREATE TABLE job_usage (
    seq            INTEGER PRIMARY KEY,
    id             TEXT    NOT NULL,
    endpoint       TEXT    NOT NULL,
    owner          TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    deliveries     INTEGER NOT NULL,
    redrives       INTEGER NOT NULL,
    created_at_ms  INTEGER NOT NULL,
    started_at_ms  INTEGER NOT NULL,
    finished_at_ms INTEGER NOT NULL CHECK (finished_at_ms > 0),
    worker_id      TEXT    NOT NULL,
    gpu_ns         INTEGER NOT NULL,
    cost_micros    INTEGER NOT NULL,
    energy_mj      INTEGER NOT NULL
) STRICT;

-- Whoever began of a group holds it until it is over; and the promise that no two of it run at once.
CREATE INDEX job_group ON job (endpoint, group_key) WHERE group_key <> '' AND finished_at_ms = 0 AND deliveries > 0;
CREATE UNIQUE INDEX job_group_running ON job (endpoint, group_key) WHERE group_key <> '' AND state = 'IN_PROGRESS';

-- Input, result and progress. Large ones are files named by their SHA-256; `ref` names the file.
CREATE TABLE job_payload (
    job_seq      INTEGER NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    kind         TEXT    NOT NULL CHECK (kind IN ('input', 'result', 'progress')),
    content_type TEXT    NOT NULL,
    size         INTEGER NOT NULL CHECK (size >= 0),
    content      BLOB,
    ref          TEXT,
    CHECK ((content IS NULL) <> (ref IS NULL)),
    PRIMARY KEY (job_seq, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_payload_ref ON job_payload (ref) WHERE ref IS NOT NULL;

CREATE TABLE job_chunk (
    job_seq  INTEGER NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    n        INTEGER NOT NULL,
    delivery INTEGER NOT NULL,
    content  BLOB    NOT NULL,
    PRIMARY KEY (job_seq, n)
) STRICT, WITHOUT ROWID;

-- How far the chunks of a job were handed to whoever drains them: up to the n-th of a delivery.
CREATE TABLE job_drain (
    job_seq  INTEGER PRIMARY KEY REFERENCES job (seq) ON DELETE CASCADE,
    delivery INTEGER NOT NULL,
    n        INTEGER NOT NULL
) STRICT;

-- Deliveries that did not complete; the one that did, or that is under way, is told by the job's own row.
CREATE TABLE job_attempt (
    job_seq       INTEGER NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    delivery      INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    worker_id     TEXT    NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms   INTEGER NOT NULL,
    ending        TEXT    NOT NULL,
    reason        TEXT    NOT NULL,
    error         TEXT    NOT NULL,
    exit_code     INTEGER,
    log_tail      TEXT    NOT NULL,
    PRIMARY KEY (job_seq, delivery)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_idempotency (
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    job_seq     INTEGER NOT NULL REFERENCES job (seq) ON DELETE CASCADE,
    at_ms       INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_idempotency_of_job ON job_idempotency (job_seq);

-- How many ever ended in which way, since rows do not stay.
CREATE TABLE job_total (
    endpoint TEXT    NOT NULL,
    ending   TEXT    NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (endpoint, ending)
) STRICT, WITHOUT ROWID;

CREATE TABLE arrival (
    id       INTEGER PRIMARY KEY,
    endpoint TEXT    NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL CHECK (last_ms >= first_ms),
    requests INTEGER NOT NULL CHECK (requests > 0),
    packed   BLOB    NOT NULL
) STRICT;

CREATE INDEX arrival_of_endpoint ON arrival (endpoint, last_ms);
CREATE INDEX arrival_age ON arrival (last_ms);

CREATE TABLE prediction (
    endpoint TEXT PRIMARY KEY NOT NULL,
    gaps     TEXT NOT NULL CHECK (gaps LIKE '{%}'),
    shadow   TEXT NOT NULL CHECK (shadow LIKE '{%}')
) STRICT, WITHOUT ROWID;

CREATE TABLE standby (
    id            TEXT    PRIMARY KEY NOT NULL,
    endpoint      TEXT    NOT NULL,
    revision      TEXT    NOT NULL,
    rung          TEXT    NOT NULL CHECK (rung IN ('created', 'parked', 'paused', 'sleeping')),
    state         TEXT    NOT NULL CHECK (state IN ('preparing', 'ready', 'claimed', 'discarding')),
    since_s       REAL    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- The GPUs its container can reach. It holds no lease: that begins with the worker it becomes.
    gpu_uuids     TEXT    NOT NULL CHECK (gpu_uuids LIKE '[%]'),
    address       TEXT    NOT NULL,
    detail        TEXT    NOT NULL,
    ram_mib       INTEGER NOT NULL CHECK (ram_mib >= 0),
    FOREIGN KEY (endpoint, revision) REFERENCES endpoint_revision (endpoint, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE "cold_start" (
    worker_id TEXT    NOT NULL,
    at_ms     INTEGER NOT NULL,
    endpoint  TEXT    NOT NULL,
    revision  TEXT    NOT NULL,
    -- The rung that the worker was woken from; empty for a start from nothing.
    woken     TEXT    NOT NULL CHECK (woken IN ('', 'paused', 'sleeping')),
    phases_ns TEXT    NOT NULL CHECK (phases_ns LIKE '{%}'),
    wanted    TEXT    NOT NULL DEFAULT '{}' CHECK (wanted LIKE '{%}'),
    PRIMARY KEY (worker_id, at_ms)
) STRICT, WITHOUT ROWID;

CREATE INDEX cold_start_of_endpoint ON cold_start (endpoint, at_ms, worker_id);

-- Calls that changed something. Entries come and, after their time, go; none ever changes.
CREATE TABLE audit_log (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms      INTEGER NOT NULL,
    request_id TEXT    NOT NULL,
    caller     TEXT    NOT NULL CHECK (caller <> ''),
    source     TEXT    NOT NULL,
    operation  TEXT    NOT NULL CHECK (operation <> ''),
    method     TEXT    NOT NULL,
    path       TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    status     INTEGER NOT NULL,
    before     TEXT    NOT NULL,
    after      TEXT    NOT NULL,
    detail     TEXT    NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX audit_log_age ON audit_log (at_ms);

CREATE TRIGGER audit_log_stands BEFORE UPDATE ON audit_log
BEGIN
    SELECT raise(ABORT, 'an entry of the audit log never changes');
END;
