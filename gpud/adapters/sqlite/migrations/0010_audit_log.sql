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
    after      TEXT    NOT NULL
) STRICT;

CREATE INDEX audit_log_age ON audit_log (at_ms);

CREATE TRIGGER audit_log_stands BEFORE UPDATE ON audit_log
BEGIN
    SELECT raise(ABORT, 'an entry of the audit log never changes');
END;
