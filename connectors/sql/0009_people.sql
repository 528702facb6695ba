-- What people read, by minute, hour and day: rates, durations, reruns, time to green, what is flaky and what is expensive.
-- Hours and days are UTC. Views add up what the tables hold; quantiles come from buckets that add up without loss.

CREATE TABLE guard.job_hours (
    shard                  smallint NOT NULL,
    position               bigint NOT NULL,
    platform               text NOT NULL,
    instance               text NOT NULL,
    repository             text NOT NULL,
    workflow               text NOT NULL,
    job_name               text NOT NULL,
    hour                   timestamptz NOT NULL,
    passed                 bigint NOT NULL,
    failed                 bigint NOT NULL,
    other                  bigint NOT NULL,
    reruns                 bigint NOT NULL,
    duration_ms_sum        bigint NOT NULL,
    duration_ms_failed_sum bigint NOT NULL,
    duration_ms_rerun_sum  bigint NOT NULL,
    durations              bigint[] NOT NULL,
    queue_ms_sum           bigint NOT NULL,
    queues                 bigint[] NOT NULL,
    main_passed            bigint NOT NULL,
    main_failed            bigint NOT NULL,
    late                   bigint NOT NULL,
    written_at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (instance, repository, workflow, job_name, hour)
);
CREATE INDEX job_hours_written ON guard.job_hours (written_at);
COMMENT ON TABLE guard.job_hours IS 'Hours of jobs, by event time; written once, some minutes after the hour.';
COMMENT ON COLUMN guard.job_hours.shard IS 'Which shard said it.';
COMMENT ON COLUMN guard.job_hours.position IS 'At which position of the shard''s stream.';
COMMENT ON COLUMN guard.job_hours.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.job_hours.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.job_hours.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.job_hours.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.job_hours.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.job_hours.hour IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.job_hours.passed IS 'Runs that passed.';
COMMENT ON COLUMN guard.job_hours.failed IS 'Runs that failed, timed out or errored.';
COMMENT ON COLUMN guard.job_hours.other IS 'Runs that were cancelled, skipped, unstable or neutral.';
COMMENT ON COLUMN guard.job_hours.reruns IS 'Of all these, the runs of a later attempt than the first.';
COMMENT ON COLUMN guard.job_hours.duration_ms_sum IS 'Sum of the known durations, in milliseconds.';
COMMENT ON COLUMN guard.job_hours.duration_ms_failed_sum IS 'Of that, spent in runs that failed.';
COMMENT ON COLUMN guard.job_hours.duration_ms_rerun_sum IS 'Of that, spent in reruns that did not fail.';
COMMENT ON COLUMN guard.job_hours.durations IS 'Durations by bucket: bucket i counts those below 2^i s, from 0; the last one the rest.';
COMMENT ON COLUMN guard.job_hours.queue_ms_sum IS 'Sum of the known times in queue, in milliseconds.';
COMMENT ON COLUMN guard.job_hours.queues IS 'Times in queue by bucket, likewise.';
COMMENT ON COLUMN guard.job_hours.main_passed IS 'Runs on the default branch that passed.';
COMMENT ON COLUMN guard.job_hours.main_failed IS 'Runs on the default branch that failed.';
COMMENT ON COLUMN guard.job_hours.late IS 'Events that came after an earlier hour of the job had closed; they are in no other count.';
COMMENT ON COLUMN guard.job_hours.written_at IS 'When PostgreSQL took the row.';

-- Rows come in the order of time, near enough for BRIN: an index of some kilobytes serves every length of time, and
-- costs an insert next to nothing. The views group by the very same expressions, so that a condition on hour or day
-- reaches the index.
CREATE INDEX job_hours_time ON guard.job_hours
    USING brin (hour, date_bin('1 day', hour, timestamptz 'epoch')) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX aggregates_time ON guard.aggregates
    USING brin (date_bin('1 hour', minute, timestamptz 'epoch'), date_bin('1 day', minute, timestamptz 'epoch'))
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX failures_time ON guard.failures
    USING brin (date_bin('1 minute', occurred_at, timestamptz 'epoch'),
                date_bin('1 hour', occurred_at, timestamptz 'epoch'),
                date_bin('1 day', occurred_at, timestamptz 'epoch'))
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX findings_detector ON guard.findings (detector, last_at);

-- --- buckets

CREATE FUNCTION guard.duration_quantile(counts bigint[], q double precision) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    target double precision := 0;
    below  double precision := 0;
    n      bigint;
BEGIN
    FOREACH n IN ARRAY counts LOOP
        target := target + n;
    END LOOP;
    target := target * q;
    FOR i IN 1 .. cardinality(counts) LOOP
        n := counts[i];
        IF n > 0 AND below + n >= target THEN
            RETURN 1000 * CASE WHEN i = 1 THEN (target - below) / n
                               WHEN i = cardinality(counts) THEN 2 ^ (i - 2)
                               ELSE 2 ^ (i - 2) * (1 + (target - below) / n) END;
        END IF;
        below := below + n;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION guard.duration_quantile IS
    'Milliseconds below which a share q of durations lies, on a straight line inside its bucket (bucket i counts durations below 2^i s). The true one lies in the same bucket: it is off by less than a factor of two, below one second by less than a second. For the last, open bucket its lower edge. NULL if nothing was counted.';

