import pickle
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from connectors.platforms.platform import Secret as PlatformSecret
from flows import rulebooks
from flows.setting_values import ServerUrl, check_links
from flows.settings import SecretKind, Settings, keys
from models.records.errors import ConfigError
from models.records.outputs import ShardOutput

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "guard.example.toml"
CANARY = "cAnArY-31415926535897932384"


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "guard.toml"
        path.write_text(text)
        return path

    return write


def wrong(environ: Mapping[str, str], path: Path | None = None, given: Mapping[str, Any] | None = None) -> list[str]:
    """The lines of the error that these settings are."""
    with pytest.raises(ConfigError) as caught:
        Settings.load(environ, path=path, given=given)
    assert caught.value.__cause__ is None
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value).splitlines()


def test_nothing_need_be_set_to_observe() -> None:
    settings = Settings.load({})
    assert settings.mode == "observe"
    assert settings.redis.duplicate_window == timedelta(hours=72)
    assert all(line.endswith("(default)") for line in settings.lines())


def test_the_command_line_wins_over_a_variable_and_a_variable_over_the_file(toml: Callable[[str], Path]) -> None:
    path = toml('mode = "suggest"\n[flow]\nprocesses = 2\nfirst_port = 4000\nmetrics_port = 5000')
    settings = Settings.load(
        {"GUARD_FLOW__PROCESSES": "3", "GUARD_FLOW__FIRST_PORT": "4100"}, path=path, given={"flow": {"processes": 4}}
    )
    assert (settings.mode, settings.flow.processes, settings.flow.first_port) == ("suggest", 4, 4100)
    lines = settings.lines()
    assert f'mode = "suggest"  ({path})' in lines
    assert "flow.processes = 4  (command line)" in lines
    assert "flow.first_port = 4100  (GUARD_FLOW__FIRST_PORT)" in lines
    assert f"flow.metrics_port = 5000  ({path})" in lines


def test_a_variable_names_the_file(toml: Callable[[str], Path]) -> None:
    assert Settings.load({"GUARD_SETTINGS": str(toml('mode = "act"'))}).mode == "act"


def test_variables_that_tell_tests_where_data_is_are_no_settings() -> None:
    assert Settings.load({"GUARD_FIXTURES": "/x", "GUARD_DATA": "/y", "OTHER": "z"}).mode == "observe"


