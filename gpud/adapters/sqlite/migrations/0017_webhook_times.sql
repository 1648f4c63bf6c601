-- A delivery's `next_at_ms` is of the job timeline now, which no step of the wall clock moves: when it is due, or when it ended.
DROP INDEX webhook_delivery_ended;
CREATE INDEX webhook_delivery_ended ON webhook_delivery (next_at_ms) WHERE state <> 'waiting';