CREATE OR REPLACE FUNCTION guard.bucket_quantile(counts bigint[], q double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT guard.duration_quantile(counts, q) / 1000 $$;
COMMENT ON FUNCTION guard.bucket_quantile IS 'guard.duration_quantile in seconds.';

CREATE FUNCTION guard.bucket_total(counts bigint[]) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    total bigint := 0;
    n     bigint;
BEGIN
    FOREACH n IN ARRAY counts LOOP
        total := total + n;
    END LOOP;
    RETURN total;
END $$;
COMMENT ON FUNCTION guard.bucket_total IS 'How many durations were counted.';

CREATE FUNCTION guard.add_buckets(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
BEGIN
    RETURN ARRAY[a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6], a[7] + b[7],
                 a[8] + b[8], a[9] + b[9], a[10] + b[10], a[11] + b[11], a[12] + b[12], a[13] + b[13],
                 a[14] + b[14], a[15] + b[15], a[16] + b[16]];
END $$;
COMMENT ON FUNCTION guard.add_buckets IS 'Two rows of sixteen buckets, added one by one; written out, it takes a fifth of the time of a loop.';

CREATE AGGREGATE guard.sum_buckets(bigint[]) (
    SFUNC = guard.add_buckets, STYPE = bigint[], COMBINEFUNC = guard.add_buckets, PARALLEL = SAFE
);
COMMENT ON AGGREGATE guard.sum_buckets(bigint[]) IS
    'Rows of sixteen buckets, added up: guard.duration_quantile(guard.sum_buckets(durations), 0.95) is the p95 of all of them together.';

-- --- repositories and platforms

CREATE OR REPLACE VIEW guard.repository_minutes AS
SELECT platform, instance, repository, minute, started, completed, failed, late,
       failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       duration_ms_sum / 1000.0 / nullif((SELECT sum(n) FROM unnest(durations) n), 0) AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s,
       guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations
FROM guard.aggregates;
COMMENT ON VIEW guard.repository_minutes IS 'Minutes of repositories: jobs that started and ended, and how long they took.';
COMMENT ON COLUMN guard.repository_minutes.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.repository_minutes.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.repository_minutes.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.repository_minutes.minute IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.repository_minutes.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.repository_minutes.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.repository_minutes.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.repository_minutes.late IS 'Events that came after an earlier minute had closed, by the minute in which they came; they are in no other count.';
COMMENT ON COLUMN guard.repository_minutes.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.repository_minutes.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.repository_minutes.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.repository_minutes.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.repository_minutes.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';

CREATE VIEW guard.platform_minutes AS
SELECT platform, instance, minute,
       started, completed, failed, late, failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations
FROM (
    SELECT platform, instance, minute,
           sum(started)::bigint AS started, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
           sum(late)::bigint AS late, sum(duration_ms_sum) AS duration_ms_sum,
           ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
                 sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
                 sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]), sum(durations[15]),
                 sum(durations[16])]::bigint[] AS durations
    FROM guard.aggregates
    GROUP BY platform, instance, minute
) summed;
COMMENT ON VIEW guard.platform_minutes IS 'Minutes of platforms, each of their instances by itself.';
COMMENT ON COLUMN guard.platform_minutes.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.platform_minutes.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.platform_minutes.minute IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.platform_minutes.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.platform_minutes.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.platform_minutes.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.platform_minutes.late IS 'Events that came after an earlier minute had closed, by the minute in which they came; they are in no other count.';
COMMENT ON COLUMN guard.platform_minutes.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.platform_minutes.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.platform_minutes.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.platform_minutes.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.platform_minutes.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';

CREATE VIEW guard.counted_hours AS
SELECT platform, instance, repository, date_bin('1 hour', minute, timestamptz 'epoch') AS hour,
       date_bin('1 day', minute, timestamptz 'epoch') AS day, started, completed, failed, late, duration_ms_sum,
       durations, 0::bigint AS runs, 0::bigint AS reruns, 0::bigint AS main_runs, 0::bigint AS main_failed,
       0::bigint AS queue_ms_sum, NULL::bigint[] AS queues
FROM guard.aggregates
UNION ALL
SELECT platform, instance, repository, hour, date_bin('1 day', hour, timestamptz 'epoch'), 0, 0, 0, 0, 0, NULL,
       passed + failed + other, reruns, main_passed + main_failed, main_failed, queue_ms_sum, queues
FROM guard.job_hours;
COMMENT ON VIEW guard.counted_hours IS 'What the hours and days of repositories and platforms are added up from: minutes of repositories and hours of jobs, one row each.';
COMMENT ON COLUMN guard.counted_hours.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.counted_hours.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.counted_hours.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.counted_hours.hour IS 'The hour in which the row lies.';
COMMENT ON COLUMN guard.counted_hours.day IS 'The day in which the row lies.';
COMMENT ON COLUMN guard.counted_hours.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.counted_hours.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.counted_hours.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.counted_hours.late IS 'Events that came after their minute had closed; they are in no other count.';
COMMENT ON COLUMN guard.counted_hours.duration_ms_sum IS 'Sum of the known durations, in milliseconds.';
COMMENT ON COLUMN guard.counted_hours.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.counted_hours.runs IS 'Job runs that ended, whatever their outcome; counted once their hour has closed, some minutes after its end.';
COMMENT ON COLUMN guard.counted_hours.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.counted_hours.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.counted_hours.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.counted_hours.queue_ms_sum IS 'Sum of the known times in queue, in milliseconds.';
COMMENT ON COLUMN guard.counted_hours.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';

CREATE VIEW guard.repository_hours AS
SELECT platform, instance, repository, hour,
       started, completed, failed, late, failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations,
       runs, reruns, reruns::double precision / nullif(runs, 0) AS rerun_share,
       main_runs, main_failed, main_failed::double precision / nullif(main_runs, 0) AS main_failure_rate,
       (queue_ms_sum / 1000.0 / nullif(guard.bucket_total(queues), 0))::double precision AS queue_mean_s,
       guard.bucket_quantile(queues, 0.5) AS queue_p50_s, guard.bucket_quantile(queues, 0.95) AS queue_p95_s,
       queues
