-- Every statement on jobs. `statements.py` reads this file beside `queries.sql`; a test prepares each one.

-- name: job_timeline_read
SELECT boot_id, boot_ns, at_ms FROM job_timeline WHERE id = 1;

-- name: job_timeline_write
INSERT INTO job_timeline (id, boot_id, boot_ns, at_ms) VALUES (1, :boot_id, :boot_ns, :at_ms)
ON CONFLICT (id) DO UPDATE SET boot_id = excluded.boot_id, boot_ns = excluded.boot_ns, at_ms = excluded.at_ms;

-- name: job_newest
SELECT max(created_at_ms, started_at_ms, finished_at_ms) FROM job ORDER BY seq DESC LIMIT 1;

-- name: job_newest_seq
-- Ever given, so that none is given twice although rows go.
SELECT max(seq) AS seq FROM sqlite_sequence WHERE name = 'job';

-- name: job_insert
INSERT INTO job (
    seq, id, endpoint, owner, priority, effective_priority, low_priority, group_key, max_attempts, created_at_ms,
    available_at_ms, expires_at_ms, deadline_ms, ttl_ms, execution_timeout_ms, sync, webhook, input_bytes, path,
    state, reason, solo, attempt, deliveries, deliveries_before, started_at_ms, finished_at_ms, purge_at_ms, worker_id,
    instance, cancel_requested, dead, redrives, error, scheduled
) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    'IN_QUEUE', '', 0, 0, 0, 0, 0, 0, 0, '', '', 0, 0, 0, '', 0
);

-- name: job_payload_insert
-- Of a job that is new: nothing can be there.
INSERT INTO job_payload (job_seq, kind, content_type, size, content, ref) VALUES (?, ?, ?, ?, ?, ?);

-- name: job_payload_put
INSERT INTO job_payload (job_seq, kind, content_type, size, content, ref) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (job_seq, kind) DO UPDATE SET
    content_type = excluded.content_type, size = excluded.size, content = excluded.content, ref = excluded.ref;

-- name: job_payload_read
SELECT content_type, content, ref FROM job_payload WHERE job_seq = :seq AND kind = :kind;

-- name: job_payload_drop
DELETE FROM job_payload WHERE job_seq = :seq AND kind <> 'input';

-- name: job_payload_refs
SELECT 1 FROM job_payload WHERE ref = :ref LIMIT 1;

-- name: job_payload_files
-- Of a copy that is being made; reads an index alone.
SELECT DISTINCT ref FROM job_payload WHERE ref IS NOT NULL ORDER BY ref;

-- name: job_claim
UPDATE job SET
    state = 'IN_PROGRESS', reason = '', attempt = attempt + 1, deliveries = deliveries + 1,
    started_at_ms = :now_ms, worker_id = :worker_id, instance = :instance, lease_until_ms = :lease_until_ms
WHERE seq = :seq AND state = 'IN_QUEUE' AND scheduled = 0 AND expires_at_ms > :now_ms
RETURNING *;

-- name: jobs_claim_new
-- Jobs that nobody has had or changed since they were accepted: whoever asks knows the rest of their rows.
UPDATE job SET
    state = 'IN_PROGRESS', attempt = 1, deliveries = 1, started_at_ms = new.column2, worker_id = new.column3,
    instance = new.column4, lease_until_ms = new.column5
FROM (VALUES (?, ?, ?, ?, ?, ?)) AS new
WHERE job.seq = new.column1 AND state = 'IN_QUEUE' AND scheduled = 0 AND expires_at_ms > new.column2
  AND deliveries = 0 AND redrives = 0 AND effective_priority = new.column6;

-- name: jobs_complete
-- The fence: a stale delivery changes nothing.
UPDATE job SET
    state = 'COMPLETED', reason = '', error = '', instance = '', finished_at_ms = done.column4,
    purge_at_ms = done.column5, gpu_ns = done.column6, cost_micros = done.column7, energy_mj = done.column8
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?)) AS done
WHERE job.seq = done.column1 AND state = 'IN_PROGRESS' AND deliveries = done.column2 AND instance = done.column3;

-- name: job_update
UPDATE job SET
    state = :state, reason = :reason, effective_priority = :effective_priority, solo = :solo, attempt = :attempt,
    deliveries = :deliveries, deliveries_before = :deliveries_before, available_at_ms = :available_at_ms,
    expires_at_ms = :expires_at_ms, deadline_ms = :deadline_ms, started_at_ms = :started_at_ms,
    finished_at_ms = :finished_at_ms, purge_at_ms = :purge_at_ms, worker_id = :worker_id, instance = :instance,
    cancel_requested = :cancel_requested, dead = :dead, redrives = :redrives, error = :error, scheduled = :scheduled,
    gpu_ns = :gpu_ns, cost_micros = :cost_micros, energy_mj = :energy_mj
WHERE seq = :seq;

-- name: job_by_seq
SELECT * FROM job WHERE seq = :seq;

-- name: job_by_id
SELECT * FROM job WHERE id = :id;

