-- What jobs write when they pass, as hashes of their lines: what a failed one wrote besides is what matters.
CREATE TABLE guard.passing_logs (
    job_key     uuid PRIMARY KEY,
    run         jsonb NOT NULL,
    lines       bytea NOT NULL,
    written_at  timestamptz NOT NULL
);
CREATE INDEX passing_logs_written ON guard.passing_logs (written_at);
COMMENT ON TABLE guard.passing_logs IS 'For each job the index of the log of a run that passed. A cache: nothing but comparisons is lost with it.';
COMMENT ON COLUMN guard.passing_logs.job_key IS 'What names a job in whatever run: UUIDv5 of instance, repository, workflow and job name.';
COMMENT ON COLUMN guard.passing_logs.run IS 'The run whose log it is, as the platform names it.';
COMMENT ON COLUMN guard.passing_logs.lines IS 'Hashes of its masked lines; analytics/logs says how they are written.';
