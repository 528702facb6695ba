-- What people and dashboards read. These views are stable: columns are added, never renamed or dropped.

CREATE FUNCTION guard.bucket_quantile(counts bigint[], q double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH buckets AS (
        SELECT i, n, sum(n) OVER (ORDER BY i) AS upto, CASE WHEN i = 1 THEN 0 ELSE 2 ^ (i - 2) END AS low
        FROM unnest(counts) WITH ORDINALITY AS bucket (n, i)
    ), wanted AS (
        SELECT q * sum(n) AS target FROM buckets
    )
    SELECT CASE WHEN i = cardinality(counts) THEN low
                ELSE low + (2 ^ (i - 1) - low) * (target - (upto - n)) / n END
    FROM buckets, wanted
    WHERE n > 0 AND upto >= target
    ORDER BY i
    LIMIT 1
$$;
COMMENT ON FUNCTION guard.bucket_quantile IS
    'Seconds below which a share q of durations lies, estimated inside its bucket (bucket i counts durations below 2^i s); for the last, open bucket its lower edge. NULL if nothing was counted.';

CREATE VIEW guard.current_decisions AS
SELECT d.*
FROM guard.decisions d
WHERE NOT EXISTS (SELECT FROM guard.decisions later WHERE later.case_id = d.case_id AND later.revision > d.revision);
COMMENT ON VIEW guard.current_decisions IS 'The decision in force for each run attempt: its highest revision.';
COMMENT ON COLUMN guard.current_decisions.case_id IS 'The run attempt decided on.';
COMMENT ON COLUMN guard.current_decisions.verdict IS 'act, wait or skip.';
COMMENT ON COLUMN guard.current_decisions.reason IS 'Why, out of a closed list.';
COMMENT ON COLUMN guard.current_decisions.mode IS 'observe, suggest or act: what the verdict may lead to.';
COMMENT ON COLUMN guard.current_decisions.calls IS 'What would be asked of the platform, in order.';
COMMENT ON COLUMN guard.current_decisions.jobs IS 'failure_id of each failure that the decision covers.';
COMMENT ON COLUMN guard.current_decisions.explanation IS 'What the decision was made of.';
COMMENT ON COLUMN guard.current_decisions.occurred_at IS 'Event time of the newest event behind the decision.';
COMMENT ON COLUMN guard.current_decisions.received_at IS 'When that event was received.';
COMMENT ON COLUMN guard.current_decisions.at IS 'Stream time of the decision.';
COMMENT ON COLUMN guard.current_decisions.written_at IS 'When PostgreSQL took the row; written_at - received_at is the latency.';

CREATE VIEW guard.open_findings AS
SELECT f.*
FROM guard.findings f
WHERE f.state <> 'cleared'
  AND NOT EXISTS (
      SELECT FROM guard.findings later WHERE later.finding_id = f.finding_id AND later.revision > f.revision);
COMMENT ON VIEW guard.open_findings IS 'What the detectors hold true now: the last answer on each subject, unless it was cleared.';
COMMENT ON COLUMN guard.open_findings.subject IS 'What the finding is about: the parts of the detector''s key by name.';
COMMENT ON COLUMN guard.open_findings.events IS 'Ids of events that prove it, at most 32.';
COMMENT ON COLUMN guard.open_findings.first_at IS 'Event time of the first of them.';
COMMENT ON COLUMN guard.open_findings.last_at IS 'Event time of the last of them.';
COMMENT ON COLUMN guard.open_findings.at IS 'Stream time of the answer.';

CREATE VIEW guard.recent_failures AS
SELECT f.failure_id, f.case_id, f.platform, f.instance, f.repository, f.pipeline_id, f.attempt, f.workflow, f.job_name,
       f.branch, f.commit_sha, f.outcome, f.reason, f.step, f.signature, f.category, f.transient, f.cause, f.score,
       f.occurred_at, f.received_at, f.written_at, f.url, d.verdict, d.reason AS decision_reason, d.mode, d.action
FROM guard.failures f
LEFT JOIN guard.current_decisions d USING (case_id)
WHERE f.written_at > now() - interval '24 hours';
COMMENT ON VIEW guard.recent_failures IS 'Failures written in the last 24 hours, each with the decision in force for its run attempt.';
COMMENT ON COLUMN guard.recent_failures.reason IS 'The platform''s reason code, in its own words.';
COMMENT ON COLUMN guard.recent_failures.signature IS 'The signature that explains the failure; NULL if none does.';
COMMENT ON COLUMN guard.recent_failures.score IS 'Chance that a rerun passes; NULL if too little is known.';
COMMENT ON COLUMN guard.recent_failures.decision_reason IS 'Why it was decided so, out of a closed list.';

CREATE VIEW guard.why_not_healed AS
SELECT date_trunc('day', at AT TIME ZONE 'UTC')::date AS day, verdict, reason, mode, count(*) AS cases
FROM guard.current_decisions
WHERE (verdict, mode) <> ('act', 'act')
GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW guard.why_not_healed IS 'Run attempts that were left alone, counted by day (UTC, stream time), verdict, reason and mode.';
COMMENT ON COLUMN guard.why_not_healed.cases IS 'Run attempts, not decisions: each counts once, by its decision in force.';

CREATE VIEW guard.repository_minutes AS
SELECT platform, instance, repository, minute, started, completed, failed, late,
       failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       duration_ms_sum / 1000.0 / nullif((SELECT sum(n) FROM unnest(durations) n), 0) AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s,
       guard.bucket_quantile(durations, 0.95) AS duration_p95_s
FROM guard.aggregates;
COMMENT ON VIEW guard.repository_minutes IS 'What happened in each repository''s minute, by event time.';
COMMENT ON COLUMN guard.repository_minutes.late IS 'Events that came after an earlier minute of the repository had closed.';
COMMENT ON COLUMN guard.repository_minutes.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.repository_minutes.duration_p50_s IS 'Median duration in seconds, estimated from buckets that double.';
COMMENT ON COLUMN guard.repository_minutes.duration_p95_s IS '95th percentile in seconds, estimated from buckets that double.';

CREATE VIEW guard.dead_letters_open AS
SELECT dead_letter_id, shard, position, entry_id, part, reason, detail, source, octet_length(payload) AS size_bytes,
       received_at, written_at
FROM guard.dead_letters
WHERE replayed_at IS NULL;
COMMENT ON VIEW guard.dead_letters_open IS 'Entries that could not be used and were not replayed since.';
COMMENT ON COLUMN guard.dead_letters_open.part IS 'Which event of a packed entry.';
COMMENT ON COLUMN guard.dead_letters_open.size_bytes IS 'Length of the payload, which stands in guard.dead_letters.';
