-- What came of what was asked of platforms.

CREATE TABLE guard.act_outcomes (
    act_id       uuid NOT NULL,
    revision     bigint NOT NULL,
    shard        smallint NOT NULL,
    position     bigint NOT NULL,
    case_id      uuid NOT NULL,
    platform     text NOT NULL,
    instance     text NOT NULL,
    repository   text NOT NULL,
    action       text NOT NULL,
    attempt      bigint NOT NULL,
    signature    text,
    outcome      text NOT NULL,
    masked       boolean NOT NULL,
    event_id     text,
    asked_at     timestamptz NOT NULL,
    ended_at     timestamptz,
    duration_ms  bigint,
    ends         jsonb NOT NULL,
    probe        boolean NOT NULL,
    passes       double precision NOT NULL,
    fails        double precision NOT NULL,
    at           timestamptz NOT NULL,
    rulebook     text NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (act_id, revision)
);
CREATE INDEX act_outcomes_asked ON guard.act_outcomes (asked_at);
CREATE INDEX act_outcomes_written ON guard.act_outcomes (written_at);
COMMENT ON TABLE guard.act_outcomes IS 'What came of each act that ran something again, as the events that followed tell; what is learnt later is a further revision.';
COMMENT ON COLUMN guard.act_outcomes.act_id IS 'The act: the same as in guard.acts.';
COMMENT ON COLUMN guard.act_outcomes.revision IS 'From 0. The highest one is what is known now.';
COMMENT ON COLUMN guard.act_outcomes.shard IS 'Which shard said it.';
COMMENT ON COLUMN guard.act_outcomes.position IS 'At which position of the shard''s stream.';
COMMENT ON COLUMN guard.act_outcomes.case_id IS 'The run attempt that had failed.';
COMMENT ON COLUMN guard.act_outcomes.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.act_outcomes.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.act_outcomes.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.act_outcomes.action IS 'rerun, rerun_failed or rerun_job.';
COMMENT ON COLUMN guard.act_outcomes.attempt IS 'The attempt that had failed.';
COMMENT ON COLUMN guard.act_outcomes.signature IS 'The signature that decided.';
COMMENT ON COLUMN guard.act_outcomes.outcome IS 'passed (all its jobs), failed_same (one, with its signature from before), failed_otherwise, overtaken (by a newer commit, before it ended), cancelled (by somebody), unseen (nothing was heard for six hours).';
COMMENT ON COLUMN guard.act_outcomes.masked IS 'It passed, and its commit proved broken within a day all the same.';
COMMENT ON COLUMN guard.act_outcomes.event_id IS 'The event that settled it; of a masked one, the one that proved it.';
COMMENT ON COLUMN guard.act_outcomes.asked_at IS 'When the platform was asked, by the clock of who asked.';
COMMENT ON COLUMN guard.act_outcomes.ended_at IS 'When the last of its jobs ended, by event time.';
COMMENT ON COLUMN guard.act_outcomes.duration_ms IS 'How long its jobs ran, together; NULL if it is not known of any.';
COMMENT ON COLUMN guard.act_outcomes.ends IS 'How each of its jobs ended: failure_id (what was run again), event_id, outcome, signature, labels (of its runner), duration_ms.';
COMMENT ON COLUMN guard.act_outcomes.probe IS 'It was tried during an incident to find out whether that is over; nothing is learnt of it.';
COMMENT ON COLUMN guard.act_outcomes.passes IS 'What is known after it of signature, action and attempt: acts that passed, older ones count less.';
COMMENT ON COLUMN guard.act_outcomes.fails IS 'Likewise, acts that failed.';
COMMENT ON COLUMN guard.act_outcomes.at IS 'Stream time.';
COMMENT ON COLUMN guard.act_outcomes.rulebook IS 'Digest of the rulebook in force.';
COMMENT ON COLUMN guard.act_outcomes.written_at IS 'When PostgreSQL took the row.';

CREATE VIEW guard.current_act_outcomes AS
SELECT o.*
FROM guard.act_outcomes o
WHERE NOT EXISTS (
    SELECT FROM guard.act_outcomes later WHERE later.act_id = o.act_id AND later.revision > o.revision);
COMMENT ON VIEW guard.current_act_outcomes IS 'What came of each act, as it is known now: its highest revision.';
COMMENT ON COLUMN guard.current_act_outcomes.act_id IS 'The act: the same as in guard.acts.';
COMMENT ON COLUMN guard.current_act_outcomes.revision IS 'From 0. The highest one is what is known now.';
COMMENT ON COLUMN guard.current_act_outcomes.shard IS 'Which shard said it.';
COMMENT ON COLUMN guard.current_act_outcomes.position IS 'At which position of the shard''s stream.';
COMMENT ON COLUMN guard.current_act_outcomes.case_id IS 'The run attempt that had failed.';
COMMENT ON COLUMN guard.current_act_outcomes.platform IS 'github, gitlab, jenkins or circleci.';
COMMENT ON COLUMN guard.current_act_outcomes.instance IS 'The server or organisation: two GitLabs are two instances.';
COMMENT ON COLUMN guard.current_act_outcomes.repository IS 'As the platform names it.';
COMMENT ON COLUMN guard.current_act_outcomes.action IS 'rerun, rerun_failed or rerun_job.';
COMMENT ON COLUMN guard.current_act_outcomes.attempt IS 'The attempt that had failed.';
COMMENT ON COLUMN guard.current_act_outcomes.signature IS 'The signature that decided.';
COMMENT ON COLUMN guard.current_act_outcomes.outcome IS 'passed (all its jobs), failed_same (one, with its signature from before), failed_otherwise, overtaken (by a newer commit, before it ended), cancelled (by somebody), unseen (nothing was heard for six hours).';
COMMENT ON COLUMN guard.current_act_outcomes.masked IS 'It passed, and its commit proved broken within a day all the same.';
COMMENT ON COLUMN guard.current_act_outcomes.event_id IS 'The event that settled it; of a masked one, the one that proved it.';
COMMENT ON COLUMN guard.current_act_outcomes.asked_at IS 'When the platform was asked, by the clock of who asked.';
COMMENT ON COLUMN guard.current_act_outcomes.ended_at IS 'When the last of its jobs ended, by event time.';
COMMENT ON COLUMN guard.current_act_outcomes.duration_ms IS 'How long its jobs ran, together; NULL if it is not known of any.';
COMMENT ON COLUMN guard.current_act_outcomes.ends IS 'How each of its jobs ended: failure_id (what was run again), event_id, outcome, signature, labels (of its runner), duration_ms.';
COMMENT ON COLUMN guard.current_act_outcomes.probe IS 'It was tried during an incident to find out whether that is over; nothing is learnt of it.';
COMMENT ON COLUMN guard.current_act_outcomes.passes IS 'What is known after it of signature, action and attempt: acts that passed, older ones count less.';
COMMENT ON COLUMN guard.current_act_outcomes.fails IS 'Likewise, acts that failed.';
COMMENT ON COLUMN guard.current_act_outcomes.at IS 'Stream time.';
COMMENT ON COLUMN guard.current_act_outcomes.rulebook IS 'Digest of the rulebook in force.';
COMMENT ON COLUMN guard.current_act_outcomes.written_at IS 'When PostgreSQL took the row.';
