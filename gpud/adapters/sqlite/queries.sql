-- Every statement gpud runs on its rows. `statements.py` reads this file; a test prepares each one.

-- name: install_insert
-- Runs once, when the database is made.
INSERT INTO install (id, install_id, created_at_ms) VALUES (1, :install_id, :created_at_ms);

-- name: install_read
SELECT install_id, created_at_ms, master_key_check FROM install WHERE id = 1;

-- name: install_key_check_write
UPDATE install SET master_key_check = :master_key_check WHERE id = 1;

-- name: endpoint_revision_keep
-- A revision is written once and kept for good.
INSERT INTO endpoint_revision (endpoint, revision, spec, image, created_at_ms)
VALUES (:name, :revision, :spec, :image, :updated_at_ms)
ON CONFLICT (endpoint, revision) DO NOTHING;

-- name: revision_save
-- Spec and image stay as they were first written; what became of the revision changes.
INSERT INTO endpoint_revision (
    endpoint, revision, spec, image, created_at_ms, number, state, detail, changed_at_ms, ready_at_ms
) VALUES (
    :endpoint, :revision, :spec, :image, :created_at_ms, :number, :state, :detail, :changed_at_ms, :ready_at_ms
)
ON CONFLICT (endpoint, revision) DO UPDATE SET
    number = excluded.number,
    state = excluded.state,
    detail = excluded.detail,
    changed_at_ms = excluded.changed_at_ms,
    ready_at_ms = max(endpoint_revision.ready_at_ms, excluded.ready_at_ms);

-- name: revisions_close
-- Of an endpoint that is deleted; its revisions stay, for its workers were made from them.
UPDATE endpoint_revision SET state = 'superseded'
WHERE endpoint = :name AND state IN ('deploying', 'current', 'last_good');

-- name: revisions_needed
-- What the reconciler needs: those an endpoint may go to or come from, and those of live workers.
SELECT endpoint, revision, spec, image, created_at_ms, number, state, detail, changed_at_ms, ready_at_ms
FROM endpoint_revision
WHERE state IN ('deploying', 'current', 'last_good') OR (endpoint, revision) IN (
    SELECT worker.endpoint, worker.revision FROM worker WHERE worker.state <> 'gone'
) OR (endpoint, revision) IN (SELECT rollout.endpoint, rollout.base FROM rollout)
ORDER BY endpoint, number;

-- name: revision_numbers
SELECT endpoint, revision, number FROM endpoint_revision ORDER BY endpoint, number;

-- name: revisions_of_endpoint
SELECT endpoint, revision, spec, image, created_at_ms, number, state, detail, changed_at_ms, ready_at_ms
FROM endpoint_revision WHERE endpoint = :endpoint ORDER BY number, created_at_ms, revision;

-- name: rollout_save
INSERT INTO rollout (
    endpoint, base, target, step, since_s, clock_s, replaced, failures, permanent, last_error, smoke, reason,
    detail, started_at_ms, changed_at_ms
) VALUES (
    :endpoint, :base, :target, :step, :since_s, :clock_s, :replaced, :failures, :permanent, :last_error, :smoke,
    :reason, :detail, :started_at_ms, :changed_at_ms
)
ON CONFLICT (endpoint) DO UPDATE SET
    base = excluded.base,
    target = excluded.target,
    step = excluded.step,
    since_s = excluded.since_s,
    clock_s = excluded.clock_s,
    replaced = excluded.replaced,
    failures = excluded.failures,
    permanent = excluded.permanent,
    last_error = excluded.last_error,
    smoke = excluded.smoke,
    reason = excluded.reason,
    detail = excluded.detail,
    started_at_ms = excluded.started_at_ms,
    changed_at_ms = excluded.changed_at_ms;

-- name: rollouts_all
SELECT
    endpoint, base, target, step, since_s, clock_s, replaced, failures, permanent, last_error, smoke, reason,
    detail, started_at_ms, changed_at_ms
FROM rollout ORDER BY endpoint;

