-- Containers kept on a rung between nothing and a worker.

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
