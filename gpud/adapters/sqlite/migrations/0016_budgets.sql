-- The highest threshold of each budget that people were told of, and in which period.

CREATE TABLE budget_told (
    budget   TEXT    PRIMARY KEY NOT NULL CHECK (budget <> ''),
    since_ms INTEGER NOT NULL,
    percent  INTEGER NOT NULL CHECK (percent > 0)
) STRICT, WITHOUT ROWID;