def test_a_list_is_given_to_a_variable_as_json_and_a_class_name_as_it_is_written() -> None:
    source = {
        "GUARD_RECEIVER__SOURCES__ACME__PLATFORM": "github",
        "GUARD_RECEIVER__SOURCES__ACME__INSTANCE": "[not json]",
        "GUARD_RECEIVER__SOURCES__ACME__SECRETS": f'[{{"kind": "signature", "value": "{CANARY}"}}]',
        "GUARD_RULEBOOK__DETECTORS__RepeatedFailure__THRESHOLD": "3",
        "GUARD_RULEBOOK__DETECTORS__RepeatedFailure__WITHIN": "30m",
    }
    settings = Settings.load(source)
    acme = settings.receiver.sources["acme"]
    assert acme.instance == "[not json]"
    assert acme.secrets[0].value.get_secret_value() == CANARY
    assert settings.rulebook.detectors == {"RepeatedFailure": {"threshold": 3, "within": "30m"}}
    assert 'receiver.sources.acme.secrets[0].kind = "signature"  (GUARD_RECEIVER__SOURCES__ACME__SECRETS)' in (
        settings.lines()
    )


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"GUARD_REDIS_URL": CANARY}, "redis_url: there is no such key; did you mean redis.url? (GUARD_REDIS_URL)"),
        ({"GUARD_REDACTION__KYE": CANARY}, "redaction.kye: there is no such key; did you mean redaction.key?"),
        ({"GUARD_XYZZY": CANARY}, "xyzzy: there is no such key (GUARD_XYZZY)"),
        ({"GUARD_REDIS__URL": f"http://:{CANARY}@h"}, "redis.url: expected an address that begins with redis://"),
        ({"GUARD_REDIS__URL": CANARY}, "redis.url: expected an address that begins with redis://"),
        ({"GUARD_REDIS__URL": f"redis://:a/{CANARY}@h"}, "redis.url: the characters / ? # @ within"),
        ({"GUARD_REDIS__URL": f"redis://:a#{CANARY}"}, "redis.url: the characters / ? # @ within"),
        ({"GUARD_REDIS__URL": f"redis://:{CANARY}@a@h"}, "redis.url: the characters / ? # @ within"),
        ({"GUARD_REDIS__URL": f"redis://:[{CANARY}@h"}, "redis.url: the characters / ? # @ within"),
        ({"GUARD_REDIS__URL": f"redis://:{CANARY}@/0"}, "redis.url: expected a host"),
        ({"GUARD_REDIS__URL": "redis://h/zero"}, "redis.url: expected a host"),
        ({"GUARD_REDIS__URL": "unix://"}, "redis.url: expected the path of a socket"),
        ({"GUARD_REDIS__RETENTION": "soon"}, "redis.retention: expected a duration"),
        ({"GUARD_REDIS__RETENTION": "0"}, "redis.retention: expected a duration longer than nothing"),
        ({"GUARD_POSTGRES__URL": f"mysql://:{CANARY}@h"}, "postgres.url: expected an address that begins with postgre"),
        ({"GUARD_MODE": "yolo"}, "mode: Input should be 'observe', 'suggest' or 'act' (GUARD_MODE)"),
        ({"GUARD_RECEIVER__MAX_BODY_BYTES": "26214401"}, "receiver.max_body_bytes: Input should be less than or equal"),
        ({"GUARD_RECEIVER__PORT": "65536"}, "receiver.port: Input should be less than or equal to 65535"),
        ({"GUARD_RECEIVER__ADMIN_PORT": "8080"}, "receiver.admin_port: the same as receiver.port"),
        ({"GUARD_RECEIVER__PORT": "8081"}, "receiver.admin_port: the same as receiver.port"),
        ({"GUARD_FLOW__PROCESSES": "13"}, "flow.processes: Input should be less than or equal to 12"),
        ({"GUARD_FLOW__SNAPSHOT_SECONDS": "nan"}, "flow.snapshot_seconds: Input should be a finite number"),
        ({"GUARD_FLOW__REJECT_SHARE_LIMIT": "1.01"}, "flow.reject_share_limit: Input should be less than or equal"),
        ({"GUARD_FLOW__METRICS_PORT": "65535", "GUARD_FLOW__PROCESSES": "2"}, "flow.metrics_port: 2 processes need as"),
        ({"GUARD_FLOW__METRICS_PORT": "2103", "GUARD_FLOW__PROCESSES": "3"}, "flow.first_port: the ports from here on"),
        ({"GUARD_FLOW__ADDRESSES": '["127.0.0.1:1"]', "GUARD_FLOW__PROCESSES": "2"}, "flow.addresses: 1 addresses for"),
        ({"GUARD_FLOW__ADDRESSES": "127.0.0.1:1"}, "flow.addresses: expected JSON in a variable"),
        ({"GUARD_FLOW__ADDRESSES": '["10.0.0.7:2101"]'}, "flow.addresses: '10.0.0.7:2101' is not loopback"),
        ({"GUARD_FLOW__BACKUP_SECONDS": "259195"}, "flow: backup_seconds and snapshot_seconds together must be less"),
        (
            {
                f"GUARD_ACT__PEOPLE__{who}__{key}": value
                for who in ("ANN", "BEN")
                for key, value in (("TOKEN", CANARY), ("ROLE", "viewer"))
            },
            "act.people: two of them have the same token",
        ),
        ({"GUARD_REDACTION__KEY": "too short"}, "redaction.key: expected 16 characters or more"),
        ({"GUARD_REDACTION__KEY": "file:relative"}, "redaction.key: file: is followed by an absolute path"),
        ({"GUARD_REDACTION__KEY": "file:/nowhere/key"}, "redaction.key: /nowhere/key cannot be read: No such file or"),
        ({"GUARD_RULEBOOK__SIGNATURE_FILES": '["/nowhere.toml"]'}, "rulebook.signature_files[0]: /nowhere.toml is not"),
        ({"GUARD_RETENTION__FAILURES": "0"}, "retention.failures: Input should be greater than or equal to 1"),
        ({"GUARD_LOGGING__LEVEL": "loud"}, "logging.level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ({"GUARD_REDIS": CANARY}, "redis: Input should be a valid dictionary or instance of Redis (GUARD_REDIS)"),
        (
            {"GUARD_REDIS": CANARY, "GUARD_REDIS__URL": "x"},
            "GUARD_REDIS__URL: another variable sets the whole of redis",
        ),
        ({"GUARD_MODE": "act", "GUARD_mode": "act"}, "GUARD_mode: another variable sets the same key"),
    ],
)
def test_what_is_wrong_is_said_with_its_key_and_never_with_its_value(environ: dict[str, str], line: str) -> None:
    said = wrong(environ)
    assert len(said) == 1
    assert said[0].startswith(line)


