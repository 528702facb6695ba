"""Recorded payloads beside the project: each becomes events, or is knowingly ignored, with the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from connectors.platforms import PLATFORMS
from tests.connectors.platforms.cases import delivery

ROOT = Path(os.environ.get("GUARD_FIXTURES", Path(__file__).parents[4] / "shared" / "fixtures")) / "webhooks"

EVENTS = "events"
ACTIONS = "a check of GitHub Actions itself"
ASKS = "asks an app"

# By the beginning of the file's name, the first that fits; what it becomes, or why not.
TABLE = [
    ("github/check_run.completed.1", ACTIONS),
    ("github/check_run.requested_action", "a person pressed a button"),
    ("github/check_run.rerequested", ASKS),
    ("github/check_run.", EVENTS),
    ("github/check_suite.completed.1", ACTIONS),
    ("github/check_suite.re", ASKS),
    ("github/check_suite.", EVENTS),
    ("github/ping", "a ping"),
    ("github/status", "a commit status"),
    ("github/workflow_job.", EVENTS),
    ("github/workflow_run.", EVENTS),
    ("gitlab/xanzy.deployment", "object_kind deployment"),
    ("gitlab/", EVENTS),
    ("jenkins/cloudevents.00", "an entry of the queue"),
    ("jenkins/cloudevents.01", "an entry of the queue"),
    ("jenkins/cloudevents.06", "a job was created or configured"),
    ("jenkins/cloudevents.07", "a job was created or configured"),
    ("jenkins/cloudevents.08", "a node came or went"),
    ("jenkins/cloudevents.09", "a node came or went"),
    ("jenkins/", EVENTS),
]


@pytest.mark.skipif(not ROOT.is_dir(), reason=f"no recorded payloads at {ROOT}; GUARD_FIXTURES says where they are")
def test_every_recorded_payload_becomes_what_the_table_says() -> None:
    paths = sorted(ROOT.glob("*/*.json"))
    assert paths
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        expected = next((becomes for start, becomes in TABLE if name.startswith(start)), "nothing in the table")
        request = delivery({"X-GitHub-Event": path.name.split(".")[0]}, json.loads(path.read_text()))
        result = PLATFORMS[path.parent.name].events(request, "here")
        said = EVENTS if result.events else result.ignored or ""
        assert said.startswith(expected), name