FROM (
    SELECT platform, instance, repository, hour,
           sum(started)::bigint AS started, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
           sum(late)::bigint AS late, sum(duration_ms_sum) AS duration_ms_sum,
           CASE WHEN count(durations) > 0 THEN
               ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
                     sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
                     sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]),
                     sum(durations[15]), sum(durations[16])]::bigint[]
           END AS durations,
           sum(runs)::bigint AS runs, sum(reruns)::bigint AS reruns, sum(main_runs)::bigint AS main_runs,
           sum(main_failed)::bigint AS main_failed, sum(queue_ms_sum) AS queue_ms_sum,
           CASE WHEN count(queues) > 0 THEN
               ARRAY[sum(queues[1]), sum(queues[2]), sum(queues[3]), sum(queues[4]), sum(queues[5]), sum(queues[6]),
                     sum(queues[7]), sum(queues[8]), sum(queues[9]), sum(queues[10]), sum(queues[11]),
                     sum(queues[12]), sum(queues[13]), sum(queues[14]), sum(queues[15]),
                     sum(queues[16])]::bigint[]
           END AS queues
    FROM guard.counted_hours
    GROUP BY platform, instance, repository, hour
) summed;
COMMENT ON VIEW guard.repository_hours IS 'Hours of repositories; the last one is not over yet.';
COMMENT ON COLUMN guard.repository_hours.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.repository_hours.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.repository_hours.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.repository_hours.hour IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.repository_hours.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.repository_hours.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.repository_hours.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.repository_hours.late IS 'Events that came after their minute had closed; they are in no other count.';
COMMENT ON COLUMN guard.repository_hours.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.repository_hours.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.repository_hours.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.repository_hours.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.repository_hours.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.repository_hours.runs IS 'Job runs that ended, whatever their outcome; counted once their hour has closed, some minutes after its end.';
COMMENT ON COLUMN guard.repository_hours.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.repository_hours.rerun_share IS 'Reruns out of runs; NULL while no hour has closed.';
COMMENT ON COLUMN guard.repository_hours.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.repository_hours.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.repository_hours.main_failure_rate IS 'Failed out of passed and failed on the default branch; NULL if there were none.';
COMMENT ON COLUMN guard.repository_hours.queue_mean_s IS 'Mean time in seconds that job runs waited before they started, where that is known.';
COMMENT ON COLUMN guard.repository_hours.queue_p50_s IS 'Median of that time, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.repository_hours.queue_p95_s IS '95th percentile of that time, likewise.';
COMMENT ON COLUMN guard.repository_hours.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';

CREATE VIEW guard.repository_days AS
SELECT platform, instance, repository, day,
       started, completed, failed, late, failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations,
       runs, reruns, reruns::double precision / nullif(runs, 0) AS rerun_share,
       main_runs, main_failed, main_failed::double precision / nullif(main_runs, 0) AS main_failure_rate,
       (queue_ms_sum / 1000.0 / nullif(guard.bucket_total(queues), 0))::double precision AS queue_mean_s,
       guard.bucket_quantile(queues, 0.5) AS queue_p50_s, guard.bucket_quantile(queues, 0.95) AS queue_p95_s,
       queues
FROM (
    SELECT platform, instance, repository, day,
           sum(started)::bigint AS started, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
           sum(late)::bigint AS late, sum(duration_ms_sum) AS duration_ms_sum,
           CASE WHEN count(durations) > 0 THEN
               ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
                     sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
                     sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]),
                     sum(durations[15]), sum(durations[16])]::bigint[]
           END AS durations,
           sum(runs)::bigint AS runs, sum(reruns)::bigint AS reruns, sum(main_runs)::bigint AS main_runs,
           sum(main_failed)::bigint AS main_failed, sum(queue_ms_sum) AS queue_ms_sum,
           CASE WHEN count(queues) > 0 THEN
               ARRAY[sum(queues[1]), sum(queues[2]), sum(queues[3]), sum(queues[4]), sum(queues[5]), sum(queues[6]),
                     sum(queues[7]), sum(queues[8]), sum(queues[9]), sum(queues[10]), sum(queues[11]),
                     sum(queues[12]), sum(queues[13]), sum(queues[14]), sum(queues[15]),
                     sum(queues[16])]::bigint[]
           END AS queues
    FROM guard.counted_hours
    GROUP BY platform, instance, repository, day
) summed;
COMMENT ON VIEW guard.repository_days IS 'Days of repositories; the last one is not over yet.';
COMMENT ON COLUMN guard.repository_days.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.repository_days.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.repository_days.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.repository_days.day IS 'Its beginning, midnight UTC, by event time.';
COMMENT ON COLUMN guard.repository_days.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.repository_days.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.repository_days.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.repository_days.late IS 'Events that came after their minute had closed; they are in no other count.';
COMMENT ON COLUMN guard.repository_days.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.repository_days.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.repository_days.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.repository_days.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.repository_days.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.repository_days.runs IS 'Job runs that ended, whatever their outcome; counted once their hour has closed, some minutes after its end.';
COMMENT ON COLUMN guard.repository_days.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.repository_days.rerun_share IS 'Reruns out of runs; NULL while no hour has closed.';
COMMENT ON COLUMN guard.repository_days.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.repository_days.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.repository_days.main_failure_rate IS 'Failed out of passed and failed on the default branch; NULL if there were none.';
COMMENT ON COLUMN guard.repository_days.queue_mean_s IS 'Mean time in seconds that job runs waited before they started, where that is known.';
COMMENT ON COLUMN guard.repository_days.queue_p50_s IS 'Median of that time, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.repository_days.queue_p95_s IS '95th percentile of that time, likewise.';
COMMENT ON COLUMN guard.repository_days.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';

CREATE VIEW guard.platform_hours AS
SELECT platform, instance, hour,
       started, completed, failed, late, failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations,
       runs, reruns, reruns::double precision / nullif(runs, 0) AS rerun_share,
       main_runs, main_failed, main_failed::double precision / nullif(main_runs, 0) AS main_failure_rate,
       (queue_ms_sum / 1000.0 / nullif(guard.bucket_total(queues), 0))::double precision AS queue_mean_s,
       guard.bucket_quantile(queues, 0.5) AS queue_p50_s, guard.bucket_quantile(queues, 0.95) AS queue_p95_s,
       queues