-- name: job_attempt_insert
INSERT INTO job_attempt (
    job_seq, delivery, attempt, worker_id, started_at_ms, ended_at_ms, ending, reason, error, exit_code, log_tail
) VALUES (
    :seq, :delivery, :attempt, :worker_id, :started_at_ms, :ended_at_ms, :ending, :reason, :error, :exit_code, :log_tail
);

-- name: job_attempts
SELECT * FROM job_attempt WHERE job_seq = :seq ORDER BY delivery;

-- name: job_total_add
INSERT INTO job_total (endpoint, ending, count) VALUES (:endpoint, :ending, :count)
ON CONFLICT (endpoint, ending) DO UPDATE SET count = count + excluded.count;

-- name: job_totals
SELECT endpoint, ending, count FROM job_total;

-- name: jobs_waiting_totals
SELECT endpoint, low_priority, count(*) AS count, sum(input_bytes) AS input_bytes FROM job
WHERE state = 'IN_QUEUE' GROUP BY endpoint, low_priority;

-- name: jobs_scheduled
SELECT endpoint, seq FROM job INDEXED BY job_scheduled WHERE scheduled = 1 AND low_priority = 0;

-- name: jobs_running
SELECT * FROM job WHERE state = 'IN_PROGRESS' ORDER BY seq;

-- name: job_take_over
-- The delivery is the same one: only who renews its lease is another.
UPDATE job SET instance = :instance, lease_until_ms = :until_ms WHERE seq = :seq AND state = 'IN_PROGRESS';

-- name: jobs_group_holders
SELECT endpoint, group_key, seq FROM job WHERE group_key <> '' AND finished_at_ms = 0 AND deliveries > 0;

-- name: jobs_ready_first
SELECT effective_priority, available_at_ms, seq, id, group_key, solo FROM job INDEXED BY job_ready
WHERE state = 'IN_QUEUE' AND scheduled = 0 AND endpoint = :endpoint
ORDER BY effective_priority DESC, available_at_ms, seq LIMIT :limit;

-- name: jobs_ready_same
SELECT effective_priority, available_at_ms, seq, id, group_key, solo FROM job INDEXED BY job_ready
WHERE state = 'IN_QUEUE' AND scheduled = 0 AND endpoint = :endpoint AND effective_priority = :priority
  AND (available_at_ms, seq) > (:available_at_ms, :seq)
ORDER BY available_at_ms, seq LIMIT :limit;

-- name: jobs_ready_below
SELECT effective_priority, available_at_ms, seq, id, group_key, solo FROM job INDEXED BY job_ready
WHERE state = 'IN_QUEUE' AND scheduled = 0 AND endpoint = :endpoint AND effective_priority < :priority
ORDER BY effective_priority DESC, available_at_ms, seq LIMIT :limit;

-- name: jobs_release_due
-- Their time has come: from the scheduled index into the ready one.
UPDATE job SET scheduled = 0 WHERE seq IN (
    SELECT seq FROM job INDEXED BY job_scheduled WHERE scheduled = 1 AND available_at_ms <= :now_ms
    ORDER BY available_at_ms LIMIT :limit)
RETURNING *;

-- name: jobs_next_due
SELECT min(available_at_ms) AS at_ms FROM job INDEXED BY job_scheduled WHERE scheduled = 1;

-- name: jobs_expired
SELECT * FROM job INDEXED BY job_expiry WHERE state = 'IN_QUEUE' AND expires_at_ms <= :now_ms
ORDER BY expires_at_ms LIMIT :limit;

-- name: jobs_next_expiry
SELECT min(expires_at_ms) AS at_ms FROM job INDEXED BY job_expiry WHERE state = 'IN_QUEUE';

-- name: jobs_purge_due
SELECT seq, id FROM job INDEXED BY job_purge WHERE purge_at_ms > 0 AND purge_at_ms <= :now_ms
ORDER BY purge_at_ms LIMIT :limit;

-- name: job_usage_keep
INSERT INTO job_usage (
    seq, id, endpoint, owner, state, reason, deliveries, redrives, created_at_ms, started_at_ms, finished_at_ms,
    worker_id, gpu_ns, cost_micros, energy_mj
)
SELECT seq, id, endpoint, owner, state, reason, deliveries, redrives, created_at_ms, started_at_ms, finished_at_ms,
    worker_id, gpu_ns, cost_micros, energy_mj
FROM job WHERE seq = :seq AND deliveries > 0;

-- name: job_delete
DELETE FROM job WHERE seq = :seq;

-- name: job_usage_forget
-- The oldest by number, as far as their time is over: none of them is looked for.
DELETE FROM job_usage WHERE finished_at_ms < :before_ms
  AND seq IN (SELECT o.seq FROM job_usage AS o ORDER BY o.seq LIMIT :limit);

