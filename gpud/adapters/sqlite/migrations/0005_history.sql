-- What came, a minute of an endpoint's requests in a row, and what is known of the gaps between them.

CREATE TABLE arrival (
    id       INTEGER PRIMARY KEY,
    endpoint TEXT    NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL CHECK (last_ms >= first_ms),
    requests INTEGER NOT NULL CHECK (requests > 0),
    packed   BLOB    NOT NULL
) STRICT;

CREATE INDEX arrival_of_endpoint ON arrival (endpoint, last_ms);
CREATE INDEX arrival_age ON arrival (last_ms);

CREATE TABLE prediction (
    endpoint TEXT PRIMARY KEY NOT NULL,
    gaps     TEXT NOT NULL CHECK (gaps LIKE '{%}'),
    shadow   TEXT NOT NULL CHECK (shadow LIKE '{%}')
) STRICT, WITHOUT ROWID;
