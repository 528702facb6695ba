-- What the shards say, and how far each of them has come. Fields and columns are those of models/records/outputs.py:
-- x_ms is x_at here (at_ms is at, minute_ms is minute), except where it is a length of time.
-- written_at is when PostgreSQL took the row; it says nothing about the pipeline and differs after a replay.

CREATE TABLE guard.failures (
    failure_id   uuid PRIMARY KEY,
    case_id      uuid NOT NULL,
    shard        smallint NOT NULL,
    position     bigint NOT NULL,
    platform     text NOT NULL,
    instance     text NOT NULL,
    repository   text NOT NULL,
    pipeline_id  text NOT NULL,
    workflow_id  text,
    attempt      bigint NOT NULL,
    job_id       text,
    workflow     text,
    job_name     text,
    commit_sha   text,
    branch       text,
    author       text,
    outcome      text NOT NULL,
    occurred_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    duration_ms  bigint,
    exit_code    bigint,
    reason       text,
    step         text,
    excerpt      text,
    diagnosis    text NOT NULL,
    signature    text,
    category     text,
    transient    boolean,
    cause        text,
    score        double precision,
    model        text,
    late         boolean NOT NULL,
    rulebook     text NOT NULL,
    url          text,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX failures_case ON guard.failures (case_id);
CREATE INDEX failures_repository ON guard.failures (repository, occurred_at);
CREATE INDEX failures_written ON guard.failures (written_at);
COMMENT ON TABLE guard.failures IS 'Failed jobs (or runs, where no job is known), as they were understood when they came.';

CREATE TABLE guard.findings (
    finding_id   uuid NOT NULL,
    revision     bigint NOT NULL,
    shard        smallint NOT NULL,
    position     bigint NOT NULL,
    detector     text NOT NULL,
    state        text NOT NULL,
    instance     text NOT NULL,
    repository   text NOT NULL,
    subject      jsonb NOT NULL,
    first_at     timestamptz NOT NULL,
    last_at      timestamptz NOT NULL,
    occurrences  bigint NOT NULL,
    events       uuid[] NOT NULL,
    message      text NOT NULL,
    at           timestamptz NOT NULL,
    rulebook     text NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (finding_id, revision)
);
CREATE INDEX findings_repository ON guard.findings (repository, last_at);
CREATE INDEX findings_written ON guard.findings (written_at);
COMMENT ON TABLE guard.findings IS 'Answers of the detectors, one row for each change of an answer.';

CREATE TABLE guard.decisions (
    decision_id  uuid PRIMARY KEY,
    case_id      uuid NOT NULL,
    revision     bigint NOT NULL,
    shard        smallint NOT NULL,
    position     bigint NOT NULL,
    platform     text NOT NULL,
    instance     text NOT NULL,
    repository   text NOT NULL,
    pipeline_id  text NOT NULL,
    workflow_id  text,
    attempt      bigint NOT NULL,
    commit_sha   text,
    branch       text,
    verdict      text NOT NULL,
    reason       text NOT NULL,
    mode         text NOT NULL,
    action       text,
    calls        jsonb NOT NULL,
    jobs         uuid[] NOT NULL,
    signature    text,
    score        double precision,
    model        text,
    explanation  jsonb NOT NULL,
    occurred_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    at           timestamptz NOT NULL,
    rulebook     text NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (case_id, revision)
);
CREATE INDEX decisions_repository ON guard.decisions (repository, at);
CREATE INDEX decisions_written ON guard.decisions (written_at);
COMMENT ON TABLE guard.decisions IS 'What is to be done about run attempts. The highest revision of a case is in force.';

CREATE TABLE guard.aggregates (
    shard           smallint NOT NULL,
    position        bigint NOT NULL,
    platform        text NOT NULL,
    instance        text NOT NULL,
    repository      text NOT NULL,
    minute          timestamptz NOT NULL,
    started         bigint NOT NULL,
    completed       bigint NOT NULL,
    failed          bigint NOT NULL,
    duration_ms_sum bigint NOT NULL,
    durations       bigint[] NOT NULL,
    late            bigint NOT NULL,
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (instance, repository, minute)
);
CREATE INDEX aggregates_minute ON guard.aggregates (minute);
CREATE INDEX aggregates_written ON guard.aggregates (written_at);
COMMENT ON TABLE guard.aggregates IS 'Minutes of repositories, by event time; written once, when the minute has closed.';

CREATE TABLE guard.dead_letters (
    dead_letter_id  uuid PRIMARY KEY,
    shard           smallint NOT NULL,
    position        bigint NOT NULL,
    entry_id        text NOT NULL,
    part            bigint NOT NULL,
    reason          text NOT NULL,
    detail          text NOT NULL,
    source          text,
    payload         bytea NOT NULL,
    received_at     timestamptz NOT NULL,
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    replayed_at     timestamptz
);
CREATE INDEX dead_letters_unreplayed ON guard.dead_letters (written_at) WHERE replayed_at IS NULL;
CREATE INDEX dead_letters_written ON guard.dead_letters (written_at);
COMMENT ON TABLE guard.dead_letters IS 'Entries that could not be used, redacted, with reason and position in the stream.';

CREATE TABLE guard.rulebooks (
    digest      text PRIMARY KEY,
    body        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by  text NOT NULL
);
COMMENT ON TABLE guard.rulebooks IS 'Parameters, signatures, policy and model versions, by the digest that control entries name.';

CREATE TABLE guard.progress (
    shard       smallint PRIMARY KEY,
    entry_id    text NOT NULL,
    position    bigint NOT NULL,
    stream_at   timestamptz NOT NULL,
    rulebook    text NOT NULL,
    updated_at  timestamptz NOT NULL
);
COMMENT ON TABLE guard.progress IS 'The last entry of each shard whose rows are all here; committed together with them.';