-- name: endpoint_save
INSERT INTO endpoint (name, revision, spec, image, created_at_ms, updated_at_ms)
VALUES (:name, :revision, :spec, :image, :created_at_ms, :updated_at_ms)
ON CONFLICT (name) DO UPDATE SET
    revision = excluded.revision,
    spec = excluded.spec,
    image = excluded.image,
    created_at_ms = excluded.created_at_ms,
    updated_at_ms = excluded.updated_at_ms;

-- name: endpoint_delete
DELETE FROM endpoint WHERE name = :name;

-- name: endpoints_all
SELECT revision, spec, image, created_at_ms, updated_at_ms FROM endpoint ORDER BY name;

-- name: standby_save
INSERT INTO standby (
    id, endpoint, revision, rung, state, since_s, created_at_ms, gpu_uuids, address, detail, ram_mib
) VALUES (
    :id, :endpoint, :revision, :rung, :state, :since_s, :created_at_ms, :gpu_uuids, :address, :detail, :ram_mib
)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state,
    since_s = excluded.since_s,
    address = excluded.address,
    detail = excluded.detail,
    ram_mib = excluded.ram_mib;

-- name: standby_forget
DELETE FROM standby WHERE id = :id;

-- name: standbys_all
SELECT id, endpoint, revision, rung, state, since_s, created_at_ms, gpu_uuids, address, detail, ram_mib
FROM standby ORDER BY created_at_ms, id;

-- name: worker_insert
INSERT INTO worker (
    id, endpoint, revision, state, generation, since_s, created_at_ms, port, gpu_uuids, address, cause, detail,
    container_started_ns, container_finished_ns, exit_code, ready_s, adopted, failed, force,
    gpu_slice_mib, gpu_total_mib
) VALUES (
    :id, :endpoint, :revision, :state, :generation, :since_s, :created_at_ms, :port, :gpu_uuids, :address, :cause,
    :detail, :container_started_ns, :container_finished_ns, :exit_code, :ready_s, :adopted, :failed, :force,
    :gpu_slice_mib, :gpu_total_mib
);

-- name: worker_move
-- Changes nothing unless the row is still where the move was decided.
UPDATE worker SET
    state = :state,
    generation = :generation,
    since_s = :since_s,
    port = :port,
    gpu_uuids = :gpu_uuids,
    gpu_slice_mib = :gpu_slice_mib,
    gpu_total_mib = :gpu_total_mib,
    address = :address,
    cause = :cause,
    detail = :detail,
    container_started_ns = :container_started_ns,
    container_finished_ns = :container_finished_ns,
    exit_code = :exit_code,
    ready_s = :ready_s,
    adopted = :adopted,
    failed = :failed,
    force = :force
WHERE id = :id AND state = :from_state AND generation = :from_generation;

-- name: worker_place
SELECT state, generation FROM worker WHERE id = :id;

-- name: worker_by_id
SELECT * FROM worker WHERE id = :id;

-- name: workers_live
SELECT * FROM worker WHERE state <> 'gone' ORDER BY id;

-- name: workers_after
SELECT * FROM worker WHERE id > :after ORDER BY id LIMIT :limit;

-- name: workers_page
-- Newest first; :after is the last id of the page before, '' for the first page.
SELECT * FROM worker
WHERE (:include_gone OR state <> 'gone')
  AND (:after = '' OR (created_at_ms, id) < (SELECT w.created_at_ms, w.id FROM worker AS w WHERE w.id = :after))
ORDER BY created_at_ms DESC, id DESC
LIMIT :limit;

-- name: workers_page_of_endpoint
SELECT * FROM worker
WHERE endpoint = :endpoint
  AND (:include_gone OR state <> 'gone')
  AND (:after = '' OR (created_at_ms, id) < (SELECT w.created_at_ms, w.id FROM worker AS w WHERE w.id = :after))
ORDER BY created_at_ms DESC, id DESC
LIMIT :limit;

-- name: lease_open
INSERT INTO gpu_lease (gpu_uuid, worker_id, boot_id, leased_boot_ns, memory_mib, of_mib)
VALUES (:gpu_uuid, :worker_id, :boot_id, :at_boot_ns, :memory_mib, :of_mib);

-- name: lease_close
UPDATE gpu_lease SET released_boot_ns = :at_boot_ns
WHERE gpu_uuid = :gpu_uuid AND worker_id = :worker_id AND released_boot_ns IS NULL;