def test_every_problem_is_told_at_once_with_the_place_it_was_set(toml: Callable[[str], Path]) -> None:
    path = toml(f'[receiver]\nprot = "{CANARY}"\nport = 0\n[receiver.sources.Acme]\nplatform = "travis"')
    unsigned = "the source has no secrets, and anyone could post to it; true allows that"
    assert wrong({"GUARD_MODE": "x"}, path, {"flow": {"processes": 0}}) == [
        "mode: Input should be 'observe', 'suggest' or 'act' (GUARD_MODE)",
        f"receiver.port: Input should be greater than or equal to 1 ({path})",
        f"receiver.sources.Acme: String should match pattern '^[a-z0-9][a-z0-9_-]{{0,62}}$' ({path})",
        f"receiver.sources.Acme.platform: Input should be 'github', 'gitlab', 'jenkins' or 'circleci' ({path})",
        f"receiver.sources.Acme.instance: must be set ({path})",
        f"receiver.sources.Acme.allow_unsigned: {unsigned}",
        f"receiver.prot: there is no such key; did you mean receiver.port? ({path})",
        "flow.processes: Input should be greater than or equal to 1 (command line)",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mode = ", "Invalid value (at end of document)"),
        ("a = 1\na = 2\n", "Cannot overwrite a value (at line 2, column 6)"),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_the_line(text: str, line: str, toml: Callable[[str], Path]) -> None:
    path = toml(text)
    assert wrong({}, path) == [f"{path}: {line}"]


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    assert wrong({"GUARD_SETTINGS": f"{tmp_path}/none.toml"}) == [f"{tmp_path}/none.toml: No such file or directory"]
    (tmp_path / "latin.toml").write_bytes(b'mode = "\xe9"')
    assert wrong({}, tmp_path / "latin.toml") == [f"{tmp_path}/latin.toml: not UTF-8 text"]


def source(secrets: str, extra: str = "") -> str:
    return f'[receiver.sources.acme]\nplatform = "gitlab"\ninstance = "i"\nsecrets = {secrets}\n{extra}'


def test_an_unsigned_source_is_refused_unless_it_is_allowed_by_name(toml: Callable[[str], Path]) -> None:
    assert wrong({}, toml(source("[]")))[0].startswith(
        "receiver.sources.acme.allow_unsigned: the source has no secrets"
    )
    assert Settings.load({}, path=toml(source("[]", "allow_unsigned = true"))).receiver.sources["acme"].secrets == []


def test_two_secrets_of_a_kind_may_be_active_and_no_more(toml: Callable[[str], Path]) -> None:
    one = f'{{kind = "token", value = "{CANARY}"}}'
    other = f'{{kind = "signing_token", value = "{CANARY}"}}'
    assert len(Settings.load({}, path=toml(source(f"[{one}, {one}, {other}]"))).receiver.sources["acme"].secrets) == 3
    assert wrong({}, toml(source(f"[{one}, {one}, {one}]")))[0].startswith(
        "receiver.sources.acme.secrets: more than two secrets of the kind token"
    )


def test_an_empty_secret_is_refused(toml: Callable[[str], Path]) -> None:
    assert wrong({}, toml(source('[{kind = "token", value = ""}]')))[0].startswith(
        "receiver.sources.acme.secrets[0].value: must not be empty"
    )


def test_a_secret_is_read_from_its_file_and_its_place_is_told(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    settings = Settings.load({"GUARD_REDACTION__KEY": f"file:{file}"})
    assert settings.redaction.key
    assert settings.redaction.key.get_secret_value() == CANARY
    assert f'redaction.key = "**********"  ({file}, named by GUARD_REDACTION__KEY)' in settings.lines()
    file.write_bytes(CANARY.encode() + b"\xff")
    assert wrong({"GUARD_REDACTION__KEY": f"file:{file}"}) == [
        f"redaction.key: {file} is not UTF-8 text ({file}, named by GUARD_REDACTION__KEY)"
    ]


def test_no_secret_shows_wherever_settings_are_shown(toml: Callable[[str], Path]) -> None:
    path = toml(
        f'redaction.key = "{CANARY}"\nredis.url = "rediss://guard:{CANARY}@h:1/2?db=3&ssl_password={CANARY}"\n'
        f'postgres.url = "postgresql://u:{CANARY}@h/d?sslmode=require&password={CANARY}"\n'
        + source(f'[{{kind = "token", value = "{CANARY}"}}]')
    )
    settings = Settings.load({}, path=path)
    shown = "\n".join([repr(settings), str(settings), settings.model_dump_json(), *settings.lines()])
    assert CANARY not in shown
    assert settings.redis.url.get_secret_value().count(CANARY) == 2
    assert f'redis.url = "rediss://guard:***@h:1/2?db=3&ssl_password=***"  ({path})' in settings.lines()
    assert f'postgres.url = "postgresql://u:***@h/d?sslmode=require&password=***"  ({path})' in settings.lines()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://u@h/0", "redis://u@h/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("postgresql:///guard?host=/run/pg", "postgresql:///guard?host=/run/pg"),
        (f"redis://:x/{CANARY}@h", "***"),
        (f"redis://:x@{CANARY}@h", "***"),
        (f"redis://:x#{CANARY}", "***"),
        (f"redis://:[{CANARY}@h", "***"),
    ],
)
def test_an_address_is_shown_without_what_could_be_a_password(url: str, shown: str) -> None:
    assert str(ServerUrl(url)) == shown


