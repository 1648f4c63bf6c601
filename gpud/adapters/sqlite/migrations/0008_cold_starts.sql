-- Where the time of each start went; the newest of each endpoint stay.
CREATE TABLE cold_start (
    worker_id TEXT    PRIMARY KEY NOT NULL,
    endpoint  TEXT    NOT NULL,
    revision  TEXT    NOT NULL,
    at_ms     INTEGER NOT NULL,
    phases_ns TEXT    NOT NULL CHECK (phases_ns LIKE '{%}')
) STRICT, WITHOUT ROWID;

CREATE INDEX cold_start_of_endpoint ON cold_start (endpoint, at_ms, worker_id);
