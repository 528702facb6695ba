-- Which signatures earn their place: how often each explains a failure, and how often a passing log had its line too.
-- And failures are found by the id that their platform gives a job, which is what people have at hand.

ALTER TABLE guard.diagnoses ADD COLUMN discarded text;
COMMENT ON COLUMN guard.diagnoses.discarded IS 'The signature that matched best, where the last passing log of the job has its line too, so that it proves nothing.';

CREATE INDEX failures_job ON guard.failures (job_id) WHERE job_id IS NOT NULL;

CREATE VIEW guard.signature_hits AS
WITH hits AS (
    SELECT signature, category, instance, repository, line IS NOT NULL AS by_log, false AS passing, received_at
    FROM guard.explained_failures
    WHERE signature IS NOT NULL
    UNION ALL
    SELECT d.discarded, NULL, f.instance, f.repository, true, true, f.received_at
    FROM guard.diagnoses d
    JOIN guard.failures f USING (failure_id)
    WHERE d.discarded IS NOT NULL
), recent AS (
    SELECT *, received_at > now() - interval '30 days' AS is_recent FROM hits
)
SELECT signature, max(category) AS category,
       count(*) FILTER (WHERE is_recent AND NOT passing) AS hits,
       count(*) FILTER (WHERE is_recent AND NOT passing AND by_log) AS hits_by_log,
       count(*) FILTER (WHERE is_recent AND passing) AS passing_hits,
       count(DISTINCT (instance, repository)) FILTER (WHERE is_recent AND NOT passing) AS repositories,
       max(received_at) FILTER (WHERE NOT passing) AS last_hit
FROM recent
GROUP BY signature;
COMMENT ON VIEW guard.signature_hits IS 'How often each signature that ever matched explained a failure in the last 30 days.';
COMMENT ON COLUMN guard.signature_hits.category IS 'What kind of cause it names; NULL where it never explained a failure.';
COMMENT ON COLUMN guard.signature_hits.hits IS 'Failures of the last 30 days that it explains.';
COMMENT ON COLUMN guard.signature_hits.hits_by_log IS 'Of those, the ones that a line of the log proves, not a fact of the webhook.';
COMMENT ON COLUMN guard.signature_hits.passing_hits IS 'Failures of the last 30 days in whose log it matched a line that the last passing log of the job has too.';
COMMENT ON COLUMN guard.signature_hits.repositories IS 'In how many repositories the hits were.';
COMMENT ON COLUMN guard.signature_hits.last_hit IS 'When the last failure that it explains was received, whenever that was.';
