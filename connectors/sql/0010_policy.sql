-- What the policy says of a decision: the mode was there; from when on its action may be made is new.

ALTER TABLE guard.decisions ADD COLUMN not_before timestamptz;

CREATE OR REPLACE VIEW guard.current_decisions AS
SELECT d.*
FROM guard.decisions d
WHERE NOT EXISTS (SELECT FROM guard.decisions later WHERE later.case_id = d.case_id AND later.revision > d.revision);
COMMENT ON COLUMN guard.current_decisions.mode IS 'observe, suggest or act, as the policy''s rules have it: what the verdict may lead to.';
COMMENT ON COLUMN guard.current_decisions.not_before IS 'Event time before which its action is not to be made; NULL where there is none.';
