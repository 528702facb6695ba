"""What the ledger says to PostgreSQL: one statement each, named after the method of postgres_ledger.py that uses it."""

from __future__ import annotations

from typing import Final

TAKE: Final = """
WITH due AS (
    SELECT h.* FROM guard.healing h
    WHERE state IN ('waiting', 'taken') AND due_at <= clock_timestamp()
      AND EXISTS (SELECT FROM guard.decisions d WHERE d.decision_id = h.decision_id)
    ORDER BY due_at
    LIMIT 1
    FOR UPDATE OF h SKIP LOCKED)
SELECT due.case_id, due.decision_id, due.revision, due.mode, due.approved_by, due.probe, due.incident_id,
       due.fence + 1 AS fence, extract(epoch FROM due.queued_at)::float8 AS queued,
       extract(epoch FROM due.due_at)::float8 AS due, extract(epoch FROM clock_timestamp())::float8 AS now,
       d.platform, d.instance, d.repository, d.pipeline_id, d.workflow_id, d.attempt, d.commit_sha, d.branch,
       d.verdict, d.action, d.calls, d.explanation -> 'jobs' AS jobs, d.signature,
       extract(epoch FROM d.occurred_at)::float8 AS occurred,
       extract(epoch FROM d.not_before)::float8 AS not_before,
       (SELECT coalesce(sum(f.duration_ms), 0)::float8 / 60000 FROM guard.failures f WHERE f.failure_id = ANY (d.jobs))
           AS minutes
FROM due JOIN guard.decisions d ON d.decision_id = due.decision_id
"""

ACTS: Final = """
SELECT act_id, call, target, action, state, reason, decision_id::text, origin,
       extract(epoch FROM intended_at)::float8, extract(epoch FROM asked_at)::float8, tries, before, budgets
FROM guard.acts WHERE case_id = %s
ORDER BY intended_at, act_id
"""

EARLIER: Final = """
SELECT pipeline_id, workflow_id, attempt, action, state, extract(epoch FROM coalesce(asked_at, intended_at))::float8,
       jobs, coalesce(result, '{}'), origin
FROM guard.acts
WHERE instance = %(instance)s AND repository = %(repository)s AND case_id <> %(case_id)s
  AND (pipeline_id = %(pipeline_id)s OR intended_at > clock_timestamp() - %(within)s * interval '1 s')
ORDER BY intended_at
"""

INCIDENTS: Final = """
SELECT i.incident_id, i.signature, i.dimension, i.value, coalesce(h.state = 'over', false), 'incident'
FROM guard.open_incidents i LEFT JOIN guard.holds h USING (incident_id)
WHERE i.signature = %(signature)s
UNION ALL
SELECT incident_id, signature, 'all', NULL, state = 'over', kind
FROM guard.holds
WHERE signature = %(signature)s AND kind = 'crowd'
  AND (state = 'held' OR ended_at > clock_timestamp() - %(over)s * interval '1 s')
"""

CROWD: Final = """
SELECT count(DISTINCT repository) FILTER (WHERE queued_at > greatest(
           clock_timestamp() - %(within)s * interval '1 s',
           (SELECT max(ended_at) FROM guard.holds WHERE signature = %(signature)s AND state = 'over')))::int,
       count(*) FILTER (WHERE queued_at <= clock_timestamp() - %(within)s * interval '1 s')::int
FROM guard.healing WHERE signature = %(signature)s AND queued_at > clock_timestamp() - interval '1 day'
"""

BUSY: Final = """
SELECT FROM guard.acts
WHERE instance = %s AND repository = %s AND pipeline_id = %s AND case_id <> %s AND state = 'intent'
LIMIT 1
"""

CHARGE: Final = """
INSERT INTO guard.budgets AS known (scope, key, period, acts, minutes)
VALUES (%(scope)s, %(key)s, timestamptz 'epoch' + %(period)s * interval '1 ms', %(acts)s, %(minutes)s)
ON CONFLICT (scope, key, period) DO UPDATE
SET acts = known.acts + EXCLUDED.acts, minutes = known.minutes + EXCLUDED.minutes, changed_at = clock_timestamp()
WHERE known.acts + EXCLUDED.acts <= %(most_acts)s AND known.minutes + EXCLUDED.minutes <= %(most_minutes)s
RETURNING 1
"""

