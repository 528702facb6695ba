-- What logs showed. A row of failures is what was known when the webhook came, and stays; this is what is known since.

CREATE TABLE guard.diagnoses (
    failure_id   uuid PRIMARY KEY,
    case_id      uuid NOT NULL,
    shard        smallint NOT NULL,
    position     bigint NOT NULL,
    reading      text NOT NULL,
    why          text,
    diagnosis    text NOT NULL,
    signature    text,
    category     text,
    transient    boolean,
    cause        text,
    line         bigint,
    matched      text,
    seen_passing boolean NOT NULL,
    captures     jsonb NOT NULL,
    exit_code    bigint,
    lines        jsonb NOT NULL,
    log_lines    bigint NOT NULL,
    log_bytes    bigint NOT NULL,
    cut          boolean NOT NULL,
    compared     boolean NOT NULL,
    template     text,
    normaliser   bigint NOT NULL,
    score        double precision,
    model        text,
    received_at  timestamptz NOT NULL,
    at           timestamptz NOT NULL,
    rulebook     text NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX diagnoses_case ON guard.diagnoses (case_id);
CREATE INDEX diagnoses_signature ON guard.diagnoses (signature, at);
CREATE INDEX diagnoses_written ON guard.diagnoses (written_at);
COMMENT ON TABLE guard.diagnoses IS 'How failures are understood by their logs, or why those were not read; one row for each failure at most.';

CREATE VIEW guard.explained_failures AS
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
       f.occurred_at, f.received_at, d.received_at AS log_received_at, f.written_at, f.url
FROM guard.failures f
LEFT JOIN guard.diagnoses d USING (failure_id);
COMMENT ON VIEW guard.explained_failures IS 'Failures as they are understood now: by their log where it was read, else by their webhook.';
COMMENT ON COLUMN guard.explained_failures.diagnosis IS 'matched, or why there is no signature: no_pattern, no_text, no_log or not_read.';
COMMENT ON COLUMN guard.explained_failures.reading IS 'read, no_log or not_read; NULL while nothing came of the log.';
COMMENT ON COLUMN guard.explained_failures.why IS 'Why the log was not read, in a few words.';
COMMENT ON COLUMN guard.explained_failures.line IS 'Number of the matched line in the log as the platform gave it, from 1.';
COMMENT ON COLUMN guard.explained_failures.matched IS 'The line that the signature matched, or the fact of the webhook.';
COMMENT ON COLUMN guard.explained_failures.lines IS 'The lines kept of the log: number, text, and whether the last passing log lacked it.';
COMMENT ON COLUMN guard.explained_failures.template IS 'The masked line by which unknown failures are grouped.';
COMMENT ON COLUMN guard.explained_failures.compared IS 'Whether there was a passing log of the job to compare with.';
COMMENT ON COLUMN guard.explained_failures.log_received_at IS 'When what the log showed came; less received_at, how long its reading took.';