-- name: lease_holders
SELECT group_concat(worker_id, ' and ') AS holders, sum(memory_mib) AS memory_mib
FROM gpu_lease WHERE gpu_uuid = :gpu_uuid AND released_boot_ns IS NULL;

-- name: leases_open
SELECT gpu_uuid, worker_id FROM gpu_lease WHERE released_boot_ns IS NULL ORDER BY gpu_uuid;

-- name: leases_all
SELECT gpu_uuid, worker_id, boot_id, leased_boot_ns, released_boot_ns, memory_mib, of_mib
FROM gpu_lease ORDER BY id;

-- name: leases_reaching_into
SELECT gpu_uuid, worker_id, boot_id, leased_boot_ns, released_boot_ns, memory_mib, of_mib FROM gpu_lease
WHERE boot_id = :boot_id AND leased_boot_ns < :last_ns AND (released_boot_ns IS NULL OR released_boot_ns > :first_ns)
ORDER BY id;

-- name: leases_of_workers
SELECT gpu_uuid, worker_id, boot_id, leased_boot_ns, released_boot_ns, memory_mib, of_mib FROM gpu_lease
WHERE worker_id > :after AND worker_id <= :last
ORDER BY worker_id, id;

-- name: segment_open
INSERT INTO usage_segment (
    worker_id, seq, phase, endpoint, revision, gpu_uuids, boot_id, start_boot_ns, end_boot_ns, start_wall_ms,
    close_reason, estimated, share_ppm, keys
) VALUES (
    :worker_id, :seq, :phase, :endpoint, :revision, :gpu_uuids, :boot_id, :start_boot_ns, :end_boot_ns,
    :start_wall_ms, :close_reason, :estimated, :share_ppm, :keys
);

-- name: segment_close
-- Closed segments never change, and an open one changes only by being closed.
UPDATE usage_segment SET
    end_boot_ns = :end_boot_ns, close_reason = :close_reason, estimated = :estimated, keys = :keys
WHERE worker_id = :worker_id AND seq = :seq AND phase = :phase AND boot_id = :boot_id
  AND start_boot_ns = :start_boot_ns AND end_boot_ns IS NULL;

-- name: segments_open
SELECT * FROM usage_segment WHERE end_boot_ns IS NULL ORDER BY worker_id;

-- name: segments_slept
-- What comes next for workers that sleep, and so have no segment open.
SELECT s.worker_id, max(s.seq) + 1 AS next_seq FROM usage_segment AS s JOIN worker AS w ON w.id = s.worker_id
WHERE w.state = 'sleeping' GROUP BY s.worker_id;

-- name: segments_of_workers
SELECT * FROM usage_segment WHERE worker_id > :after AND worker_id <= :last ORDER BY worker_id, seq;

-- name: segments_begun_or_ended
-- Closed ones that begin or end in an hour; each once.
SELECT * FROM usage_segment
WHERE start_wall_ms >= :start_ms AND start_wall_ms < :end_ms AND end_boot_ns IS NOT NULL
UNION
SELECT * FROM usage_segment WHERE end_wall_ms >= :start_ms AND end_wall_ms <= :end_ms;

-- name: segments_reaching_into
-- Closed ones that have a part in a period.
SELECT * FROM usage_segment
WHERE end_wall_ms >= :since_ms AND +start_wall_ms <= :until_ms AND (:endpoint = '' OR endpoint = :endpoint);

-- name: segments_page
-- Closed ones, which never change, by worker and number.
SELECT * FROM usage_segment
WHERE (worker_id, seq) > (:worker_id, :seq) AND end_boot_ns IS NOT NULL
  AND (:endpoint = '' OR endpoint = :endpoint) AND +end_wall_ms >= :since_ms AND +end_wall_ms < :until_ms
ORDER BY worker_id, seq LIMIT :limit;

-- name: segments_last
-- The last segment of each session that reaches into the period: by worker (CROSS JOIN keeps that
-- order), since there are many more segments than workers.
SELECT s.* FROM worker AS w
CROSS JOIN usage_segment AS s
    ON s.worker_id = w.id AND s.seq = (SELECT max(m.seq) FROM usage_segment AS m WHERE m.worker_id = w.id)