FROM (
    SELECT platform, instance, hour,
           sum(started)::bigint AS started, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
           sum(late)::bigint AS late, sum(duration_ms_sum) AS duration_ms_sum,
           CASE WHEN count(durations) > 0 THEN
               ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
                     sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
                     sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]),
                     sum(durations[15]), sum(durations[16])]::bigint[]
           END AS durations,
           sum(runs)::bigint AS runs, sum(reruns)::bigint AS reruns, sum(main_runs)::bigint AS main_runs,
           sum(main_failed)::bigint AS main_failed, sum(queue_ms_sum) AS queue_ms_sum,
           CASE WHEN count(queues) > 0 THEN
               ARRAY[sum(queues[1]), sum(queues[2]), sum(queues[3]), sum(queues[4]), sum(queues[5]), sum(queues[6]),
                     sum(queues[7]), sum(queues[8]), sum(queues[9]), sum(queues[10]), sum(queues[11]),
                     sum(queues[12]), sum(queues[13]), sum(queues[14]), sum(queues[15]),
                     sum(queues[16])]::bigint[]
           END AS queues
    FROM guard.counted_hours
    GROUP BY platform, instance, hour
) summed;
COMMENT ON VIEW guard.platform_hours IS 'Hours of platforms, each of their instances by itself; the last one is not over yet.';
COMMENT ON COLUMN guard.platform_hours.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.platform_hours.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.platform_hours.hour IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.platform_hours.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.platform_hours.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.platform_hours.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.platform_hours.late IS 'Events that came after their minute had closed; they are in no other count.';
COMMENT ON COLUMN guard.platform_hours.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.platform_hours.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.platform_hours.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.platform_hours.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.platform_hours.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.platform_hours.runs IS 'Job runs that ended, whatever their outcome; counted once their hour has closed, some minutes after its end.';
COMMENT ON COLUMN guard.platform_hours.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.platform_hours.rerun_share IS 'Reruns out of runs; NULL while no hour has closed.';
COMMENT ON COLUMN guard.platform_hours.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.platform_hours.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.platform_hours.main_failure_rate IS 'Failed out of passed and failed on the default branch; NULL if there were none.';
COMMENT ON COLUMN guard.platform_hours.queue_mean_s IS 'Mean time in seconds that job runs waited before they started, where that is known.';
COMMENT ON COLUMN guard.platform_hours.queue_p50_s IS 'Median of that time, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.platform_hours.queue_p95_s IS '95th percentile of that time, likewise.';
COMMENT ON COLUMN guard.platform_hours.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';

CREATE VIEW guard.platform_days AS
SELECT platform, instance, day,
       started, completed, failed, late, failed::double precision / nullif(completed + failed, 0) AS failure_rate,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations,
       runs, reruns, reruns::double precision / nullif(runs, 0) AS rerun_share,
       main_runs, main_failed, main_failed::double precision / nullif(main_runs, 0) AS main_failure_rate,
       (queue_ms_sum / 1000.0 / nullif(guard.bucket_total(queues), 0))::double precision AS queue_mean_s,
       guard.bucket_quantile(queues, 0.5) AS queue_p50_s, guard.bucket_quantile(queues, 0.95) AS queue_p95_s,
       queues
FROM (
    SELECT platform, instance, day,
           sum(started)::bigint AS started, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
           sum(late)::bigint AS late, sum(duration_ms_sum) AS duration_ms_sum,
           CASE WHEN count(durations) > 0 THEN
               ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
                     sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
                     sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]),
                     sum(durations[15]), sum(durations[16])]::bigint[]
           END AS durations,
           sum(runs)::bigint AS runs, sum(reruns)::bigint AS reruns, sum(main_runs)::bigint AS main_runs,
           sum(main_failed)::bigint AS main_failed, sum(queue_ms_sum) AS queue_ms_sum,
           CASE WHEN count(queues) > 0 THEN
               ARRAY[sum(queues[1]), sum(queues[2]), sum(queues[3]), sum(queues[4]), sum(queues[5]), sum(queues[6]),
                     sum(queues[7]), sum(queues[8]), sum(queues[9]), sum(queues[10]), sum(queues[11]),
                     sum(queues[12]), sum(queues[13]), sum(queues[14]), sum(queues[15]),
                     sum(queues[16])]::bigint[]
           END AS queues
    FROM guard.counted_hours
    GROUP BY platform, instance, day
) summed;
COMMENT ON VIEW guard.platform_days IS 'Days of platforms, each of their instances by itself; the last one is not over yet.';
COMMENT ON COLUMN guard.platform_days.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.platform_days.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.platform_days.day IS 'Its beginning, midnight UTC, by event time.';
COMMENT ON COLUMN guard.platform_days.started IS 'Jobs that started.';
COMMENT ON COLUMN guard.platform_days.completed IS 'Jobs that ended without failing.';
COMMENT ON COLUMN guard.platform_days.failed IS 'Jobs that failed, timed out or errored.';
COMMENT ON COLUMN guard.platform_days.late IS 'Events that came after their minute had closed; they are in no other count.';
COMMENT ON COLUMN guard.platform_days.failure_rate IS 'Failed out of ended; NULL if none ended.';
COMMENT ON COLUMN guard.platform_days.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.platform_days.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.platform_days.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.platform_days.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.platform_days.runs IS 'Job runs that ended, whatever their outcome; counted once their hour has closed, some minutes after its end.';
COMMENT ON COLUMN guard.platform_days.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.platform_days.rerun_share IS 'Reruns out of runs; NULL while no hour has closed.';
COMMENT ON COLUMN guard.platform_days.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.platform_days.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.platform_days.main_failure_rate IS 'Failed out of passed and failed on the default branch; NULL if there were none.';
COMMENT ON COLUMN guard.platform_days.queue_mean_s IS 'Mean time in seconds that job runs waited before they started, where that is known.';
COMMENT ON COLUMN guard.platform_days.queue_p50_s IS 'Median of that time, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.platform_days.queue_p95_s IS '95th percentile of that time, likewise.';
COMMENT ON COLUMN guard.platform_days.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';

-- --- jobs

CREATE VIEW guard.job_hour_rates AS
SELECT platform, instance, repository, workflow, job_name, hour,
       passed + failed + other AS runs, passed, failed, other,
       failed::double precision / nullif(passed + failed, 0) AS failure_rate,
       reruns, reruns::double precision / nullif(passed + failed + other, 0) AS rerun_share,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations,
       (duration_ms_failed_sum / 60000.0)::double precision AS failed_minutes,
       (duration_ms_rerun_sum / 60000.0)::double precision AS rerun_minutes,
       (queue_ms_sum / 1000.0 / nullif(guard.bucket_total(queues), 0))::double precision AS queue_mean_s,
       guard.bucket_quantile(queues, 0.5) AS queue_p50_s, guard.bucket_quantile(queues, 0.95) AS queue_p95_s,
       queues,
       main_passed + main_failed AS main_runs, main_failed,
       main_failed::double precision / nullif(main_passed + main_failed, 0) AS main_failure_rate, late
