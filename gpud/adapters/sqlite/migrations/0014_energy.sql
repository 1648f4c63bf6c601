-- When the daemon ran and saw which GPUs, and what they drew.

-- Less what was leased, it is the time in which nobody had them.
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