def test_links_between_processes_stay_on_this_machine_unless_the_network_is_encrypted() -> None:
    check_links(["127.0.0.1:2101", "localhost:2102", "[::1]:2103"], encrypted_network=False)
    check_links(["10.0.0.7:2101", "worker-2.internal:2101"], encrypted_network=True)
    for address in ("0.0.0.0:2101", "worker-2.internal:2101", "[::]:2101", "127.0.0.1.example.com:1"):
        with pytest.raises(ValueError, match=r"not loopback.*flow.encrypted_network"):
            check_links([address], encrypted_network=False)
    for address in ("127.0.0.1", ":2101", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536"):
        with pytest.raises(ValueError, match="not host:port"):
            check_links([address], encrypted_network=True)


def test_a_cluster_on_one_machine_needs_no_addresses() -> None:
    assert Settings.load({}).flow.cluster() == []
    assert Settings.load({"GUARD_FLOW__PROCESSES": "2"}).flow.cluster() == ["127.0.0.1:2101", "127.0.0.1:2102"]
    far = {
        "GUARD_FLOW__PROCESSES": "2",
        "GUARD_FLOW__ADDRESSES": '["a:1", "b:1"]',
        "GUARD_FLOW__ENCRYPTED_NETWORK": "true",
    }
    assert Settings.load(far).flow.cluster() == ["a:1", "b:1"]


def test_what_only_some_processes_need_is_asked_for_by_name() -> None:
    settings = Settings.load({"GUARD_FLOW__RECOVERY_DIR": "/r"})
    settings.require("flow.recovery_dir", "redis.url")
    with pytest.raises(ConfigError) as caught:
        settings.require("redaction.key", "receiver.spool_dir", "flow.recovery_dir")
    assert str(caught.value).splitlines() == [
        "redaction.key: must be set to do this",
        "receiver.spool_dir: must be set to do this",
    ]


def test_settings_do_not_change_once_they_are_loaded() -> None:
    settings = Settings.load({})
    with pytest.raises(ValueError, match="frozen"):
        settings.flow.processes = 2


def test_settings_reach_a_child_process_whole() -> None:
    settings = Settings.load({"GUARD_REDIS__URL": f"redis://:{CANARY}@h"})
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.lines() == settings.lines()


def test_the_example_loads_and_has_every_key(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace("/run/secrets", str(tmp_path))
    for name in ("acme-github", "builds", "redaction-key", "github-read", "ann"):
        (tmp_path / name).write_text(CANARY)
    (tmp_path / "github-app.pem").write_text(CANARY[::-1])
    (tmp_path / "redis-url").write_text("redis://h\n")
    (tmp_path / "postgres-url").write_text("postgresql://h\n")
    path = tmp_path / "guard.toml"
    path.write_text(text)
    lines = Settings.load({}, path=path).lines()
    from_defaults = [line for line in lines if line.endswith("(default)")]
    assert from_defaults == [
        "receiver.sources.builds.max_body_bytes = -  (default)",
        "receiver.sources.builds.allow_unsigned = false  (default)",
        "platforms.acme-github.ca_file = -  (default)",
    ]
    named = {key.rpartition(".")[2].removesuffix("[]").removeprefix("<name>") for key in keys()} - {""}
    assert {key for key in named if f"{key} = " not in text} == set()


def test_the_example_states_the_defaults(tmp_path: Path) -> None:
    defaults = {line.split("  (")[0] for line in Settings.load({}).lines()}
    examples = tmp_path / "guard.toml"
    kept = [line for line in EXAMPLE.read_text().splitlines() if "file:" not in line and "/var/lib" not in line]
    examples.write_text(
        "\n".join(kept).replace("allow_unsigned = false", "allow_unsigned = true").split("[receiver.")[0]
    )
    after = EXAMPLE.read_text().partition("[flow]")[2]
    named = after.index("[act.people.")  # what has a name has no default
    after = after[:named] + after[after.index("[redaction]") :]
    examples.write_text(
        examples.read_text()
        + "[flow]"
        + "\n".join(line for line in after.splitlines() if "file:" not in line and "/var/lib" not in line)
    )
    loaded = {line.split("  (")[0] for line in Settings.load({}, path=examples).lines()}
    assert {line for line in loaded - defaults if not line.startswith("rulebook.detectors")} == set()


def test_the_kinds_of_secret_are_those_that_platforms_verify() -> None:
    assert set(get_args(SecretKind)) == set(get_args(get_type_hints(PlatformSecret)["kind"]))


def test_there_is_a_retention_for_every_table_that_grows() -> None:
    assert set(type(Settings.load({}).retention).model_fields) == (set(ShardOutput._fields) - {"stats", "closed"}) | {
        "passing_logs",
        "reconciled",
        "hooks",
        "redeliveries",
        "quarantines",
        "acts",
        "healing",
        "budgets",
        "holds",
    }


def test_decisions_wait_for_logs_where_logs_are_read_and_not_elsewhere() -> None:
    environ = {"GUARD_PLATFORMS__HUB__PLATFORM": "github", "GUARD_PLATFORMS__HUB__INSTANCE": "github.com"}
    assert rulebooks.configured(Settings.load({})).policy.await_log_seconds == 0
    assert rulebooks.configured(Settings.load(environ)).policy.await_log_seconds == 0
    environ |= {f"GUARD_PLATFORMS__HUB__READ_CREDENTIAL__{k}": v for k, v in (("KIND", "token"), ("VALUE", "t"))}
    assert rulebooks.configured(Settings.load(environ)).policy.await_log_seconds == 10
    environ["GUARD_RULEBOOK__POLICY__AWAIT_LOG_SECONDS"] = "3"
    assert rulebooks.configured(Settings.load(environ)).policy.await_log_seconds == 3
