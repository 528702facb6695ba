-- What people say: stop and go, yes and no; and the audit of all that people and healers do, which nobody changes unseen.

-- Stop and go: a stop that was first said where PostgreSQL could not be asked is written down here later, and only once.
ALTER TABLE guard.stops ADD COLUMN note_id uuid UNIQUE;
COMMENT ON COLUMN guard.stops.note_id IS 'Of a stop that stands elsewhere too, in a file or in a healer: which one.';

CREATE FUNCTION guard.tell_stops() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('guard_stops', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER tell_stops AFTER INSERT ON guard.stops FOR EACH STATEMENT EXECUTE FUNCTION guard.tell_stops();

-- Yes and no.
CREATE INDEX healing_decision ON guard.healing (decision_id);

CREATE VIEW guard.proposals AS
SELECT h.case_id, h.decision_id, d.platform, d.instance, d.repository, d.pipeline_id, d.workflow_id, d.attempt,
       d.branch, d.commit_sha, f.workflow, f.job_name, greatest(cardinality(d.jobs) - 1, 0) AS more_jobs, f.url,
       d.action, d.reason, d.signature, d.score, h.changed_at AS proposed_at, h.expires_at
FROM guard.healing h
JOIN guard.decisions d ON d.decision_id = h.decision_id
LEFT JOIN guard.failures f ON f.failure_id = d.jobs[1]
WHERE h.state = 'proposed' AND (h.expires_at IS NULL OR h.expires_at > clock_timestamp());
COMMENT ON VIEW guard.proposals IS 'Decisions that wait for a person to say yes, while it can still be said.';
COMMENT ON COLUMN guard.proposals.job_name IS 'The first of the jobs that failed; more_jobs says how many more there are.';

CREATE TABLE guard.always (
    always_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    signature   text NOT NULL,
    repository  text NOT NULL,
    said_by     text NOT NULL,
    why         text NOT NULL,
    said_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    until       timestamptz,
    revoked_at  timestamptz,
    revoked_by  text
);
CREATE INDEX always_signature ON guard.always (signature) WHERE revoked_at IS NULL;
COMMENT ON TABLE guard.always IS 'Yes, from now on: what is suggested for such a cause in such a repository counts as approved. Never of a fork.';
COMMENT ON COLUMN guard.always.repository IS 'org/repo, or * for every one.';
COMMENT ON COLUMN guard.always.until IS 'Until when it holds; NULL: until it is revoked.';

-- The audit. Its rows are added and never changed; triggers refuse all else to everybody, also while replicating.
CREATE INDEX audit_subject ON guard.audit (subject);
CREATE INDEX audit_at ON guard.audit (at);

CREATE TABLE guard.audit_seals (
    seal_id    bigint PRIMARY KEY,
    sealed_at  timestamptz NOT NULL,
    through    bigint NOT NULL,
    rows       bigint NOT NULL,
    digest     text NOT NULL,
    line       text NOT NULL
);
COMMENT ON TABLE guard.audit_seals IS 'Digests over the audit, each over the rows since the one before and over that one. They stand in a file as well.';
COMMENT ON COLUMN guard.audit_seals.through IS 'The audit_id of the last row that it covers.';
COMMENT ON COLUMN guard.audit_seals.line IS 'All of it, as it stands in the file.';

CREATE FUNCTION guard.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: there is no % of it', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON guard.audit
    FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_change();
ALTER TABLE guard.audit ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON guard.audit_seals
    FOR EACH STATEMENT EXECUTE FUNCTION guard.refuse_change();
ALTER TABLE guard.audit_seals ENABLE ALWAYS TRIGGER append_only;

-- Whoever adds to the audit holds this lock, shared, from before its rows get their numbers until they can be seen. Who
-- has it alone for a moment therefore sees every row up to the highest number there is: no lower one will come later.
CREATE FUNCTION guard.enter_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1735745906, 13);
    RETURN NULL;
END
$$;
CREATE TRIGGER enter_audit BEFORE INSERT ON guard.audit FOR EACH STATEMENT EXECUTE FUNCTION guard.enter_audit();
ALTER TABLE guard.audit ENABLE ALWAYS TRIGGER enter_audit;
