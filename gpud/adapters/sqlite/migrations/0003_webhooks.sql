-- Subscriptions, the outbox, and the log of what was delivered.

CREATE TABLE webhook (
    id                  TEXT    PRIMARY KEY NOT NULL,
    url                 TEXT    NOT NULL,
    destination         TEXT    NOT NULL,
    types               TEXT    NOT NULL CHECK (types LIKE '[%]'),
    endpoint            TEXT    NOT NULL,
    description         TEXT    NOT NULL,
    created_at_ms       INTEGER NOT NULL,
    secret_nonce        BLOB    NOT NULL CHECK (length(secret_nonce) = 12),
    secret_sealed       BLOB    NOT NULL CHECK (length(secret_sealed) >= 16),
    old_secret_nonce    BLOB    CHECK (length(old_secret_nonce) = 12),
    old_secret_sealed   BLOB    CHECK (length(old_secret_sealed) >= 16),
    old_secret_until_ms INTEGER NOT NULL CHECK (old_secret_until_ms >= 0),
    disabled_reason     TEXT    NOT NULL,
    failing_since_ms    INTEGER NOT NULL CHECK (failing_since_ms >= 0),
    failures            INTEGER NOT NULL CHECK (failures >= 0),
    CHECK ((old_secret_nonce IS NULL) = (old_secret_sealed IS NULL))
) STRICT, WITHOUT ROWID;

-- The outbox: written with what it tells of, in one transaction.
CREATE TABLE webhook_delivery (
    id            TEXT    PRIMARY KEY NOT NULL,
    webhook_id    TEXT    NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind <> ''),
    endpoint      TEXT    NOT NULL,
    url           TEXT    NOT NULL,
    destination   TEXT    NOT NULL,
    format        TEXT    NOT NULL CHECK (format IN ('standard', 'runpod')),
    state         TEXT    NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed', 'dropped')),
    created_at_ms INTEGER NOT NULL,
    body          BLOB    NOT NULL,
    attempts      INTEGER NOT NULL CHECK (attempts >= 0),
    tries         INTEGER NOT NULL CHECK (tries BETWEEN 0 AND attempts),
    next_at_ms    INTEGER NOT NULL,
    delay_ms      INTEGER NOT NULL CHECK (delay_ms >= 0)
) STRICT;

CREATE INDEX webhook_delivery_waiting ON webhook_delivery (destination, next_at_ms) WHERE state = 'waiting';
CREATE INDEX webhook_delivery_of_webhook ON webhook_delivery (webhook_id, created_at_ms, id);
CREATE INDEX webhook_delivery_ended ON webhook_delivery (created_at_ms) WHERE state <> 'waiting';

CREATE TABLE webhook_attempt (
    delivery_id TEXT    NOT NULL REFERENCES webhook_delivery (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL CHECK (number > 0),
    at_ms       INTEGER NOT NULL,
    took_ms     INTEGER NOT NULL CHECK (took_ms >= 0),
    status      INTEGER NOT NULL CHECK (status >= 0),
    error       TEXT    NOT NULL,
    answer      BLOB    NOT NULL CHECK (length(answer) <= 65536),
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;
