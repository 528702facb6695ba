"""guard check --job: which rules are for a job, why, and what would be decided if it failed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from flows.policy_check import _ALONE
from tests.flows.conftest import Guard

ROOT = Path(__file__).parents[2]

POLICY = """\
[rulebook.policy]
most_attempts = 2

[[rulebook.policy.rule]]
when = { repository = "acme/*", category = ["network", "infrastructure"] }
mode = "act"

[[rulebook.policy.rule]]
when = { branch = ["release/*", "hotfix/*"] }
never = true

[[rulebook.policy.rule]]
when = { signature = "registry_*" }
backoff_seconds = 900
"""


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file with rules."""
    path = tmp_path / "guard.toml"
    path.write_text(POLICY)
    monkeypatch.setenv("GUARD_SETTINGS", str(path))
    return path


def _asked(guard: Guard, *arguments: str) -> Any:
    said = guard("check", "--json", "--job", *arguments)
    assert said.status == 0, said.err
    return said.json()


def test_each_rule_says_whether_it_is_for_the_job_and_why(guard: Guard, policy: Path) -> None:
    said = _asked(guard, "acme/web:main:test: linux", "--signature", "registry_unavailable")
    assert said["subject"]["job"] == "test: linux"
    assert [(rule["rule"], rule["written"], rule["holds"]) for rule in said["rules"]] == [
        (1, f"{policy}:4", True),
        (2, f"{policy}:8", False),
        (3, f"{policy}:12", True),
    ]
    assert said["rules"][1]["conditions"] == [
        {"name": "branch", "patterns": ["release/*", "hotfix/*"], "value": "main", "held": False}
    ]
    assert (said["terms"]["mode"], said["terms"]["most_attempts"], said["terms"]["never"]) == ("act", 2, False)
    assert (said["set_by"]["mode"], said["set_by"]["backoff_seconds"], said["set_by"]["most_attempts"]) == (1, 3, 0)


def test_it_says_what_would_be_decided(guard: Guard, policy: Path) -> None:
    decided = _asked(guard, "acme/web:main:test", "--signature", "registry_unavailable")["decision"]
    assert (decided["mode"], decided["signature"]) == ("act", "registry_unavailable")
    assert decided["verdict"] == ("act" if (decided["score"] or 0) >= 0.5 else "skip")
    some = _asked(guard, "acme/web:main:test")["decision"]
    assert (some["verdict"], some["reason"], some["mode"]) == ("act", "transient_cause", "observe")
    assert 60_000 <= some["wait_ms"] <= 75_000
    assert _asked(guard, "acme/web:main:test", "--attempt", "3")["decision"]["reason"] == "not_first_attempt"
    assert _asked(guard, "acme/web:main:test", "--fork")["decision"]["reason"] == "fork"
    assert _asked(guard, "acme/web:release/1:test")["decision"]["reason"] == "forbidden"
    assert _asked(guard, "acme/web::test")["decision"]["reason"] == "forbidden"
    protected = _asked(guard, "acme/web:main:test", "--environment", "production")
    assert protected["decision"]["reason"] == "protected_environment"


@pytest.mark.parametrize(
    ("platform", "action"),
    [
        ("github", "rerun_failed"),
        ("gitlab", "rerun_job"),
        ("jenkins", "rerun_failed"),
        ("circleci", "rerun_from_failed"),
    ],
)
def test_each_platform_is_asked_for_what_it_can(guard: Guard, platform: str, action: str) -> None:
    said = _asked(guard, "acme/web:main:test", "--platform", platform)
    assert said["decision"]["action"] == said["subject"]["action"].split()[0] == action


def test_it_is_shown_to_people(guard: Guard, policy: Path) -> None:
    out = guard("check", "--job", "acme/web:main:test", "--signature", "dns_failure").out
    for said in (
        f"{policy.name}:8",
        "branch main is not release/* or hotfix/*",
        "repository acme/web is acme/*; category network is network or infrastructure",
        "mode = act",
        "rule 1",
        "the policy",
        "dns_failure",
    ):
        assert said in out
    assert "branch (not known) may be release/*" in guard("check", "--job", "acme/web").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--job", ":main"], "--job: expected repository:branch:job"),
        (["--job", "a/b", "--signature", "dns_failur"], "did you mean dns_failure?"),
        (["--json"], "--job: must be given"),
        (["--fork"], "--job: must be given"),
        (["--job", "a/b", "--attempt", "0"], "attempt"),
    ],
)
def test_what_cannot_be_asked_is_one_line(guard: Guard, arguments: list[str], said: str) -> None:
    answered = guard("check", *arguments)
    assert (answered.status, answered.out) == (2, "")
    assert said in answered.err


def test_a_policy_that_cannot_be_meant_is_refused_before_it_is_asked(guard: Guard, policy: Path) -> None:
    policy.write_text(POLICY.replace('mode = "act"', 'mode = "yes"'))
    for command in (["check"], ["check", "--job", "a/b"], ["rulebook", "check"], ["rulebook", "activate"]):
        said = guard(*command)
        assert said.status == 2
        assert said.complaints == [
            f"guard: rulebook.policy.rule[0].mode: Invalid enum value 'yes' ({policy}:6)",
        ]


def test_the_rules_are_part_of_the_rulebook_that_is_shown(guard: Guard, policy: Path) -> None:
    assert "branch release/* or hotfix/*" in guard("rulebook", "show").out
    shown = guard("rulebook", "show", "--json").json()["policy"]
    assert shown["rule"][1] == {"when": {"branch": ["release/*", "hotfix/*"]}, "never": True}
    assert any(line.startswith("$.policy.rule: [] -> ") for line in guard("rulebook", "diff", "shipped").lines)


def test_the_readmes_policy_means_what_it_says(guard: Guard, policy: Path) -> None:
    text = (ROOT / "README.md").read_text().partition("## Policy\n")[2]
    policy.write_text(textwrap.dedent(text[text.index("    [[rule") : text.index("\nRules are read")]))
    registry = ("--signature", "registry_unavailable")
    said = _asked(guard, "acme/web:main:test", *registry)
    assert (said["terms"]["mode"], said["terms"]["backoff_seconds"]) == ("act", 300)
    assert _asked(guard, "acme/web:main:test", "--signature", "checksum_mismatch")["terms"]["mode"] == "observe"
    assert _asked(guard, "other/web:main:test", *registry)["terms"]["mode"] == "observe"
    assert _asked(guard, "acme/web:release/2:test", *registry)["decision"]["reason"] == "forbidden"


def test_which_platforms_run_a_job_alone_is_what_their_events_say() -> None:
    for path in (ROOT / "tests" / "fixtures" / "webhooks").glob("*/*.golden.json"):
        for event in json.loads(path.read_text()).get("events", ()):
            after = event["metadata"].get("rerun_after")
            assert after in {None, "job" if event["platform"] in _ALONE else "run"}