FROM guard.job_hours;
COMMENT ON VIEW guard.job_hour_rates IS 'Hours of jobs, once they have closed, some minutes after their end.';
COMMENT ON COLUMN guard.job_hour_rates.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.job_hour_rates.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.job_hour_rates.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.job_hour_rates.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.job_hour_rates.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.job_hour_rates.hour IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.job_hour_rates.runs IS 'Runs that ended, whatever their outcome.';
COMMENT ON COLUMN guard.job_hour_rates.passed IS 'Runs that passed.';
COMMENT ON COLUMN guard.job_hour_rates.failed IS 'Runs that failed, timed out or errored.';
COMMENT ON COLUMN guard.job_hour_rates.other IS 'Runs that were cancelled, skipped, unstable or neutral.';
COMMENT ON COLUMN guard.job_hour_rates.failure_rate IS 'Failed out of passed and failed; NULL if there were none.';
COMMENT ON COLUMN guard.job_hour_rates.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.job_hour_rates.rerun_share IS 'Reruns out of runs; NULL if there were none.';
COMMENT ON COLUMN guard.job_hour_rates.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.job_hour_rates.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.job_hour_rates.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.job_hour_rates.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.job_hour_rates.failed_minutes IS 'Minutes spent in runs that failed.';
COMMENT ON COLUMN guard.job_hour_rates.rerun_minutes IS 'Minutes spent in reruns that did not fail.';
COMMENT ON COLUMN guard.job_hour_rates.queue_mean_s IS 'Mean time in seconds that job runs waited before they started, where that is known.';
COMMENT ON COLUMN guard.job_hour_rates.queue_p50_s IS 'Median of that time, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.job_hour_rates.queue_p95_s IS '95th percentile of that time, likewise.';
COMMENT ON COLUMN guard.job_hour_rates.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';
COMMENT ON COLUMN guard.job_hour_rates.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.job_hour_rates.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.job_hour_rates.main_failure_rate IS 'Failed out of passed and failed on the default branch; NULL if there were none.';
COMMENT ON COLUMN guard.job_hour_rates.late IS 'Events that came after an earlier hour of the job had closed; they are in no other count.';

CREATE VIEW guard.job_days AS
SELECT platform, instance, repository, workflow, job_name, day,
       passed + failed + other AS runs, passed, failed, other,
       failed::double precision / nullif(passed + failed, 0) AS failure_rate,
       reruns, reruns::double precision / nullif(passed + failed + other, 0) AS rerun_share,
       (duration_ms_sum / 1000.0 / nullif(guard.bucket_total(durations), 0))::double precision AS duration_mean_s,
       guard.bucket_quantile(durations, 0.5) AS duration_p50_s, guard.bucket_quantile(durations, 0.95) AS duration_p95_s,
       durations,
       (duration_ms_failed_sum / 60000.0)::double precision AS failed_minutes,
       (duration_ms_rerun_sum / 60000.0)::double precision AS rerun_minutes,
       (queue_ms_sum / 1000.0 / nullif(guard.bucket_total(queues), 0))::double precision AS queue_mean_s,
       guard.bucket_quantile(queues, 0.5) AS queue_p50_s, guard.bucket_quantile(queues, 0.95) AS queue_p95_s,
       queues,
       main_passed + main_failed AS main_runs, main_failed,
       main_failed::double precision / nullif(main_passed + main_failed, 0) AS main_failure_rate, late
FROM (
    SELECT platform, instance, repository, workflow, job_name, date_bin('1 day', hour, timestamptz 'epoch') AS day,
           sum(passed)::bigint AS passed, sum(failed)::bigint AS failed, sum(other)::bigint AS other,
           sum(reruns)::bigint AS reruns, sum(main_passed)::bigint AS main_passed,
           sum(main_failed)::bigint AS main_failed, sum(late)::bigint AS late, sum(duration_ms_sum) AS duration_ms_sum,
           sum(duration_ms_failed_sum) AS duration_ms_failed_sum, sum(duration_ms_rerun_sum) AS duration_ms_rerun_sum,
           ARRAY[sum(durations[1]), sum(durations[2]), sum(durations[3]), sum(durations[4]), sum(durations[5]),
                 sum(durations[6]), sum(durations[7]), sum(durations[8]), sum(durations[9]), sum(durations[10]),
                 sum(durations[11]), sum(durations[12]), sum(durations[13]), sum(durations[14]), sum(durations[15]),
                 sum(durations[16])]::bigint[] AS durations,
           sum(queue_ms_sum) AS queue_ms_sum,
           ARRAY[sum(queues[1]), sum(queues[2]), sum(queues[3]), sum(queues[4]), sum(queues[5]), sum(queues[6]),
                 sum(queues[7]), sum(queues[8]), sum(queues[9]), sum(queues[10]), sum(queues[11]), sum(queues[12]),
                 sum(queues[13]), sum(queues[14]), sum(queues[15]), sum(queues[16])]::bigint[] AS queues
    FROM guard.job_hours
    GROUP BY platform, instance, repository, workflow, job_name, date_bin('1 day', hour, timestamptz 'epoch')
) summed;
COMMENT ON VIEW guard.job_days IS 'Days of jobs: their hours that have closed, added up.';
COMMENT ON COLUMN guard.job_days.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.job_days.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.job_days.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.job_days.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.job_days.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.job_days.day IS 'Its beginning, midnight UTC, by event time.';
COMMENT ON COLUMN guard.job_days.runs IS 'Runs that ended, whatever their outcome.';
COMMENT ON COLUMN guard.job_days.passed IS 'Runs that passed.';
COMMENT ON COLUMN guard.job_days.failed IS 'Runs that failed, timed out or errored.';
COMMENT ON COLUMN guard.job_days.other IS 'Runs that were cancelled, skipped, unstable or neutral.';
COMMENT ON COLUMN guard.job_days.failure_rate IS 'Failed out of passed and failed; NULL if there were none.';
COMMENT ON COLUMN guard.job_days.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.job_days.rerun_share IS 'Reruns out of runs; NULL if there were none.';
COMMENT ON COLUMN guard.job_days.duration_mean_s IS 'Mean duration in seconds, of those whose duration is known.';
COMMENT ON COLUMN guard.job_days.duration_p50_s IS 'Median duration in seconds, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.job_days.duration_p95_s IS '95th percentile of the durations, likewise.';
COMMENT ON COLUMN guard.job_days.durations IS 'Durations by bucket, to be added with guard.sum_buckets.';
COMMENT ON COLUMN guard.job_days.failed_minutes IS 'Minutes spent in runs that failed.';
COMMENT ON COLUMN guard.job_days.rerun_minutes IS 'Minutes spent in reruns that did not fail.';
COMMENT ON COLUMN guard.job_days.queue_mean_s IS 'Mean time in seconds that job runs waited before they started, where that is known.';
COMMENT ON COLUMN guard.job_days.queue_p50_s IS 'Median of that time, from buckets: off by less than a factor of two.';
COMMENT ON COLUMN guard.job_days.queue_p95_s IS '95th percentile of that time, likewise.';
COMMENT ON COLUMN guard.job_days.queues IS 'That time by bucket, to be added with guard.sum_buckets; NULL while no hour has closed.';
COMMENT ON COLUMN guard.job_days.main_runs IS 'Job runs on the default branch that passed or failed.';
COMMENT ON COLUMN guard.job_days.main_failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.job_days.main_failure_rate IS 'Failed out of passed and failed on the default branch; NULL if there were none.';
COMMENT ON COLUMN guard.job_days.late IS 'Events that came after an earlier hour of the job had closed; they are in no other count.';

