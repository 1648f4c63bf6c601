-- Who used what: API keys' shares of segments and hours, and what each job used.

ALTER TABLE usage_segment ADD COLUMN keys TEXT NOT NULL DEFAULT '{}' CHECK (keys LIKE '{%}');

CREATE TABLE usage_key_hour (
    worker_id TEXT    NOT NULL REFERENCES worker (id),
    hour      INTEGER NOT NULL,
    phase     TEXT    NOT NULL,
    key       TEXT    NOT NULL CHECK (key <> ''),
    ns        INTEGER NOT NULL CHECK (ns > 0),
    PRIMARY KEY (worker_id, hour, phase, key)
) STRICT, WITHOUT ROWID;

ALTER TABLE job ADD COLUMN gpu_ns INTEGER NOT NULL DEFAULT 0 CHECK (gpu_ns >= 0);
ALTER TABLE job ADD COLUMN cost_micros INTEGER NOT NULL DEFAULT 0 CHECK (cost_micros >= 0);
ALTER TABLE job ADD COLUMN energy_mj INTEGER NOT NULL DEFAULT 0 CHECK (energy_mj >= 0);
