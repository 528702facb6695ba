-- How far back everything is known to have come, and what of webhooks was asked for again.

CREATE TABLE guard.reconciled (
    platform      text NOT NULL,
    instance      text NOT NULL,
    repository    text NOT NULL,
    read_until    timestamptz NOT NULL,
    looked_at     timestamptz NOT NULL,
    found         bigint NOT NULL,
    missed_looks  integer NOT NULL,
    why           text,
    written_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (platform, instance, repository)
);
CREATE INDEX reconciled_written ON guard.reconciled (written_at);
COMMENT ON TABLE guard.reconciled IS 'Repositories whose platform is asked what happened of late; one row each, which is replaced.';
COMMENT ON COLUMN guard.reconciled.read_until IS 'What happened before was looked for, and is on the streams.';
COMMENT ON COLUMN guard.reconciled.looked_at IS 'When the platform was last asked, with whatever success.';
COMMENT ON COLUMN guard.reconciled.found IS 'Events that no webhook had brought, ever.';
COMMENT ON COLUMN guard.reconciled.missed_looks IS 'Looks in a row that found failures where no webhook brought anything: its hook is silent.';
COMMENT ON COLUMN guard.reconciled.why IS 'Why the platform did not say, the last time; null where it did.';

CREATE TABLE guard.hooks (
    platform    text NOT NULL,
    instance    text NOT NULL,
    hook        text NOT NULL,
    disabled    boolean NOT NULL,
    failing     boolean NOT NULL,
    why         text NOT NULL,
    read_until  timestamptz,
    written_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (platform, instance, hook)
);
CREATE INDEX hooks_written ON guard.hooks (written_at);
COMMENT ON TABLE guard.hooks IS 'How the webhooks that the settings name stand at their platforms.';
COMMENT ON COLUMN guard.hooks.hook IS 'As the settings name it: its address in the API of its platform.';
COMMENT ON COLUMN guard.hooks.read_until IS 'Deliveries that failed before are known.';

CREATE TABLE guard.redeliveries (
    platform     text NOT NULL,
    instance     text NOT NULL,
    hook         text NOT NULL,
    guid         text NOT NULL,
    delivery_id  numeric(20) NOT NULL,
    tries        integer NOT NULL,
    next_at      timestamptz NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (platform, instance, hook, guid)
);
CREATE INDEX redeliveries_written ON guard.redeliveries (written_at);
COMMENT ON TABLE guard.redeliveries IS 'Deliveries of webhooks that nobody took; a row goes once one of its attempts was taken.';
COMMENT ON COLUMN guard.redeliveries.delivery_id IS 'The last attempt that is known.';
COMMENT ON COLUMN guard.redeliveries.tries IS 'How often it was asked for again.';
COMMENT ON COLUMN guard.redeliveries.next_at IS 'Before that it is not asked for again.';