WHERE (:endpoint = '' OR w.endpoint = :endpoint)
  AND (s.end_wall_ms IS NULL OR +s.end_wall_ms >= :since_ms);

-- name: usage_hour_add
INSERT INTO usage_hour (worker_id, hour, phase, endpoint, gpu_uuids, ns, share_ppm)
VALUES (:worker_id, :hour, :phase, :endpoint, :gpu_uuids, :ns, :share_ppm)
ON CONFLICT (worker_id, hour, phase) DO UPDATE SET ns = ns + excluded.ns;

-- name: usage_key_add
INSERT INTO usage_key_hour (worker_id, hour, phase, key, ns) VALUES (:worker_id, :hour, :phase, :key, :ns)
ON CONFLICT (worker_id, hour, phase, key) DO UPDATE SET ns = ns + excluded.ns;

-- name: usage_keys
-- What keys had of the hours of `usage_hours`.
SELECT k.worker_id, h.endpoint, h.gpu_uuids, h.share_ppm, k.phase, k.hour / :bucket_hours AS bucket, k.key, sum(k.ns) AS ns
FROM usage_key_hour AS k JOIN usage_hour AS h
    ON h.worker_id = k.worker_id AND h.hour = k.hour AND h.phase = k.phase
WHERE k.hour >= :first AND k.hour < :last AND (:endpoint = '' OR h.endpoint = :endpoint)
GROUP BY k.worker_id, k.phase, bucket, k.key;

-- name: usage_keys_of_workers
SELECT worker_id, hour, phase, key, ns FROM usage_key_hour
WHERE worker_id > :after AND worker_id <= :last
ORDER BY worker_id;

-- name: usage_hours
-- By worker, phase and bucket of :bucket_hours hours.
SELECT worker_id, endpoint, gpu_uuids, share_ppm, phase, hour / :bucket_hours AS bucket, sum(ns) AS ns
FROM usage_hour
WHERE hour >= :first AND hour < :last AND (:endpoint = '' OR endpoint = :endpoint)
GROUP BY worker_id, phase, bucket;

-- name: usage_of_sessions
SELECT worker_id, phase, sum(ns) AS ns FROM usage_hour
WHERE :endpoint = '' OR endpoint = :endpoint
GROUP BY worker_id, phase;

-- name: usage_hours_of_workers
SELECT worker_id, hour, phase, endpoint, gpu_uuids, ns FROM usage_hour
WHERE worker_id > :after AND worker_id <= :last
ORDER BY worker_id;

-- name: gpu_watch_save
INSERT INTO gpu_watch (gpu_uuid, boot_id, start_boot_ns, end_boot_ns, start_wall_ms)
VALUES (:gpu_uuid, :boot_id, :start_boot_ns, :end_boot_ns, :start_wall_ms)
ON CONFLICT (gpu_uuid, boot_id, start_boot_ns) DO UPDATE SET end_boot_ns = excluded.end_boot_ns;

-- name: gpu_watches
-- Those that reach into a period.
SELECT gpu_uuid, boot_id, start_boot_ns, end_boot_ns, start_wall_ms FROM gpu_watch
WHERE start_wall_ms <= :until_ms AND start_wall_ms + (end_boot_ns - start_boot_ns) / 1000000 >= :since_ms;

-- name: usage_energy_add
INSERT INTO usage_energy (gpu_uuid, worker_id, phase, hour, endpoint, mj, sampled_mj)
VALUES (:gpu_uuid, :worker_id, :phase, :hour, :endpoint, :mj, :sampled_mj)
ON CONFLICT (gpu_uuid, worker_id, phase, hour) DO UPDATE SET
    mj = mj + excluded.mj, sampled_mj = sampled_mj + excluded.sampled_mj;

-- name: usage_energy
SELECT gpu_uuid, worker_id, phase, hour, endpoint, mj, sampled_mj FROM usage_energy
WHERE hour >= :first AND hour < :last AND (:endpoint = '' OR endpoint = :endpoint)
ORDER BY hour, gpu_uuid, worker_id, phase;

