-- What an entry of the audit log is about, where operation and subject do not say it: a command and its end.
ALTER TABLE audit_log ADD COLUMN detail TEXT NOT NULL DEFAULT '';