GIVE_BACK: Final = """
UPDATE guard.budgets SET acts = acts - %(acts)s, minutes = minutes - %(minutes)s
WHERE scope = %(scope)s AND key = %(key)s AND period = timestamptz 'epoch' + %(period)s * interval '1 ms'
"""

# What a case is charged is one sum for all its acts: it comes back when nothing came of any.
IN_VAIN: Final = """
SELECT budgets FROM guard.acts
WHERE case_id = %(case_id)s AND budgets <> '[]' AND NOT EXISTS (
    SELECT FROM guard.acts WHERE case_id = %(case_id)s AND state NOT IN ('dropped', 'refused'))
"""

INTEND: Final = """
INSERT INTO guard.acts AS known (act_id, case_id, decision_id, platform, instance, repository, pipeline_id,
    workflow_id, attempt, target, action, call, state, probe, incident_id, signature, commit_sha, branch, jobs, origin,
    minutes, budgets, approved_by, healer, fence)
VALUES (%(act_id)s, %(case_id)s, %(decision_id)s, %(platform)s, %(instance)s, %(repository)s, %(pipeline_id)s,
    %(workflow_id)s, %(attempt)s, %(target)s, %(action)s, %(call)s, 'intent', %(probe)s, %(incident_id)s, %(signature)s,
    %(commit_sha)s, %(branch)s, %(jobs)s, %(origin)s, %(minutes)s, %(budgets)s, %(approved_by)s, %(healer)s,
    %(fence)s)
ON CONFLICT (act_id) DO UPDATE
SET decision_id = EXCLUDED.decision_id, call = EXCLUDED.call, state = 'intent', reason = NULL, probe = EXCLUDED.probe,
    incident_id = EXCLUDED.incident_id, signature = EXCLUDED.signature, jobs = EXCLUDED.jobs, origin = EXCLUDED.origin,
    minutes = EXCLUDED.minutes, budgets = known.budgets || EXCLUDED.budgets, approved_by = EXCLUDED.approved_by,
    healer = EXCLUDED.healer, fence = EXCLUDED.fence, tries = 0, result = NULL,
    intended_at = clock_timestamp(), asked_at = NULL, answered_at = NULL, told_at = NULL
WHERE known.state = 'dropped' AND known.case_id = EXCLUDED.case_id
"""

TAKEN: Final = """
UPDATE guard.healing
SET state = 'taken', healer = %s, fence = %s, due_at = clock_timestamp() + %s * interval '1 s',
    changed_at = clock_timestamp()
WHERE case_id = %s
"""

RENEW: Final = """
UPDATE guard.healing SET due_at = clock_timestamp() + %s * interval '1 s'
WHERE case_id = %s AND fence = %s AND state = 'taken'
"""

ASKING: Final = """
WITH ours AS (
    UPDATE guard.healing SET due_at = clock_timestamp() + %(lease)s * interval '1 s'
    WHERE case_id = %(case_id)s AND fence = %(fence)s AND revision = %(revision)s AND state = 'taken'
      AND due_at > clock_timestamp()
    RETURNING case_id)
UPDATE guard.acts a SET asked_at = clock_timestamp(), before = %(before)s, tries = tries + 1
FROM ours
WHERE a.act_id = %(act_id)s AND a.case_id = ours.case_id AND a.state = 'intent' AND a.fence = %(fence)s
RETURNING extract(epoch FROM a.asked_at)::float8
"""

NOT_ASKED: Final = """
UPDATE guard.acts SET asked_at = NULL, before = %s WHERE act_id = %s AND fence = %s AND state = 'intent'
"""

LET_GO: Final = """
UPDATE guard.healing SET state = 'waiting', reason = 'new', due_at = clock_timestamp(), changed_at = clock_timestamp()
WHERE case_id = %s AND fence = %s AND state = 'taken'
"""

SETTLE: Final = """
UPDATE guard.acts SET state = %s, reason = %s, result = %s, answered_at = clock_timestamp()
WHERE act_id = %s AND fence = %s AND state = 'intent'
RETURNING extract(epoch FROM coalesce(asked_at, answered_at))::float8
"""

