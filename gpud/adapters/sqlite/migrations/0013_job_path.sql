-- Where at its worker a job is posted; empty for the endpoint's own path for jobs.
ALTER TABLE job ADD COLUMN path TEXT NOT NULL DEFAULT '';
