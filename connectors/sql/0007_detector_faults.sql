-- Detectors that raised, or answered what is no finding.
CREATE TABLE guard.detector_faults (
    fault_id    uuid PRIMARY KEY,
    shard       smallint NOT NULL,
    position    bigint NOT NULL,
    detector    text NOT NULL,
    instance    text NOT NULL,
    repository  text NOT NULL,
    subject     jsonb NOT NULL,
    event_id    text,
    error       text NOT NULL,
    at          timestamptz NOT NULL,
    rulebook    text NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX detector_faults_written ON guard.detector_faults (written_at);
COMMENT ON TABLE guard.detector_faults IS 'Detectors that raised, or answered what is no finding. They are not asked about that subject any more, until the rulebook changes.';