-- name: usage_energy_minute_add
INSERT INTO usage_energy_minute (minute, gpu_uuid, worker_id, phase, endpoint, mj, sampled_mj)
VALUES (:minute, :gpu_uuid, :worker_id, :phase, :endpoint, :mj, :sampled_mj)
ON CONFLICT (minute, gpu_uuid, worker_id, phase) DO UPDATE SET
    mj = mj + excluded.mj, sampled_mj = sampled_mj + excluded.sampled_mj;

-- name: usage_energy_minutes_forget
DELETE FROM usage_energy_minute WHERE minute < :before;

-- name: usage_energy_minutes
SELECT gpu_uuid, worker_id, phase, minute, endpoint, mj, sampled_mj FROM usage_energy_minute
WHERE minute >= :first AND minute < :last AND (:endpoint = '' OR endpoint = :endpoint)
ORDER BY minute, gpu_uuid, worker_id, phase;

-- name: budget_told_save
INSERT INTO budget_told (budget, since_ms, percent) VALUES (:budget, :since_ms, :percent)
ON CONFLICT (budget) DO UPDATE SET since_ms = excluded.since_ms, percent = excluded.percent;

-- name: budgets_told
SELECT budget, since_ms, percent FROM budget_told;

-- name: gpu_health_save
INSERT INTO gpu_health (
    gpu_uuid, name, memory_mib, gpu_index, numa_node, cpus, mig_parent, health, reason, since_ms
) VALUES (
    :gpu_uuid, :name, :memory_mib, :gpu_index, :numa_node, :cpus, :mig_parent, :health, :reason, :since_ms
)
ON CONFLICT (gpu_uuid) DO UPDATE SET
    name = excluded.name,
    memory_mib = excluded.memory_mib,
    gpu_index = excluded.gpu_index,
    numa_node = excluded.numa_node,
    cpus = excluded.cpus,
    mig_parent = excluded.mig_parent,
    health = excluded.health,
    reason = excluded.reason,
    since_ms = excluded.since_ms;

-- name: gpu_health_all
SELECT * FROM gpu_health ORDER BY gpu_uuid;

-- name: event_insert
INSERT INTO event (kind, at_ms, endpoint, worker_id, facts) VALUES (:kind, :at_ms, :endpoint, :worker_id, :facts);

-- name: events_after
SELECT * FROM event WHERE seq > :after_seq ORDER BY seq LIMIT :limit;

-- name: events_after_of_endpoint
SELECT * FROM event
WHERE endpoint = :endpoint AND endpoint <> '' AND (:worker_id = '' OR worker_id = :worker_id) AND seq > :after_seq
ORDER BY seq LIMIT :limit;

-- name: events_after_of_worker
SELECT * FROM event WHERE worker_id = :worker_id AND worker_id <> '' AND seq > :after_seq ORDER BY seq LIMIT :limit;

-- name: events_before
SELECT * FROM event WHERE seq < :before_seq ORDER BY seq DESC LIMIT :limit;

-- name: events_before_of_endpoint
SELECT * FROM event
WHERE endpoint = :endpoint AND endpoint <> '' AND (:worker_id = '' OR worker_id = :worker_id) AND seq < :before_seq
ORDER BY seq DESC LIMIT :limit;

-- name: events_before_of_worker
SELECT * FROM event
WHERE worker_id = :worker_id AND worker_id <> '' AND seq < :before_seq
ORDER BY seq DESC LIMIT :limit;

-- name: heartbeat_write
INSERT INTO heartbeat (id, boot_id, boot_ns, wall_ms) VALUES (1, :boot_id, :boot_ns, :wall_ms)
ON CONFLICT (id) DO UPDATE SET boot_id = excluded.boot_id, boot_ns = excluded.boot_ns, wall_ms = excluded.wall_ms;

-- name: heartbeat_read
SELECT boot_id, boot_ns, wall_ms FROM heartbeat WHERE id = 1;

-- name: key_insert
INSERT INTO api_key (id, label, secret_sha256, scopes, created_at_ms, expires_at_ms, disabled, last_used_at_ms)
VALUES (:id, :label, :secret_sha256, :scopes, :created_at_ms, :expires_at_ms, :disabled, :last_used_at_ms);

-- name: keys_all
SELECT * FROM api_key ORDER BY created_at_ms, id;

-- name: key_disable
UPDATE api_key SET disabled = 1 WHERE id = :id;