-- --- signatures

CREATE OR REPLACE VIEW guard.explained_failures AS
SELECT f.failure_id, f.case_id, f.platform, f.instance, f.repository, f.pipeline_id, f.workflow_id, f.attempt, f.job_id,
       f.workflow, f.job_name, f.branch, f.commit_sha, f.outcome, f.reason, f.step,
       coalesce(d.exit_code, f.exit_code) AS exit_code,
       coalesce(d.diagnosis, f.diagnosis) AS diagnosis,
       CASE WHEN d.failure_id IS NULL THEN f.signature ELSE d.signature END AS signature,
       CASE WHEN d.failure_id IS NULL THEN f.category ELSE d.category END AS category,
       CASE WHEN d.failure_id IS NULL THEN f.transient ELSE d.transient END AS transient,
       CASE WHEN d.failure_id IS NULL THEN f.cause ELSE d.cause END AS cause,
       CASE WHEN d.failure_id IS NULL THEN f.score ELSE d.score END AS score,
       d.reading, d.why, d.line, d.matched, d.lines, d.template, d.compared,
       f.occurred_at, f.received_at, d.received_at AS log_received_at, f.written_at, f.url, f.duration_ms
FROM guard.failures f
LEFT JOIN guard.diagnoses d USING (failure_id);
COMMENT ON COLUMN guard.explained_failures.duration_ms IS 'How long the job ran; NULL where the platform does not say.';

CREATE VIEW guard.signature_minutes AS
SELECT signature, max(category) AS category, date_bin('1 minute', occurred_at, timestamptz 'epoch') AS minute, count(*) AS failures,
       count(*) / sum(count(*)) OVER (PARTITION BY date_bin('1 minute', occurred_at, timestamptz 'epoch'))::double precision AS share,
       count(DISTINCT (instance, repository)) AS repositories,
       count(*) FILTER (WHERE attempt > 1) AS reruns,
       count(*) FILTER (WHERE attempt > 1) / count(*)::double precision AS rerun_share,
       (coalesce(sum(duration_ms), 0) / 60000.0)::double precision AS failed_minutes,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p95_s
FROM guard.explained_failures
GROUP BY signature, date_bin('1 minute', occurred_at, timestamptz 'epoch');
COMMENT ON VIEW guard.signature_minutes IS 'Minutes of signatures: the failures that each explains, as they are understood now.';
COMMENT ON COLUMN guard.signature_minutes.signature IS 'The signature; NULL are the failures that none explains.';
COMMENT ON COLUMN guard.signature_minutes.category IS 'What kind of cause it names.';
COMMENT ON COLUMN guard.signature_minutes.minute IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.signature_minutes.failures IS 'Failures that it explains.';
COMMENT ON COLUMN guard.signature_minutes.share IS 'Of all failures of the minute, by count.';
COMMENT ON COLUMN guard.signature_minutes.repositories IS 'In how many repositories they were.';
COMMENT ON COLUMN guard.signature_minutes.reruns IS 'Of the failures, those of a later attempt than the first.';
COMMENT ON COLUMN guard.signature_minutes.rerun_share IS 'Reruns out of failures.';
COMMENT ON COLUMN guard.signature_minutes.failed_minutes IS 'Minutes that the failed jobs ran.';
COMMENT ON COLUMN guard.signature_minutes.duration_p50_s IS 'Median duration of the failed jobs in seconds; exact.';
COMMENT ON COLUMN guard.signature_minutes.duration_p95_s IS '95th percentile of it; exact.';

CREATE VIEW guard.signature_hours AS
SELECT signature, max(category) AS category, date_bin('1 hour', occurred_at, timestamptz 'epoch') AS hour, count(*) AS failures,
       count(*) / sum(count(*)) OVER (PARTITION BY date_bin('1 hour', occurred_at, timestamptz 'epoch'))::double precision AS share,
       count(DISTINCT (instance, repository)) AS repositories,
       count(*) FILTER (WHERE attempt > 1) AS reruns,
       count(*) FILTER (WHERE attempt > 1) / count(*)::double precision AS rerun_share,
       (coalesce(sum(duration_ms), 0) / 60000.0)::double precision AS failed_minutes,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p95_s
