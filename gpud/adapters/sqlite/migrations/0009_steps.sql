-- Workers may step down when idle: paused, they keep their GPUs; asleep, they do not. A wake is recorded as
-- a start is, so a worker may have several records.

CREATE TABLE worker_new (
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

INSERT INTO worker_new (id, endpoint, revision, state, generation, since_s, created_at_ms, port, gpu_uuids, address, cause, detail, container_started_ns, container_finished_ns, exit_code, ready_s, adopted, failed, force, gpu_slice_mib, gpu_total_mib)
SELECT id, endpoint, revision, state, generation, since_s, created_at_ms, port, gpu_uuids, address, cause, detail, container_started_ns, container_finished_ns, exit_code, ready_s, adopted, failed, force, gpu_slice_mib, gpu_total_mib
FROM worker;
DROP TABLE worker;
ALTER TABLE worker_new RENAME TO worker;

CREATE INDEX worker_live ON worker (id) WHERE state <> 'gone';
CREATE INDEX worker_newest ON worker (created_at_ms, id);
CREATE INDEX worker_of_endpoint ON worker (endpoint, created_at_ms, id);

CREATE TABLE cold_start_new (
    worker_id TEXT    NOT NULL,
    at_ms     INTEGER NOT NULL,
    endpoint  TEXT    NOT NULL,
    revision  TEXT    NOT NULL,
    -- The rung that the worker was woken from; empty for a start from nothing.
    woken     TEXT    NOT NULL CHECK (woken IN ('', 'paused', 'sleeping')),
    phases_ns TEXT    NOT NULL CHECK (phases_ns LIKE '{%}'),
    PRIMARY KEY (worker_id, at_ms)
) STRICT, WITHOUT ROWID;

INSERT INTO cold_start_new (worker_id, at_ms, endpoint, revision, woken, phases_ns)
SELECT worker_id, at_ms, endpoint, revision, '', phases_ns FROM cold_start;
DROP TABLE cold_start;
ALTER TABLE cold_start_new RENAME TO cold_start;

CREATE INDEX cold_start_of_endpoint ON cold_start (endpoint, at_ms, worker_id);
