ALTER TABLE endpoint_revision ADD COLUMN number INTEGER NOT NULL DEFAULT 0 CHECK (number >= 0);
ALTER TABLE endpoint_revision ADD COLUMN state TEXT NOT NULL DEFAULT 'superseded' CHECK (state IN (
    'deploying', 'current', 'last_good', 'superseded', 'failed'));
ALTER TABLE endpoint_revision ADD COLUMN detail TEXT NOT NULL DEFAULT '';
ALTER TABLE endpoint_revision ADD COLUMN changed_at_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoint_revision ADD COLUMN ready_at_ms INTEGER NOT NULL DEFAULT 0 CHECK (ready_at_ms >= 0);

UPDATE endpoint_revision SET
    number = (
        SELECT count(*) FROM endpoint_revision AS earlier
        WHERE earlier.endpoint = endpoint_revision.endpoint
            AND (earlier.created_at_ms, earlier.revision)
                <= (endpoint_revision.created_at_ms, endpoint_revision.revision)
    ),
    state = iif(
        EXISTS (
            SELECT 1 FROM endpoint
            WHERE endpoint.name = endpoint_revision.endpoint AND endpoint.revision = endpoint_revision.revision
        ), 'current', 'superseded'
    ),
    changed_at_ms = created_at_ms,
    ready_at_ms = iif(
        EXISTS (
            SELECT 1 FROM worker
            WHERE worker.endpoint = endpoint_revision.endpoint AND worker.revision = endpoint_revision.revision
                AND worker.ready_s IS NOT NULL
        ), created_at_ms, 0
    );

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
