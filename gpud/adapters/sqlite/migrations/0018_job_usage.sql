-- What jobs used whose rows are gone: kept for bills, long after inputs and results.

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
