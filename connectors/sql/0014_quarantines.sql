-- Decisions about findings, and the jobs and tests that are set aside because they are flaky.

ALTER TABLE guard.decisions ADD COLUMN because_of uuid;
CREATE INDEX decisions_because_of ON guard.decisions (because_of) WHERE because_of IS NOT NULL;
COMMENT ON TABLE guard.decisions IS 'What is to be done about run attempts and findings. The highest revision of a case is in force.';

CREATE OR REPLACE VIEW guard.current_decisions AS
SELECT d.*
FROM guard.decisions d
WHERE NOT EXISTS (SELECT FROM guard.decisions later WHERE later.case_id = d.case_id AND later.revision > d.revision);
COMMENT ON VIEW guard.current_decisions IS 'The decision in force for each run attempt, and for each finding that something is to be done about: its highest revision.';
COMMENT ON COLUMN guard.current_decisions.case_id IS 'The run attempt decided on; of a finding, an id of its own.';
COMMENT ON COLUMN guard.current_decisions.because_of IS 'The finding, or the run attempt that was given up, that is the reason; NULL: it is about a run attempt.';

CREATE OR REPLACE VIEW guard.why_not_healed AS
SELECT date_trunc('day', at AT TIME ZONE 'UTC')::date AS day, verdict, reason, mode, count(*) AS cases
FROM guard.current_decisions
WHERE (verdict, mode) <> ('act', 'act') AND because_of IS NULL
GROUP BY 1, 2, 3, 4;

CREATE OR REPLACE VIEW guard.proposals AS
SELECT h.case_id, h.decision_id, d.platform, d.instance, d.repository, d.pipeline_id, d.workflow_id, d.attempt,
       d.branch, d.commit_sha, coalesce(f.workflow, d.explanation #>> '{jobs,0,workflow}') AS workflow,
       coalesce(f.job_name, d.explanation #>> '{jobs,0,job_name}') AS job_name,
       greatest(cardinality(d.jobs) - 1, 0) AS more_jobs, f.url,
       d.action, d.reason, d.signature, d.score, h.changed_at AS proposed_at, h.expires_at
FROM guard.healing h
JOIN guard.decisions d ON d.decision_id = h.decision_id
LEFT JOIN guard.failures f ON f.failure_id = d.jobs[1]
WHERE h.state = 'proposed' AND (h.expires_at IS NULL OR h.expires_at > clock_timestamp());

CREATE TABLE guard.quarantines (
    decision_id   uuid PRIMARY KEY,
    case_id       uuid NOT NULL,
    platform      text NOT NULL,
    instance      text NOT NULL,
    repository    text NOT NULL,
    workflow      text,
    job_name      text NOT NULL,
    test          text,
    owner         text NOT NULL,
    why           text NOT NULL,
    begun_by      text NOT NULL,
    begun_at      timestamptz NOT NULL,
    written_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL,
    released_at   timestamptz,
    why_released  text,
    released_by   text
);
CREATE INDEX quarantines_case ON guard.quarantines (case_id);
CREATE INDEX quarantines_written ON guard.quarantines (written_at);
COMMENT ON TABLE guard.quarantines IS 'Flaky jobs and tests that are set aside: their failures are not run again and alarm nobody.';
COMMENT ON COLUMN guard.quarantines.test IS 'The one test of the job; NULL: all of it.';
COMMENT ON COLUMN guard.quarantines.owner IS 'Who is to mend it; empty: nobody was named.';
COMMENT ON COLUMN guard.quarantines.begun_by IS 'Who said yes, or the healer.';
COMMENT ON COLUMN guard.quarantines.expires_at IS 'When it ends by itself; the shard ends it in stream time.';
COMMENT ON COLUMN guard.quarantines.why_released IS 'quarantine_expired, quarantine_passed (many times in a row) or quarantine_released (by a person).';

-- The shard ends a quarantine, since it sees what passes; the decision that says so closes the row in its transaction.
CREATE FUNCTION guard.release_quarantines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE guard.quarantines q
    SET released_at = d.at, why_released = d.reason
    FROM new_decisions d
    WHERE q.case_id = d.case_id AND q.released_at IS NULL
      AND d.reason IN ('quarantine_expired', 'quarantine_passed', 'quarantine_released');
    RETURN NULL;
END
$$;
CREATE TRIGGER release_quarantines AFTER INSERT ON guard.decisions
    REFERENCING NEW TABLE AS new_decisions FOR EACH STATEMENT EXECUTE FUNCTION guard.release_quarantines();

CREATE VIEW guard.open_quarantines AS
SELECT * FROM guard.quarantines WHERE released_at IS NULL AND expires_at > now();
COMMENT ON VIEW guard.open_quarantines IS 'What is in quarantine now.';
COMMENT ON COLUMN guard.open_quarantines.test IS 'The one test of the job; NULL: all of it.';
COMMENT ON COLUMN guard.open_quarantines.owner IS 'Who is to mend it; empty: nobody was named.';