-- name: key_note_use
UPDATE api_key SET last_used_at_ms = :at_ms WHERE id = :id AND last_used_at_ms < :at_ms;

-- name: registry_put
INSERT INTO registry (name, host, username, password_nonce, password_sealed, created_at_ms)
VALUES (:name, :host, :username, :password_nonce, :password_sealed, :created_at_ms)
ON CONFLICT (name) DO UPDATE SET
    host = excluded.host,
    username = excluded.username,
    password_nonce = excluded.password_nonce,
    password_sealed = excluded.password_sealed,
    created_at_ms = excluded.created_at_ms;

-- name: registries_all
SELECT name, host, username, created_at_ms FROM registry ORDER BY name;

-- name: registry_count
SELECT count(*) FROM registry;

-- name: registry_read
SELECT host, username, password_nonce, password_sealed FROM registry WHERE name = :name;

-- name: registry_delete
DELETE FROM registry WHERE name = :name;

-- name: webhook_insert
INSERT INTO webhook (
    id, url, destination, types, endpoint, description, created_at_ms, secret_nonce, secret_sealed,
    old_secret_until_ms, disabled_reason, failing_since_ms, failures
) VALUES (
    :id, :url, :destination, :types, :endpoint, :description, :created_at_ms, :secret_nonce, :secret_sealed,
    0, :disabled_reason, 0, 0
);

-- name: webhook_change
-- Enabling one again forgets how it failed.
UPDATE webhook SET
    url = :url,
    destination = :destination,
    types = :types,
    endpoint = :endpoint,
    description = :description,
    failing_since_ms = iif(:disabled_reason = '' AND disabled_reason <> '', 0, failing_since_ms),
    failures = iif(:disabled_reason = '' AND disabled_reason <> '', 0, failures),
    disabled_reason = :disabled_reason
WHERE id = :id;

-- name: webhook_rotate
UPDATE webhook SET
    old_secret_nonce = secret_nonce,
    old_secret_sealed = secret_sealed,
    old_secret_until_ms = :old_secret_until_ms,
    secret_nonce = :secret_nonce,
    secret_sealed = :secret_sealed
WHERE id = :id;

-- name: webhook_delete
DELETE FROM webhook WHERE id = :id;

-- name: webhook_read
SELECT * FROM webhook WHERE id = :id;

-- name: webhooks_all
SELECT * FROM webhook WHERE url <> '' ORDER BY created_at_ms, id;

-- name: webhook_count
SELECT count(*) FROM webhook;

-- name: webhook_health_write
UPDATE webhook SET
    failing_since_ms = :failing_since_ms,
    failures = :failures,
    disabled_reason = iif(disabled_reason = '', :disabled_reason, disabled_reason)
WHERE id = :id;

-- name: webhook_deliveries_drop
UPDATE webhook_delivery SET state = 'dropped' WHERE webhook_id = :webhook_id AND state = 'waiting';

-- name: webhook_deliveries_delete
DELETE FROM webhook_delivery WHERE webhook_id = :webhook_id;

-- name: webhook_deliver
-- The id is made of what is told to whom, so telling it twice adds nothing.
INSERT INTO webhook_delivery (
    id, webhook_id, kind, endpoint, url, destination, format, state, created_at_ms, body, attempts, tries,
    next_at_ms, delay_ms
) VALUES (
    :id, :webhook_id, :kind, :endpoint, :url, :destination, :format, :state, :created_at_ms, :body, 0, 0,
    :now_ms, 0
)
ON CONFLICT (id) DO NOTHING;

-- name: webhook_destinations
-- Steps from one destination to the next, however much waits for each.
WITH RECURSIVE step (destination) AS (
    SELECT min(d.destination) FROM webhook_delivery AS d WHERE d.state = 'waiting'
    UNION ALL
    SELECT (
        SELECT min(d.destination) FROM webhook_delivery AS d
        WHERE d.state = 'waiting' AND d.destination > step.destination
    )
    FROM step WHERE step.destination IS NOT NULL
)
SELECT destination FROM step WHERE destination IS NOT NULL;

-- name: webhook_deliveries_next
SELECT * FROM webhook_delivery WHERE state = 'waiting' AND destination = :destination
ORDER BY next_at_ms LIMIT :limit;