PUT_OFF: Final = """
UPDATE guard.healing
SET state = 'waiting', reason = %s, due_at = coalesce(timestamptz 'epoch' + %s * interval '1 s', 'infinity'),
    incident_id = coalesce(%s, incident_id), probe = %s, fence = %s, changed_at = clock_timestamp()
WHERE case_id = %s AND fence IN (%s - 1, %s)
"""

# Of a probe that came to nothing before anything was tried the next may be chosen at once. Who tends a hold locks it
# before its cases, and we have ours already: where it is locked the next probe comes when it would have come.
END: Final = """
WITH ended AS (
UPDATE guard.healing h
SET state = CASE WHEN again THEN 'waiting' ELSE %(state)s END, reason = CASE WHEN again THEN 'new' ELSE %(why)s END,
    due_at = greatest(clock_timestamp(), CASE WHEN again THEN not_before END), fence = %(fence)s,
    changed_at = clock_timestamp()
FROM (SELECT k.case_id, k.revision > %(revision)s AND d.verdict = 'act' AND k.mode <> 'observe' AS again, d.not_before
      FROM guard.healing k JOIN guard.decisions d USING (decision_id) WHERE k.case_id = %(case_id)s) known
WHERE h.case_id = known.case_id AND h.fence IN (%(fence)s - 1, %(fence)s)
RETURNING h.incident_id, h.probe AND h.state = 'refused' AND h.reason = ANY (%(not_tried)s) AS not_tried)
UPDATE guard.holds SET next_probe_at = least(next_probe_at, clock_timestamp())
WHERE incident_id IN (
    SELECT known.incident_id FROM guard.holds known JOIN ended USING (incident_id)
    WHERE ended.not_tried FOR UPDATE OF known SKIP LOCKED)
"""

PROPOSE: Final = """
UPDATE guard.healing
SET state = 'proposed', reason = 'proposed', expires_at = clock_timestamp() + %s * interval '1 s', fence = %s,
    changed_at = clock_timestamp()
WHERE case_id = %s
"""

UNTOLD: Final = """
SELECT act_id, decision_id::text, case_id::text, platform, instance, repository, pipeline_id,
       nullif(workflow_id, '') AS workflow_id, attempt, action, target, state, signature, commit_sha, branch, jobs,
       (extract(epoch FROM coalesce(asked_at, answered_at)) * 1000)::bigint AS asked_ms, probe
FROM guard.acts
WHERE told_at IS NULL AND state <> 'intent'
ORDER BY answered_at
LIMIT 100
"""

AUDIT: Final = "INSERT INTO guard.audit (actor, what, subject, detail) VALUES (%s, %s, %s, %s)"

HOLD: Final = """
WITH made AS (
    INSERT INTO guard.holds (incident_id, signature, kind, state, next_probe_at)
    VALUES (%(incident_id)s, %(signature)s, %(kind)s, 'held', clock_timestamp() + %(probe)s * interval '1 s')
    ON CONFLICT DO NOTHING
    RETURNING incident_id)
SELECT incident_id FROM made
UNION ALL
SELECT incident_id FROM guard.holds WHERE incident_id = %(incident_id)s
UNION ALL
SELECT incident_id FROM guard.holds WHERE signature = %(signature)s AND kind = 'crowd' AND state = 'held'
LIMIT 1
"""

# An hour ends for everybody at once: of the one before, that part counts which is less than an hour ago.
FLEET: Final = """
SELECT coalesce((
           SELECT sum(acts * least(1, extract(epoch FROM period + interval '2 hours' - clock_timestamp()) / 3600))
           FROM guard.budgets
           WHERE scope = 'fleet' AND period > clock_timestamp() - interval '2 hours'), 0)::float8,
       coalesce((
           SELECT sum(completed) FROM guard.aggregates
           WHERE minute > clock_timestamp() - interval '1 hour'), 0)::bigint
"""

DUE_IN: Final = """
SELECT greatest(0, least(86400, extract(epoch FROM min(due_at) - clock_timestamp())))::float8
FROM guard.healing
WHERE state IN ('waiting', 'taken') AND due_at < 'infinity'
"""

TOLD: Final = """
UPDATE guard.acts a SET told_at = clock_timestamp()
FROM unnest(%s::uuid[], %s::text[]) AS told (act_id, state)
WHERE a.act_id = told.act_id AND a.state = told.state
"""
