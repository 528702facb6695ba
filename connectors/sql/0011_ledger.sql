-- What is done about decisions: who is at it, what was asked of a platform, what it answered, and what may not be done.

CREATE TABLE guard.healing (
    case_id      uuid PRIMARY KEY,
    decision_id  uuid NOT NULL,
    revision     bigint NOT NULL,
    mode         text NOT NULL,
    repository   text NOT NULL,
    signature    text,
    state        text NOT NULL,
    reason       text NOT NULL,
    due_at       timestamptz NOT NULL,
    expires_at   timestamptz,
    approved_by  text,
    incident_id  uuid,
    probe        boolean NOT NULL DEFAULT false,
    healer       text,
    fence        bigint NOT NULL DEFAULT 0,
    queued_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX healing_due ON guard.healing (due_at) WHERE state IN ('waiting', 'taken');
CREATE INDEX healing_proposed ON guard.healing (expires_at) WHERE state = 'proposed';
CREATE INDEX healing_incident ON guard.healing (incident_id) WHERE incident_id IS NOT NULL;
CREATE INDEX healing_crowd ON guard.healing (signature, queued_at);
CREATE INDEX healing_changed ON guard.healing (changed_at);
COMMENT ON TABLE guard.healing IS 'Every case whose decision is to act in mode suggest or act, and how far that came: one row, which is replaced.';
COMMENT ON COLUMN guard.healing.signature IS 'The one that decided: many repositories with the same within minutes are held, as in an incident.';
COMMENT ON COLUMN guard.healing.state IS 'waiting, proposed (to people), taken (by a healer), finished or refused.';
COMMENT ON COLUMN guard.healing.reason IS 'Why it waits, was refused, or how it was finished.';
COMMENT ON COLUMN guard.healing.due_at IS 'When it is looked at again; of one that is taken, when its healer is thought dead.';
COMMENT ON COLUMN guard.healing.expires_at IS 'Of a proposal: until when it can be approved.';
COMMENT ON COLUMN guard.healing.approved_by IS 'Who said yes.';
COMMENT ON COLUMN guard.healing.incident_id IS 'The incident in which it is held, or was.';
COMMENT ON COLUMN guard.healing.probe IS 'It is tried during that incident, to find out whether it is over.';
COMMENT ON COLUMN guard.healing.fence IS 'Rises with each taking: what a healer says that was thought dead comes with an older one and is not heard.';

-- One row for each change of a decision that is to be acted on comes here in the transaction that writes the decision.
CREATE FUNCTION guard.queue_decisions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO guard.healing AS known (case_id, decision_id, revision, mode, repository, signature, state, reason, due_at)
    SELECT DISTINCT ON (case_id) case_id, decision_id, revision, mode, repository, signature, 'waiting', 'new',
           coalesce(not_before, at)
    FROM new_decisions
    WHERE verdict = 'act' AND mode <> 'observe'
    ORDER BY case_id, revision DESC
    ON CONFLICT (case_id) DO UPDATE
    SET decision_id = EXCLUDED.decision_id, revision = EXCLUDED.revision, mode = EXCLUDED.mode,
        signature = EXCLUDED.signature,
        due_at = CASE WHEN known.state = 'taken' THEN known.due_at ELSE EXCLUDED.due_at END,
        state = CASE WHEN known.state = 'taken' THEN 'taken' ELSE 'waiting' END,
        reason = CASE WHEN known.state = 'taken' THEN known.reason ELSE 'new' END,
        approved_by = NULL, expires_at = NULL, changed_at = clock_timestamp()
    WHERE known.revision < EXCLUDED.revision;
    IF FOUND THEN
        PERFORM pg_notify('guard_healing', '');
    END IF;
    -- Where something was begun, a healer withdraws it: it may have to be found out, and budgets are to be given back.
    UPDATE guard.healing known
    SET state = CASE WHEN known.state <> 'taken' AND NOT begun THEN 'refused'
                     WHEN known.state = 'proposed' THEN 'waiting' ELSE known.state END,
        reason = CASE WHEN known.state <> 'taken' AND NOT begun THEN 'withdrawn' ELSE known.reason END,
        due_at = CASE WHEN known.state <> 'taken' AND begun THEN clock_timestamp() ELSE known.due_at END,
        decision_id = said.decision_id, revision = said.revision, changed_at = clock_timestamp()
    FROM (SELECT DISTINCT ON (d.case_id) d.*,
                 EXISTS (SELECT FROM guard.acts a WHERE a.case_id = d.case_id AND a.state = 'intent') AS begun
          FROM new_decisions d ORDER BY d.case_id, d.revision DESC) said
    WHERE known.case_id = said.case_id AND known.revision < said.revision
      AND known.state IN ('waiting', 'proposed', 'taken')
      AND NOT (said.verdict = 'act' AND said.mode <> 'observe');
    RETURN NULL;
END
$$;
CREATE TRIGGER queue_decisions AFTER INSERT ON guard.decisions
    REFERENCING NEW TABLE AS new_decisions FOR EACH STATEMENT EXECUTE FUNCTION guard.queue_decisions();

CREATE TABLE guard.acts (
    act_id       uuid PRIMARY KEY,
    case_id      uuid NOT NULL,
    decision_id  uuid NOT NULL,
    platform     text NOT NULL,
    instance     text NOT NULL,
    repository   text NOT NULL,
    pipeline_id  text NOT NULL,
    workflow_id  text NOT NULL,
    attempt      bigint NOT NULL,
    target       text NOT NULL,
    action       text NOT NULL,
    call         jsonb NOT NULL,
    state        text NOT NULL,
    reason       text,
    probe        boolean NOT NULL,
    incident_id  uuid,
    signature    text,
    commit_sha   text,
    branch       text,
    jobs         jsonb NOT NULL,
    origin       text NOT NULL,
    minutes      double precision NOT NULL,
    budgets      jsonb NOT NULL,
    approved_by  text,
    healer       text NOT NULL,
    fence        bigint NOT NULL,
    tries        smallint NOT NULL DEFAULT 0,
    before       jsonb,
    result       jsonb,
    intended_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    asked_at     timestamptz,
    answered_at  timestamptz,
    told_at      timestamptz,
    UNIQUE (instance, repository, pipeline_id, workflow_id, attempt, target, action)
);
CREATE INDEX acts_intended ON guard.acts (intended_at);
CREATE INDEX acts_case ON guard.acts (case_id);
CREATE INDEX acts_repository ON guard.acts (repository, intended_at);
CREATE INDEX acts_incident ON guard.acts (incident_id, asked_at) WHERE incident_id IS NOT NULL;
CREATE INDEX acts_open ON guard.acts (intended_at) WHERE state = 'intent';
CREATE INDEX acts_untold ON guard.acts (answered_at) WHERE told_at IS NULL AND state <> 'intent';
COMMENT ON TABLE guard.acts IS 'The ledger: what was asked of platforms. The row is there before anything is asked; nothing is asked for twice.';
COMMENT ON COLUMN guard.acts.act_id IS 'UUIDv5 of the unique columns.';
COMMENT ON COLUMN guard.acts.target IS 'The id of a job, or "run".';
COMMENT ON COLUMN guard.acts.workflow_id IS 'Empty where the platform has none.';
COMMENT ON COLUMN guard.acts.state IS 'intent (nobody knows yet whether it happened), done, refused (by the platform), dropped (by us, before it was asked), unknown (and never will be known).';
COMMENT ON COLUMN guard.acts.reason IS 'Of refused, dropped and unknown ones: why.';
COMMENT ON COLUMN guard.acts.jobs IS 'The failed jobs that it is to heal: [failure_id, workflow, job_name, signature].';
COMMENT ON COLUMN guard.acts.origin IS 'The run that began the chain of reruns of which its run is the latest.';
COMMENT ON COLUMN guard.acts.minutes IS 'CI minutes that it is expected to cost.';
COMMENT ON COLUMN guard.acts.budgets IS 'What its case is charged, for this and other acts of it: [scope, key, period in ms, acts, minutes]; nothing where it was given back.';
COMMENT ON COLUMN guard.acts.before IS 'How the run stood when it was read before asking. Where asked_at is NULL: before an earlier request whose effect may still come.';
COMMENT ON COLUMN guard.acts.result IS 'What the platform answered.';
COMMENT ON COLUMN guard.acts.asked_at IS 'Just before the request went out.';
COMMENT ON COLUMN guard.acts.told_at IS 'When its shard was told.';

CREATE TABLE guard.budgets (
    scope    text NOT NULL,
    key      text NOT NULL,
    period   timestamptz NOT NULL,
    acts     integer NOT NULL,
    minutes  double precision NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (scope, key, period)
);
CREATE INDEX budgets_period ON guard.budgets (period);
CREATE INDEX budgets_changed ON guard.budgets (changed_at);
COMMENT ON TABLE guard.budgets IS 'What was spent: taken before an act, in one order, so that no race overdraws them, and given back where nothing came of it.';
COMMENT ON COLUMN guard.budgets.scope IS 'job, run, commit, repository or fleet.';
COMMENT ON COLUMN guard.budgets.period IS 'The hour; of runs and commits, which have no second chance, 1970.';

CREATE TABLE guard.holds (
    incident_id    uuid PRIMARY KEY,
    signature      text NOT NULL,
    kind           text NOT NULL,
    state          text NOT NULL,
    probes         integer NOT NULL DEFAULT 0,
    next_probe_at  timestamptz NOT NULL,
    began_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at       timestamptz,
    why            text
);
CREATE UNIQUE INDEX holds_crowd ON guard.holds (signature) WHERE kind = 'crowd' AND state = 'held';
COMMENT ON TABLE guard.holds IS 'Incidents in which reruns of a signature wait, and what probes found out.';
COMMENT ON COLUMN guard.holds.kind IS 'incident, of guard.incidents, or crowd: so many repositories had the same cause within minutes that a healer did not wait for the fleet to say so.';
COMMENT ON COLUMN guard.holds.state IS 'held or over.';
COMMENT ON COLUMN guard.holds.probes IS 'So many were tried.';
COMMENT ON COLUMN guard.holds.why IS 'Of one that is over: probes_passed, incident_closed or too_long.';

CREATE TABLE guard.stops (
    stop_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stopped     boolean NOT NULL,
    said_by     text NOT NULL,
    why         text NOT NULL,
    said_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE guard.stops IS 'The kill switch: the newest row says whether anything may be done. No row: yes.';

CREATE TABLE guard.audit (
    audit_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor     text NOT NULL,
    what      text NOT NULL,
    subject   text NOT NULL,
    detail    jsonb NOT NULL
);
COMMENT ON TABLE guard.audit IS 'What people and healers did: rows are added and never changed.';
COMMENT ON COLUMN guard.audit.actor IS 'healer NAME, or a person as the credential or the shell names them.';
COMMENT ON COLUMN guard.audit.what IS 'act, refuse, hold, release, approve, reject, always, stop, go, quarantine, ...';
COMMENT ON COLUMN guard.audit.subject IS 'What it was done to: the id of a decision, an act, an incident.';