-- name: webhook_delivery_settle
UPDATE webhook_delivery SET
    state = :state,
    attempts = attempts + 1,
    tries = tries + 1,
    next_at_ms = :next_at_ms,
    delay_ms = :delay_ms
WHERE id = :id AND attempts = :attempts;

-- name: webhook_attempt_insert
INSERT INTO webhook_attempt (delivery_id, number, at_ms, took_ms, status, error, answer)
VALUES (:delivery_id, :number, :at_ms, :took_ms, :status, :error, :answer);

-- name: webhook_answers_trim
-- The log keeps every try, and what was answered to the last one.
UPDATE webhook_attempt SET answer = x'' WHERE delivery_id = :delivery_id AND number < :number;

-- name: webhook_attempts
SELECT number, at_ms, took_ms, status, error, answer FROM webhook_attempt
WHERE delivery_id = :delivery_id ORDER BY number;

-- name: webhook_delivery_read
SELECT * FROM webhook_delivery WHERE id = :id AND webhook_id = :webhook_id;

-- name: webhook_deliveries_page
SELECT id, webhook_id, kind, endpoint, url, destination, format, state, created_at_ms, x'' AS body, attempts,
    tries, next_at_ms, delay_ms
FROM webhook_delivery
WHERE webhook_id = :webhook_id AND (created_at_ms, id) < (:before_ms, :before_id)
    AND (:state = '' OR state = :state)
ORDER BY created_at_ms DESC, id DESC LIMIT :limit;

-- name: webhook_redeliver
UPDATE webhook_delivery SET state = 'waiting', tries = 0, next_at_ms = :now_ms, delay_ms = 0
WHERE id = :id AND webhook_id = :webhook_id;

-- name: webhook_replay
UPDATE webhook_delivery SET state = 'waiting', tries = 0, next_at_ms = :now_ms, delay_ms = 0
WHERE webhook_id = :webhook_id AND created_at_ms >= :since_ms AND created_at_ms < :until_ms
    AND (state IN ('failed', 'dropped') OR (state = 'delivered' AND :every));

-- name: webhook_deliveries_forget
DELETE FROM webhook_delivery WHERE id IN (
    SELECT d.id FROM webhook_delivery AS d
    WHERE d.state <> 'waiting' AND d.next_at_ms < :before_ms ORDER BY d.next_at_ms LIMIT 500
);

-- name: webhook_waits_bound
UPDATE webhook_delivery SET next_at_ms = :now_ms + delay_ms
WHERE state = 'waiting' AND next_at_ms > :now_ms AND next_at_ms > :now_ms + delay_ms;

-- name: webhook_ends_bound
UPDATE webhook_delivery SET next_at_ms = :now_ms WHERE state <> 'waiting' AND next_at_ms > :now_ms;

-- name: idempotency_claim
INSERT INTO idempotency (scope, key, fingerprint, at_ms) VALUES (:scope, :key, :fingerprint, :at_ms)
ON CONFLICT (scope, key) DO NOTHING;

-- name: idempotency_read
SELECT fingerprint, status, body FROM idempotency WHERE scope = :scope AND key = :key;

-- name: idempotency_answer
UPDATE idempotency SET status = :status, body = :body
WHERE scope = :scope AND key = :key AND fingerprint = :fingerprint AND status IS NULL;

-- name: idempotency_give_up
DELETE FROM idempotency WHERE scope = :scope AND key = :key AND status IS NULL;

-- name: idempotency_forget
-- A few old ones each time, so that no claim pays for many.
DELETE FROM idempotency WHERE (scope, key) IN (
    SELECT i.scope, i.key FROM idempotency AS i WHERE i.at_ms < :older_than_ms ORDER BY i.at_ms LIMIT 16
);

-- name: idempotency_bound
UPDATE idempotency SET at_ms = :now_ms WHERE at_ms > :now_ms;

-- name: idempotency_forget_unanswered
-- At start: whoever was answering these has died.
DELETE FROM idempotency WHERE status IS NULL;

-- name: arrivals_record
INSERT INTO arrival (endpoint, first_ms, last_ms, requests, packed)
VALUES (:endpoint, :first_ms, :last_ms, :requests, :packed);