FROM guard.explained_failures
GROUP BY signature, date_bin('1 hour', occurred_at, timestamptz 'epoch');
COMMENT ON VIEW guard.signature_hours IS 'Hours of signatures: the failures that each explains, as they are understood now.';
COMMENT ON COLUMN guard.signature_hours.signature IS 'The signature; NULL are the failures that none explains.';
COMMENT ON COLUMN guard.signature_hours.category IS 'What kind of cause it names.';
COMMENT ON COLUMN guard.signature_hours.hour IS 'Its beginning, UTC, by event time.';
COMMENT ON COLUMN guard.signature_hours.failures IS 'Failures that it explains.';
COMMENT ON COLUMN guard.signature_hours.share IS 'Of all failures of the hour, by count.';
COMMENT ON COLUMN guard.signature_hours.repositories IS 'In how many repositories they were.';
COMMENT ON COLUMN guard.signature_hours.reruns IS 'Of the failures, those of a later attempt than the first.';
COMMENT ON COLUMN guard.signature_hours.rerun_share IS 'Reruns out of failures.';
COMMENT ON COLUMN guard.signature_hours.failed_minutes IS 'Minutes that the failed jobs ran.';
COMMENT ON COLUMN guard.signature_hours.duration_p50_s IS 'Median duration of the failed jobs in seconds; exact.';
COMMENT ON COLUMN guard.signature_hours.duration_p95_s IS '95th percentile of it; exact.';

CREATE VIEW guard.signature_days AS
SELECT signature, max(category) AS category, date_bin('1 day', occurred_at, timestamptz 'epoch') AS day, count(*) AS failures,
       count(*) / sum(count(*)) OVER (PARTITION BY date_bin('1 day', occurred_at, timestamptz 'epoch'))::double precision AS share,
       count(DISTINCT (instance, repository)) AS repositories,
       count(*) FILTER (WHERE attempt > 1) AS reruns,
       count(*) FILTER (WHERE attempt > 1) / count(*)::double precision AS rerun_share,
       (coalesce(sum(duration_ms), 0) / 60000.0)::double precision AS failed_minutes,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p95_s
FROM guard.explained_failures
GROUP BY signature, date_bin('1 day', occurred_at, timestamptz 'epoch');
COMMENT ON VIEW guard.signature_days IS 'Days of signatures: the failures that each explains, as they are understood now.';
COMMENT ON COLUMN guard.signature_days.signature IS 'The signature; NULL are the failures that none explains.';
COMMENT ON COLUMN guard.signature_days.category IS 'What kind of cause it names.';
COMMENT ON COLUMN guard.signature_days.day IS 'Its beginning, midnight UTC, by event time.';
COMMENT ON COLUMN guard.signature_days.failures IS 'Failures that it explains.';
COMMENT ON COLUMN guard.signature_days.share IS 'Of all failures of the day, by count.';
COMMENT ON COLUMN guard.signature_days.repositories IS 'In how many repositories they were.';
COMMENT ON COLUMN guard.signature_days.reruns IS 'Of the failures, those of a later attempt than the first.';
COMMENT ON COLUMN guard.signature_days.rerun_share IS 'Reruns out of failures.';
COMMENT ON COLUMN guard.signature_days.failed_minutes IS 'Minutes that the failed jobs ran.';
COMMENT ON COLUMN guard.signature_days.duration_p50_s IS 'Median duration of the failed jobs in seconds; exact.';
COMMENT ON COLUMN guard.signature_days.duration_p95_s IS '95th percentile of it; exact.';

-- --- how long it takes to be green again

CREATE VIEW guard.recoveries AS
WITH passed AS (
    SELECT failure_id, min(last_at) AS green_at
    FROM guard.findings, unnest(events) AS failure_id
    WHERE detector = 'FlakyTest' AND state <> 'cleared'
    GROUP BY failure_id
), main AS (
    SELECT DISTINCT ON (finding_id) instance, repository, subject, message,
           min(first_at) OVER (PARTITION BY finding_id) AS first_at,
           CASE WHEN state = 'cleared' AND message LIKE 'passed again%' THEN at END AS green_at
    FROM guard.findings
    WHERE detector = 'BrokenMain'
    ORDER BY finding_id, revision DESC
), episodes AS (
    SELECT 'commit' AS scope, instance, repository, coalesce(workflow, '') AS workflow,
           coalesce(job_name, '') AS job_name, commit_sha, date_bin('1 day', occurred_at, timestamptz 'epoch') AS day,
           min(occurred_at) AS failed_at, min(green_at) AS green_at
    FROM guard.failures
    LEFT JOIN passed USING (failure_id)
    WHERE commit_sha IS NOT NULL AND (job_id IS NOT NULL OR job_name IS NOT NULL)
    GROUP BY instance, repository, workflow, job_name, commit_sha, date_bin('1 day', occurred_at, timestamptz 'epoch')
    UNION ALL
    SELECT 'main', instance, repository, coalesce(subject ->> 'workflow', ''), coalesce(subject ->> 'job_name', ''),
           NULL, date_bin('1 day', first_at, timestamptz 'epoch'), first_at, green_at
    FROM main
    WHERE message <> 'began earlier than was known'
)
SELECT *, extract(epoch FROM green_at - failed_at)::double precision AS seconds
FROM episodes;
COMMENT ON VIEW guard.recoveries IS 'How long jobs stayed red: from the first failure of a job on a commit, or on the default branch, to its next pass.';
COMMENT ON COLUMN guard.recoveries.scope IS 'commit: a job on one commit, whose pass FlakyTest saw (within two hours, unless set otherwise); main: a job on the default branch, red on several commits in a row, from BrokenMain.';
COMMENT ON COLUMN guard.recoveries.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.recoveries.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.recoveries.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.recoveries.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.recoveries.commit_sha IS 'The commit; NULL for main.';
COMMENT ON COLUMN guard.recoveries.day IS 'The day of the first failure, midnight UTC. A commit that fails on two days counts on both.';
COMMENT ON COLUMN guard.recoveries.failed_at IS 'Event time of the first failure.';
COMMENT ON COLUMN guard.recoveries.green_at IS 'When it passed next: event time for commit, stream time for main. NULL if it never did, or not yet, or it was not seen.';
COMMENT ON COLUMN guard.recoveries.seconds IS 'From the first failure to green; NULL if it never got green.';

CREATE VIEW guard.time_to_green AS
SELECT scope, instance, repository, workflow, job_name, day, count(*) AS episodes, count(green_at) AS green,
       count(*) - count(green_at) AS never_green, avg(seconds) AS mean_s,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50_s, sum(seconds) AS seconds
