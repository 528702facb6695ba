"""Where a policy is written, and that what is wrong with it is said by file and line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from analytics.policy.rules import Policy, Subject
from flows import policy_files, rulebooks
from flows.policy_files import Place, line_of
from flows.settings import Settings
from models.records.errors import ConfigError

SETTINGS = """\
mode = "observe"

[rulebook]
policy_files = ["{more}"]

[rulebook.policy]
most_attempts = 2

[[rulebook.policy.rule]]
when = {{ repository = "acme/*" }}
mode = "act"
"""
MORE = '''\
# The rules of one team; """ [[rule]] """

[[rule]]
when = { repository = "acme/web", branch = [
    "release/*",
    "hotfix/*",
] }
never = true

[[rule]]
when.job = "e2e*"
most_attempts = 3
least_score = 0.9
'''


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Settings with a rule, and a file with two more that they name."""
    own, more = tmp_path / "guard.toml", tmp_path / "team.toml"
    own.write_text(SETTINGS.format(more=more))
    more.write_text(MORE)
    return own, more


def _refused(own: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        rulebooks.configured(Settings.load({}, path=own))
    return str(refused.value)


def test_rules_of_files_come_after_those_of_the_settings(files: tuple[Path, Path]) -> None:
    own, more = files
    settings = Settings.load({}, path=own)
    written = policy_files.written(settings)
    assert written.places == [Place(None, 0), Place(more, 0), Place(more, 1)]
    policy = rulebooks.configured(settings).policy
    assert [rule.sets for rule in policy.rules] == [
        {"mode": "act"},
        {"never": True},
        {"most_attempts": 3, "least_score": 0.9},
    ]
    assert policy.most_attempts == 2
    assert policy_files.lines(settings, written.places) == [f"{own}:9", f"{more}:3", f"{more}:10"]


@pytest.mark.parametrize(
    ("wrong", "right", "line", "said"),
    [
        ("most_attempts = 3", "most_attempts = 333", 12, "rule[1].most_attempts: expected 0 to 50, got 333"),
        ("least_score = 0.9", 'mode = "dream"', 13, "rule[1].mode: Invalid enum value 'dream'"),
        ("least_score = 0.9", "moon = 1", 13, "rule[1].moon: Object contains unknown field `moon`"),
        ('"hotfix/*"', '" "', 7, "rule[0].when.branch: a pattern is empty, or has blanks around it"),
        ("never = true", "", 3, "rule[0]: changes nothing"),
        ('when.job = "e2e*"', "", 10, "rule[1]: Object missing required field `when`"),
        ('when.job = "e2e*"', 'when.signature = "moon"', 11, "rule[1].when.signature: there is no signature"),
        ("[[rule]]\nwhen.job", "[[rules]]\nwhen.job", 10, "there is no such key; a policy file holds [[rule]] tables"),
    ],
)
def test_what_is_wrong_in_a_file_names_its_line(
    files: tuple[Path, Path], wrong: str, right: str, line: int, said: str
) -> None:
    own, more = files
    assert wrong in MORE
    more.write_text(MORE.replace(wrong, right))
    assert _refused(own).startswith(f"{more}:{line}: {said}")


def test_what_is_no_toml_names_its_line_too(files: tuple[Path, Path]) -> None:
    own, more = files
    more.write_text(MORE.replace("never = true", "never = yes"))
    assert _refused(own).startswith(f"{more}: ")
    assert "line 8" in _refused(own)


def test_a_file_with_one_rule_that_is_no_list_is_refused(files: tuple[Path, Path]) -> None:
    own, more = files
    more.write_text('[rule]\nwhen.job = "x"\n')
    assert _refused(own) == f"{more}:1: rule: expected [[rule]] tables"


def test_what_is_wrong_in_the_settings_names_key_and_line(files: tuple[Path, Path]) -> None:
    own, _ = files
    text = own.read_text()
    own.write_text(text.replace('mode = "act"', 'mode = "go"'))
    assert _refused(own) == f"rulebook.policy.rule[0].mode: Invalid enum value 'go' ({own}:11)"
    own.write_text(text.replace("most_attempts = 2", "most_attempts = 99"))
    assert _refused(own) == f"rulebook.policy.most_attempts: expected 0 to 50, got 99 ({own}:7)"
    own.write_text(text.replace("most_attempts = 2", "rule = 5").partition("[[")[0])
    assert _refused(own) == f"rulebook.policy.rule: Expected `array`, got `int` ({own}:7)"


def test_what_is_wrong_in_a_variable_names_the_variable() -> None:
    rules = [{"when": {"job": "x"}, "mode": "act"}, {"when": {"job": "y"}, "mode": "go"}]
    settings = Settings.load({"GUARD_RULEBOOK__POLICY__RULE": json.dumps(rules)})
    with pytest.raises(ConfigError) as refused:
        rulebooks.configured(settings)
    assert str(refused.value) == (
        "rulebook.policy.rule[1].mode: Invalid enum value 'go' (GUARD_RULEBOOK__POLICY__RULE)"
    )


def test_a_line_is_that_of_the_table_whatever_stands_in_texts_and_comments() -> None:
    assert [line_of(MORE, ("rule", number)) for number in (0, 1, 2)] == [3, 10, None]
    text = 'a = """\n[[rule]]\n"""\n# [[rule]]\nrule = [{ b = 1 },\n { b = 2 }]\n'
    assert line_of(text, ("rule", 1, "b")) == 6
    assert line_of(text, ("rule", 1, "c")) is None


def test_the_example_has_every_key_of_the_policy_with_its_default() -> None:
    example = (Path(__file__).parents[2] / "guard.example.toml").read_text()
    part = example.partition("[rulebook.policy]")[2].partition("[retention]")[0]
    text = "\n".join(line.removeprefix("# ") for line in part.splitlines()[1:] if not line.startswith("#  "))
    stated = tomllib.loads("[rulebook.policy]\n" + text)["rulebook"]["policy"]
    (rule,) = stated.pop("rule")
    defaults = msgspec.to_builtins(Policy(mode="act", await_log_seconds=10))
    names = {field.encode_name for field in msgspec.structs.fields(Policy)} - {"rule", "mode"}
    assert stated.keys() == names
    assert msgspec.convert({**stated, "mode": "act"}, Policy) == msgspec.convert(defaults, Policy)
    assert rule["mode"] == "act"
    assert all(name in part for name in Subject._fields)
