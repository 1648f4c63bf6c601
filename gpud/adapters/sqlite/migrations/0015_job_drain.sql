-- How far the chunks of a job were handed to whoever drains them: up to the n-th of a delivery.
CREATE TABLE job_drain (
    job_seq  INTEGER PRIMARY KEY REFERENCES job (seq) ON DELETE CASCADE,
    delivery INTEGER NOT NULL,
    n        INTEGER NOT NULL
) STRICT;
