-- The rows of views.py: a fleet of a thousand repositories, up to now. Parameters are psycopg's.

INSERT INTO guard.failures (failure_id, case_id, shard, position, platform, instance, repository, pipeline_id, attempt,
    job_id, workflow, job_name, commit_sha, outcome, occurred_at, received_at, duration_ms, excerpt, diagnosis,
    signature, category, transient, cause, late, rulebook, written_at)
SELECT gen_random_uuid(), gen_random_uuid(), n %% 12, n, (ARRAY['github', 'gitlab', 'jenkins', 'circleci'])[r %% 4 + 1],
       (ARRAY['github', 'gitlab', 'jenkins', 'circleci'])[r %% 4 + 1] || '.example',
       'org' || r %% 50 || '/repo' || r,
       n::text, 1 + (n %% 7 = 0)::int, (n * 10)::text, 'CI', 'job ' || n / 7 %% 3, md5((n / 3)::text) || '01234567',
       'failed', at, at, 1000 * (random() * 600)::bigint, repeat('a line of a log that failed ', 12), 'matched',
       CASE WHEN n %% 5 > 0 THEN 'signature-' || (random() ^ 2 * 180)::int END, 'network', true, 'The cause', false,
       repeat('d', 64), at
FROM (SELECT n, n / 3 * 91 %% 1000 AS r, now() - %(past)s::interval * (1 - n / %(failures)s::float8) AS at
      FROM generate_series(1, %(failures)s) n) t;

INSERT INTO guard.diagnoses (failure_id, case_id, shard, position, reading, diagnosis, signature, category, transient,
    cause, line, matched, seen_passing, captures, lines, log_lines, log_bytes, cut, compared, normaliser, received_at,
    at, rulebook, written_at)
SELECT failure_id, case_id, shard, position + 1, 'read', diagnosis, signature, category, transient, cause, 12,
       'the line that matched', false, '{}', to_jsonb(ARRAY[repeat('a line of a log ', 60)]), 5000, 500000, false,
       true, 1, received_at, received_at, rulebook, written_at
FROM guard.failures WHERE position %% 4 > 0 ORDER BY position;

INSERT INTO guard.aggregates (shard, position, platform, instance, repository, minute, started, completed, failed,
    duration_ms_sum, durations, late, written_at)
SELECT n %% 12, n, (ARRAY['github', 'gitlab', 'jenkins', 'circleci'])[r %% 4 + 1],
       (ARRAY['github', 'gitlab', 'jenkins', 'circleci'])[r %% 4 + 1] || '.example',
       'org' || r %% 50 || '/repo' || r, at, 5, 4, n %% 3, 400000,
       ARRAY[0, 0, n %% 3, n %% 2, 1, n %% 4, n %% 3, n %% 2, n %% 5 / 4, 0, 0, 0, 0, 0, 0, 0]::bigint[], 0, at
FROM (SELECT n, n * 17 %% 1000 AS r,
             date_trunc('minute', now() - %(past)s::interval * (1 - n / %(rows)s::float8)) AS at
      FROM generate_series(1, %(rows)s) n) t
ON CONFLICT DO NOTHING;

INSERT INTO guard.job_hours (shard, position, platform, instance, repository, workflow, job_name, hour, passed, failed,
    other, reruns, duration_ms_sum, duration_ms_failed_sum, duration_ms_rerun_sum, durations, queue_ms_sum, queues,
    main_passed, main_failed, late, written_at)
SELECT n %% 12, n, (ARRAY['github', 'gitlab', 'jenkins', 'circleci'])[r %% 4 + 1],
       (ARRAY['github', 'gitlab', 'jenkins', 'circleci'])[r %% 4 + 1] || '.example',
       'org' || r %% 50 || '/repo' || r, 'CI', 'job ' || n / 1000 %% 3, at, 7, n %% 3, 1, (n %% 7 = 0)::int,
       900000, 100000 * (n %% 3), 1000 * (n %% 7),
       ARRAY[0, 0, n %% 3, n %% 2, 1, n %% 4, n %% 3, n %% 2, n %% 5 / 4, 0, 0, 0, 0, 0, 0, 0]::bigint[], 30000,
       ARRAY[0, 0, n %% 3, n %% 2, 1, n %% 4, n %% 3, n %% 2, n %% 5 / 4, 0, 0, 0, 0, 0, 0, 0]::bigint[], 3, 1, 0, at
FROM (SELECT n, n %% 1000 AS r,
             date_trunc('hour', now() - %(past)s::interval * (1 - n / %(rows)s::float8)) AS at
      FROM generate_series(1, %(rows)s) n) t
ON CONFLICT DO NOTHING;

INSERT INTO guard.findings (finding_id, revision, shard, position, detector, state, instance, repository, subject,
    first_at, last_at, occurrences, events, message, at, rulebook, written_at)
SELECT gen_random_uuid(), 0, shard, position,
       CASE WHEN position %% 20 = 0 THEN 'FlakyTest' ELSE 'RepeatedFailure' END, 'raised', instance, repository,
       jsonb_build_object('repository', repository, 'workflow', workflow, 'job_name', job_name), occurred_at,
       occurred_at + interval '10 minutes', 1, ARRAY[failure_id, case_id], 'failed', occurred_at, rulebook, written_at
FROM guard.failures WHERE position %% 10 = 0 ORDER BY position
