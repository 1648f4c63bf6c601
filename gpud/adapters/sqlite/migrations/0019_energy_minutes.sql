-- What GPUs drew by the minute, for some days: looks that were further apart tell no minute.

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
