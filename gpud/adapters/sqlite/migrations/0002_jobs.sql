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
