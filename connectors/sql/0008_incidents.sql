-- What goes wrong in many repositories at once.

CREATE TABLE guard.incidents (
    incident_id      uuid NOT NULL,
    revision         bigint NOT NULL,
    state            text NOT NULL,
    symptom          text NOT NULL,
    signature        text,
    category         text,
    dimension        text NOT NULL,
    value            text,
    share            double precision NOT NULL,
    usual_share      double precision NOT NULL,
    repositories     bigint NOT NULL,
    failures         bigint NOT NULL,
    late             bigint NOT NULL,
    repositories_now bigint NOT NULL,
    expected         double precision NOT NULL,
    most_affected    jsonb NOT NULL,
    message          text NOT NULL,
    began_at         timestamptz NOT NULL,
    last_at          timestamptz NOT NULL,
    minute           timestamptz NOT NULL,
    at               timestamptz NOT NULL,
    why              text,
    rulebook         text NOT NULL,
    written_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (incident_id, revision)
);
CREATE INDEX incidents_at ON guard.incidents (at);
CREATE INDEX incidents_written ON guard.incidents (written_at);
COMMENT ON TABLE guard.incidents IS 'Symptoms that so many repositories showed within minutes that it was no accident; a new revision for each change.';
COMMENT ON COLUMN guard.incidents.incident_id IS 'UUIDv5 of the symptom and the minute that opened the incident.';
COMMENT ON COLUMN guard.incidents.state IS 'opened, changed or closed.';
COMMENT ON COLUMN guard.incidents.minute IS 'The minute, by event time, that made the fleet say it.';
COMMENT ON COLUMN guard.incidents.written_at IS 'When PostgreSQL took the row.';

CREATE VIEW guard.current_incidents AS
SELECT i.*
FROM guard.incidents i
WHERE NOT EXISTS (
    SELECT FROM guard.incidents later WHERE later.incident_id = i.incident_id AND later.revision > i.revision);
COMMENT ON VIEW guard.current_incidents IS 'How each incident stands, or ended: its highest revision.';
COMMENT ON COLUMN guard.current_incidents.symptom IS 'What its failures have in common: a signature, or where none knows it the line of the log, the reason, the step or the outcome.';
COMMENT ON COLUMN guard.current_incidents.signature IS 'The symptom, where it is a signature.';
COMMENT ON COLUMN guard.current_incidents.category IS 'What kind of cause the signature names.';
COMMENT ON COLUMN guard.current_incidents.dimension IS 'What explains it: host, label (of runners), instance or platform; all if it is no more common in one of them than usual.';
COMMENT ON COLUMN guard.current_incidents.value IS 'Which host, label, instance or platform.';
COMMENT ON COLUMN guard.current_incidents.share IS 'Of its repositories, those where it is so.';
COMMENT ON COLUMN guard.current_incidents.usual_share IS 'Of the failures of recent hours that belong to no incident, those where it is so.';
COMMENT ON COLUMN guard.current_incidents.repositories IS 'That it reached since it began.';
COMMENT ON COLUMN guard.current_incidents.failures IS 'Failures since it began.';
COMMENT ON COLUMN guard.current_incidents.late IS 'Of these, the ones that were heard of only after their minute had closed.';
COMMENT ON COLUMN guard.current_incidents.repositories_now IS 'That showed the symptom in the window that ends with the minute.';
COMMENT ON COLUMN guard.current_incidents.expected IS 'So many are usual.';
COMMENT ON COLUMN guard.current_incidents.most_affected IS 'The repositories with the most failures, and how many each had.';
COMMENT ON COLUMN guard.current_incidents.message IS 'All of it in a sentence.';
COMMENT ON COLUMN guard.current_incidents.began_at IS 'The first minute of its failures, by event time.';
COMMENT ON COLUMN guard.current_incidents.last_at IS 'The end of the last minute of its failures before it became calm.';
COMMENT ON COLUMN guard.current_incidents.at IS 'The stream time at which the minute was closed.';
COMMENT ON COLUMN guard.current_incidents.why IS 'Of a closed one: calm, or usual where it lasted so long that it is how things are now.';

CREATE VIEW guard.open_incidents AS
SELECT *
FROM guard.current_incidents
WHERE state <> 'closed'
  AND coalesce(at > (SELECT min(stream_at) FROM guard.progress) - interval '2 hours', true);
COMMENT ON VIEW guard.open_incidents IS 'Incidents that are going on. One of which nothing was heard for two hours of stream time, where one an hour is promised, was left behind by a lost recovery store and is not among them.';
COMMENT ON COLUMN guard.open_incidents.symptom IS 'What its failures have in common.';
COMMENT ON COLUMN guard.open_incidents.message IS 'All of it in a sentence.';
COMMENT ON COLUMN guard.open_incidents.began_at IS 'The first minute of its failures, by event time.';