-- name: job_usage_page
-- Jobs that are over, kept and gone, with when their worker was wanted and when it first served.
SELECT j.*, w.created_at_ms AS asked_at_ms, (
    SELECT s.start_wall_ms FROM usage_segment AS s
    WHERE s.worker_id = j.worker_id AND s.phase IN ('active', 'idle') ORDER BY s.seq LIMIT 1
) AS ready_at_ms
FROM (
    SELECT seq, id, endpoint, owner, state, reason, deliveries, redrives, created_at_ms, started_at_ms,
        finished_at_ms, worker_id, gpu_ns, cost_micros, energy_mj
    FROM job WHERE seq > :after AND seq <= :upto
    UNION ALL
    SELECT * FROM job_usage WHERE seq > :after AND seq <= :upto
    ORDER BY seq
) AS j LEFT JOIN worker AS w ON w.id = j.worker_id
WHERE j.finished_at_ms >= :since_ms AND j.finished_at_ms < :until_ms AND j.deliveries > 0
  AND (:endpoint = '' OR j.endpoint = :endpoint) AND (:owner IS NULL OR j.owner = :owner)
ORDER BY j.seq LIMIT :limit;

-- name: job_usage_newest
SELECT max(
    coalesce((SELECT max(seq) FROM job), 0), coalesce((SELECT max(seq) FROM job_usage), 0)
) AS seq;

-- name: jobs_renew_leases
UPDATE job SET lease_until_ms = :until_ms
WHERE state = 'IN_PROGRESS' AND instance = :instance AND seq IN (SELECT value FROM json_each(:seqs));

-- name: jobs_lapsed
SELECT * FROM job INDEXED BY job_running WHERE state = 'IN_PROGRESS' AND lease_until_ms <= :now_ms LIMIT :limit;

-- name: jobs_priority_levels
SELECT min(effective_priority) AS least, max(effective_priority) AS most FROM job INDEXED BY job_ready
WHERE state = 'IN_QUEUE' AND scheduled = 0 AND endpoint = :endpoint;

-- name: jobs_age
-- One step up for those of one level that waited long enough for their next one.
UPDATE job SET effective_priority = effective_priority + 1 WHERE seq IN (
    SELECT seq FROM job INDEXED BY job_ready
    WHERE state = 'IN_QUEUE' AND scheduled = 0 AND endpoint = :endpoint AND effective_priority = :level
      AND available_at_ms <= :now_ms - :step_ms * (effective_priority - priority + 1)
      AND effective_priority - priority < :steps_max
    ORDER BY available_at_ms LIMIT :limit);

-- name: jobs_waiting_of_endpoint
SELECT * FROM job INDEXED BY job_of_endpoint WHERE endpoint = :endpoint AND seq > :after AND state = 'IN_QUEUE'
ORDER BY seq LIMIT :limit;

-- name: job_chunk_put
INSERT INTO job_chunk (job_seq, n, delivery, content)
SELECT :seq, coalesce((SELECT max(n) FROM job_chunk WHERE job_seq = :seq), 0) + 1, :delivery, :content
WHERE EXISTS (SELECT 1 FROM job WHERE seq = :seq AND state = 'IN_PROGRESS' AND deliveries = :delivery
              AND instance = :instance);

-- name: job_fenced
SELECT 1 FROM job WHERE seq = :seq AND state = 'IN_PROGRESS' AND deliveries = :delivery AND instance = :instance;

-- name: job_chunks
SELECT n, content FROM job_chunk WHERE job_seq = :seq AND delivery = :delivery AND n > :after ORDER BY n LIMIT :limit;

-- name: job_drain_read
SELECT delivery, n FROM job_drain WHERE job_seq = :seq;

-- name: job_drain_put
INSERT INTO job_drain (job_seq, delivery, n) SELECT :seq, :delivery, :n WHERE EXISTS (SELECT 1 FROM job WHERE seq = :seq)
ON CONFLICT (job_seq) DO UPDATE SET delivery = excluded.delivery, n = excluded.n;

-- name: job_chunks_drop
DELETE FROM job_chunk WHERE job_seq = :seq;

-- name: job_idempotency_read
SELECT fingerprint, job_seq FROM job_idempotency WHERE scope = :scope AND key = :key;

-- name: job_idempotency_put
INSERT INTO job_idempotency (scope, key, fingerprint, job_seq, at_ms)
VALUES (:scope, :key, :fingerprint, :seq, :at_ms);

-- name: jobs_page
SELECT * FROM job WHERE seq < :before AND (:owner IS NULL OR owner = :owner) AND (:state IS NULL OR state = :state)
ORDER BY seq DESC LIMIT :limit;

-- name: jobs_page_of_endpoint
SELECT * FROM job INDEXED BY job_of_endpoint WHERE endpoint = :endpoint AND seq < :before
  AND (:owner IS NULL OR owner = :owner) AND (:state IS NULL OR state = :state)
ORDER BY seq DESC LIMIT :limit;

-- name: jobs_page_dead
SELECT * FROM job INDEXED BY job_dead WHERE dead = 1 AND seq < :before AND (:owner IS NULL OR owner = :owner)
  AND (:endpoint IS NULL OR endpoint = :endpoint)
ORDER BY seq DESC LIMIT :limit;