FROM guard.recoveries
GROUP BY scope, instance, repository, workflow, job_name, day;
COMMENT ON VIEW guard.time_to_green IS 'Mean time to green of each job by day of the first failure. What never got green is in no mean, and counted.';
COMMENT ON COLUMN guard.time_to_green.scope IS 'commit or main, as in guard.recoveries.';
COMMENT ON COLUMN guard.time_to_green.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.time_to_green.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.time_to_green.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.time_to_green.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.time_to_green.day IS 'The day of the first failure, midnight UTC.';
COMMENT ON COLUMN guard.time_to_green.episodes IS 'How often the job turned red.';
COMMENT ON COLUMN guard.time_to_green.green IS 'How often it got green again.';
COMMENT ON COLUMN guard.time_to_green.never_green IS 'How often it did not, or not yet.';
COMMENT ON COLUMN guard.time_to_green.mean_s IS 'Mean time to green in seconds, of those that got green.';
COMMENT ON COLUMN guard.time_to_green.p50_s IS 'Median of it; exact.';
COMMENT ON COLUMN guard.time_to_green.seconds IS 'Sum of it: sum(seconds) / sum(green) is the mean of several days or jobs.';

-- --- what hurts most, over the last seven days

CREATE VIEW guard.flakiest_jobs AS
WITH flips AS (
    SELECT instance, repository, coalesce(subject ->> 'workflow', '') AS workflow,
           coalesce(subject ->> 'job_name', '') AS job_name, count(DISTINCT last_at) AS flips, max(last_at) AS last_flip_at
    FROM guard.findings
    WHERE detector = 'FlakyTest' AND state <> 'cleared' AND last_at > now() - interval '7 days'
    GROUP BY 1, 2, 3, 4
)
SELECT instance, repository, workflow, job_name, flips, last_flip_at, runs, failed,
       failed::double precision / nullif(passed + failed, 0) AS failure_rate, reruns,
       reruns::double precision / nullif(runs, 0) AS rerun_share
FROM flips
CROSS JOIN LATERAL (
    SELECT coalesce(sum(passed + failed + other), 0)::bigint AS runs, coalesce(sum(passed), 0)::bigint AS passed,
           coalesce(sum(failed), 0)::bigint AS failed, coalesce(sum(reruns), 0)::bigint AS reruns
    FROM guard.job_hours h
    WHERE (h.instance, h.repository, h.workflow, h.job_name)
        = (flips.instance, flips.repository, flips.workflow, flips.job_name)
      AND h.hour > now() - interval '7 days'
) hours;
COMMENT ON VIEW guard.flakiest_jobs IS 'Jobs that failed and then passed on the same commit in the last seven days, with how often they ran and failed.';
COMMENT ON COLUMN guard.flakiest_jobs.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.flakiest_jobs.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.flakiest_jobs.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.flakiest_jobs.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.flakiest_jobs.flips IS 'How often it failed and then passed on the same commit (FlakyTest).';
COMMENT ON COLUMN guard.flakiest_jobs.last_flip_at IS 'Event time of the last such pass.';
COMMENT ON COLUMN guard.flakiest_jobs.runs IS 'Its runs that ended, in hours that have closed.';
COMMENT ON COLUMN guard.flakiest_jobs.failed IS 'Of these, the ones that failed.';
COMMENT ON COLUMN guard.flakiest_jobs.failure_rate IS 'Failed out of passed and failed; NULL if no hour has closed.';
COMMENT ON COLUMN guard.flakiest_jobs.reruns IS 'Of the runs, those of a later attempt than the first.';
COMMENT ON COLUMN guard.flakiest_jobs.rerun_share IS 'Reruns out of runs; NULL if no hour has closed.';

CREATE VIEW guard.most_expensive_failures AS
WITH failed AS (
    SELECT signature, max(category) AS category, instance, repository, coalesce(workflow, '') AS workflow,
           coalesce(job_name, '') AS job_name, count(*) AS failures, count(*) FILTER (WHERE attempt > 1) AS reruns,
           coalesce(sum(duration_ms), 0) / 60000.0 AS failed_minutes, max(occurred_at) AS last_failed_at
    FROM guard.explained_failures
    WHERE date_bin('1 minute', occurred_at, timestamptz 'epoch') > now() - interval '7 days'
    GROUP BY signature, instance, repository, workflow, job_name
), rerun AS (
    SELECT instance, repository, workflow, job_name, sum(duration_ms_rerun_sum) / 60000.0 AS minutes
    FROM guard.job_hours
    WHERE hour > now() - interval '7 days'
    GROUP BY instance, repository, workflow, job_name
), costs AS (
    SELECT failed.*, coalesce(rerun.minutes, 0) * failures / sum(failures) OVER (PARTITION BY instance, repository, workflow, job_name) AS rerun_minutes
    FROM failed
    LEFT JOIN rerun USING (instance, repository, workflow, job_name)
)
SELECT signature, category, instance, repository, workflow, job_name, failures, reruns,
       failed_minutes::double precision, rerun_minutes::double precision,
       (failed_minutes + rerun_minutes)::double precision AS minutes, last_failed_at
FROM costs;
COMMENT ON VIEW guard.most_expensive_failures IS 'What failures cost in the last seven days, by signature and job: minutes of jobs that failed and of reruns that then did not.';
COMMENT ON COLUMN guard.most_expensive_failures.signature IS 'The signature; NULL are the failures that none explains.';
COMMENT ON COLUMN guard.most_expensive_failures.category IS 'What kind of cause it names.';
COMMENT ON COLUMN guard.most_expensive_failures.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.most_expensive_failures.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.most_expensive_failures.workflow IS 'The workflow''s or pipeline''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.most_expensive_failures.job_name IS 'The job''s name; empty where the platform names none.';
COMMENT ON COLUMN guard.most_expensive_failures.failures IS 'Failures of the job that it explains.';
COMMENT ON COLUMN guard.most_expensive_failures.reruns IS 'Of these, those of a later attempt than the first.';
COMMENT ON COLUMN guard.most_expensive_failures.failed_minutes IS 'Minutes that the failed jobs ran, failed reruns too.';
COMMENT ON COLUMN guard.most_expensive_failures.rerun_minutes IS 'Minutes of the job''s reruns that did not fail, shared out among its signatures by their failures; of hours that have closed.';
COMMENT ON COLUMN guard.most_expensive_failures.minutes IS 'Both together.';
COMMENT ON COLUMN guard.most_expensive_failures.last_failed_at IS 'Event time of the last of the failures.';