-- name: arrivals_between
SELECT first_ms, last_ms, requests, packed FROM arrival
WHERE endpoint = :endpoint AND last_ms >= :since_ms AND first_ms < :until_ms
ORDER BY last_ms, id;

-- name: arrivals_forget
DELETE FROM arrival WHERE last_ms < :before_ms;

-- name: arrivals_forget_endpoint
DELETE FROM arrival WHERE endpoint = :name;

-- name: prediction_save
INSERT INTO prediction (endpoint, gaps, shadow) VALUES (:endpoint, :gaps, :shadow)
ON CONFLICT (endpoint) DO UPDATE SET gaps = excluded.gaps, shadow = excluded.shadow;

-- name: prediction_forget
DELETE FROM prediction WHERE endpoint = :name;

-- name: predictions_all
SELECT endpoint, gaps, shadow FROM prediction ORDER BY endpoint;

-- name: starts_between
-- How often the workers of an endpoint became ready, or came back from a rung, and how long each took.
SELECT facts FROM event
WHERE endpoint = :endpoint AND endpoint <> '' AND kind = :kind AND at_ms >= :since_ms AND at_ms < :until_ms
ORDER BY seq;

-- name: cold_start_save
INSERT INTO cold_start (worker_id, at_ms, endpoint, revision, woken, phases_ns, wanted)
VALUES (:worker_id, :at_ms, :endpoint, :revision, :woken, :phases_ns, :wanted)
ON CONFLICT (worker_id, at_ms) DO UPDATE SET phases_ns = excluded.phases_ns;

-- name: cold_start_forget
-- Keeps the newest of an endpoint.
DELETE FROM cold_start WHERE (worker_id, at_ms) IN (
    SELECT c.worker_id, c.at_ms FROM cold_start AS c WHERE c.endpoint = :endpoint
    ORDER BY c.at_ms DESC, c.worker_id DESC LIMIT -1 OFFSET :kept
);

-- name: cold_starts_recent
-- The newest :each of every endpoint that is deployed and of each rung, oldest first.
SELECT * FROM (
    SELECT c.*, row_number() OVER (
        PARTITION BY c.endpoint, c.woken ORDER BY c.at_ms DESC, c.worker_id DESC
    ) AS place
    FROM cold_start AS c JOIN endpoint AS e ON e.name = c.endpoint
) WHERE place <= :each ORDER BY at_ms, worker_id;

-- name: cold_starts_of_endpoint
SELECT * FROM cold_start WHERE endpoint = :endpoint ORDER BY at_ms DESC, worker_id DESC LIMIT :limit;

-- name: audit_log_insert
INSERT INTO audit_log (
    at_ms, request_id, caller, source, operation, method, path, subject, status, before, after, detail
) VALUES (
    :at_ms, :request_id, :caller, :source, :operation, :method, :path, :subject, :status, :before, :after,
    :detail
);

-- name: audit_log_forget
DELETE FROM audit_log WHERE seq IN (
    SELECT old.seq FROM audit_log AS old WHERE old.at_ms < :before_ms ORDER BY old.at_ms LIMIT :limit
);

-- name: audit_log_before
SELECT * FROM audit_log
WHERE seq < :seq AND (:caller = '' OR caller = :caller) AND (:operation = '' OR operation = :operation)
  AND (:subject = '' OR subject = :subject) AND +at_ms >= :since_ms AND +at_ms < :until_ms
ORDER BY seq DESC LIMIT :limit;

-- name: audit_log_after
SELECT * FROM audit_log
WHERE seq > :seq AND (:caller = '' OR caller = :caller) AND (:operation = '' OR operation = :operation)
  AND (:subject = '' OR subject = :subject) AND +at_ms >= :since_ms AND +at_ms < :until_ms
ORDER BY seq LIMIT :limit;

-- name: specs_all
-- Of every endpoint that ever was, to know the values of their environments.
SELECT spec FROM endpoint_revision;

-- name: table_sizes
-- Reads every page of the database; only where SQLite was built with it.
SELECT name, sum(pgsize) AS bytes, sum(ncell) AS cells FROM dbstat GROUP BY name ORDER BY bytes DESC;
