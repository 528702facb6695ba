"""Acts as a healer leaves them in the ledger."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from connectors.postgres import Connection
from tests.connectors.outputs import act_outcome, failure

_INSERT = """
INSERT INTO guard.acts (act_id, case_id, decision_id, platform, instance, repository, pipeline_id, workflow_id, attempt,
    target, action, origin, call, state, probe, signature, commit_sha, jobs, minutes, budgets, healer, fence, asked_at)
VALUES (%(act_id)s, %(case_id)s, gen_random_uuid(), 'github', 'github.com', %(repository)s, %(pipeline_id)s, '', 1,
    'run', %(action)s, %(pipeline_id)s, '{}', %(state)s, false, %(signature)s, %(commit_sha)s, %(jobs)s, %(minutes)s,
    '[]', 'h', 1,
    %(asked_at)s)
"""


def act(connection: Connection, number: int, asked_at: datetime, **changes: Any) -> None:
    """Put act `number`, on failure(number), into the ledger: done unless `changes` say otherwise."""
    of = failure(number)
    known: dict[str, Any] = {
        "act_id": act_outcome(number).act_id,
        "case_id": of.case_id,
        "repository": of.repository,
        "pipeline_id": of.pipeline_id,
        "action": "rerun_failed",
        "state": "done",
        "signature": of.signature,
        "commit_sha": of.commit_sha,
        "jobs": json.dumps([[of.failure_id, of.workflow, of.job_name, of.signature]]),
        "minutes": 2.0,
        "asked_at": asked_at,
        **changes,
    }
    connection.execute(_INSERT, known)
