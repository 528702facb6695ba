-- Which recovery directory goes with these rows: one that is lost or exchanged is noticed before the flow starts.
CREATE TABLE guard.recovery_store (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    store_id    uuid NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE guard.recovery_store IS 'The identity of the recovery directory that belongs to these rows.';
