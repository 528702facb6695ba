"""All that an operator can set: one TOML file, GUARD_* variables over it, the command line over both.

    [redis]                                       GUARD_REDIS__URL=rediss://...
    url = "file:/run/secrets/redis-url"           GUARD_FLOW__PROCESSES=2

A variable names its key in capitals, with two underscores between the parts; a part that is not all capitals is taken
as it is written (GUARD_RULEBOOK__DETECTORS__RepeatedFailure__THRESHOLD=3). Lists and tables are written in JSON.

Every secret, the two server addresses among them, may be given as `file:/absolute/path`: it is then read from that
file, without the line break at its end. No secret shows in repr, str, an error or `Settings.lines`.

guard.example.toml has every key and what it means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeGuard, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict

from connectors.addresses import is_private_host
from flows.setting_sources import PATH_VARIABLE, Key, Origins, dotted, leaves, problems, read_file, read_variables
from flows.setting_values import (
    ApiUrl,
    Days,
    Duration,
    ExistingFile,
    HostName,
    Listed,
    Name,
    Plain,
    Port,
    PostgresUrl,
    RedisUrl,
    Secret,
    SecretKey,
    ServerUrl,
    check_links,
)
from models.records.duration import duration_text
from models.records.errors import ConfigError
from models.records.event import SHARDS, PlatformName

MIB: Final = 1 << 20
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"

Mode = Literal["observe", "suggest", "act"]
SecretKind = Literal["signature", "token", "signing_token", "basic", "path"]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Minutes = Annotated[float, Field(ge=0, le=1e9)]
BodyBytes = Annotated[int, Field(ge=1, le=25 * MIB)]
"""GitHub sends at most 25 MB: https://docs.github.com/en/webhooks/webhook-events-and-payloads#payload-cap"""


class Section(BaseModel):
    """A table of the settings file. Unknown keys are errors, and defaults are held to the same rules as what is set."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class Redis(Section):
    """The bus: Redis 7.0 or later, or Valkey."""

    url: RedisUrl = ServerUrl("redis://127.0.0.1:6379/0")
    retention: Duration = timedelta(hours=72)  # how long entries stay that every reader is past
    duplicate_window: Duration = timedelta(hours=72)  # GitHub redelivers for three days


class Postgres(Section):
    """Where failures, findings, decisions, aggregates and dead letters are kept."""

    url: PostgresUrl = ServerUrl("postgresql://127.0.0.1:5432/guard")


class SourceSecret(Section):
    """One way in which deliveries of a source prove themselves."""

    kind: SecretKind
    value: Secret


class Source(Section):
    """Who posts to /webhooks/{name}."""

    platform: PlatformName
    instance: Name  # the server or organisation: two GitLabs are two instances
    secrets: Annotated[list[SourceSecret], Listed] = []
    max_body_bytes: BodyBytes | None = None  # the receiver's, if not set
    allow_unsigned: bool = False

    @field_validator("secrets")
    @classmethod
    def _two_while_one_is_rotated(cls, secrets: list[SourceSecret]) -> list[SourceSecret]:
        for kind in {secret.kind for secret in secrets}:
            if sum(secret.kind == kind for secret in secrets) > 2:  # noqa: PLR2004 - the new one and the old one
                raise ValueError(f"more than two secrets of the kind {kind}; two may be active while one is rotated")
        return secrets

    @field_validator("allow_unsigned")
    @classmethod
    def _signed_or_allowed(cls, allowed: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        if not allowed and info.data.get("secrets") == []:
            raise ValueError("the source has no secrets, and anyone could post to it; true allows that")
        return allowed


class Receiver(Section):
    """The process that takes webhooks."""

    host: Name = "127.0.0.1"
    port: Port = 8080
    admin_host: Name = "127.0.0.1"  # /healthz, /readyz, /metrics
    admin_port: Port = 8081
    max_body_bytes: BodyBytes = 5 * MIB
    spool_dir: Path | None = None  # where deliveries wait while Redis is away
    spool_max_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    sources: dict[Annotated[str, Field(pattern=NAME_PATTERN)], Source] = {}

    @field_validator("admin_port")
    @classmethod
    def _a_port_of_its_own(cls, port: int, info: ValidationInfo) -> int:
        if port == info.data.get("port"):
            raise ValueError("the same as receiver.port; health and metrics are not for those who post")
        return port


class Flow(Section):
    """The dataflow."""

    processes: Annotated[int, Field(ge=1, le=SHARDS)] = 1
    recovery_dir: Path | None = None
    snapshot_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    backup_seconds: Annotated[float, Field(ge=0)] = 0.0  # by how much backups of the recovery files may differ in age
    ephemeral: bool = False  # run without a recovery store: no cursor moves and nothing is trimmed
    metrics_host: Name = "127.0.0.1"
    metrics_port: Port = 8090  # of the first process; the next one has the next port
    first_port: Port = 2101  # of the links between processes, likewise
    encrypted_network: bool = False
    addresses: Annotated[list[str], Listed] = []  # host:port of every process, where they run on several machines
    reject_share_limit: Annotated[float, Field(gt=0, le=1)] = 0.5  # a larger share of unreadable entries stops the flow

    @field_validator("metrics_port", "first_port")
    @classmethod
    def _room_for_all(cls, port: int, info: ValidationInfo) -> int:
        processes = info.data.get("processes", 1)
        if port + processes - 1 > 65_535:  # noqa: PLR2004 - the last port there is
            raise ValueError(f"{processes} processes need as many ports from here on, up to 65535")
        if abs(port - info.data.get("metrics_port", port - SHARDS)) < processes and info.field_name == "first_port":
            raise ValueError("the ports from here on overlap those from flow.metrics_port on")
        return port

    @field_validator("addresses")
    @classmethod
    def _links_are_closed(cls, addresses: list[str], info: ValidationInfo) -> list[str]:
        if addresses and len(addresses) != info.data.get("processes", len(addresses)):
            raise ValueError(f"{len(addresses)} addresses for {info.data['processes']} processes")
        check_links(addresses, encrypted_network=info.data.get("encrypted_network", False))
        return addresses

    def cluster(self) -> list[str]:
        """The address of each process's links; none where one process is all there is."""
        if self.processes == 1:
            return []
        return self.addresses or [f"127.0.0.1:{self.first_port + i}" for i in range(self.processes)]


class Logs(Section):
    """The log readers: how long and how much."""

    metrics_host: Name = "127.0.0.1"
    metrics_port: Port = 8100  # of reader number 0; the next one has the next port
    patience: Duration = timedelta(seconds=60)  # for so long a log is tried for
    longest_read: Duration = timedelta(seconds=120)  # one visit to a platform
    max_bytes: Annotated[int, Field(ge=1 << 10)] = 512 * MIB  # of one log; what comes after is not read


class ActLimits(Section):
    """What may be done at most; see analytics/guards.py. Hours are those of the clock."""

    job_per_hour: Count = 2
    run: Count = 2  # of one run and all that reruns made of it
    commit: Count = 6
    repository_per_hour: Count = 10
    fleet_per_hour: Count = 100
    repository_minutes_per_hour: Minutes = 240.0  # CI minutes
    fleet_minutes_per_hour: Minutes = 2400.0
    notes_per_hour: Count = 20  # comments, issues and notifications, of one repository
    most_rerun_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of all jobs that ended within the last hour
    least_reruns_per_hour: Count = 20  # fewer are no storm, whatever their share
    cooldown: Duration = timedelta(seconds=30)  # between two reruns of a job
    crowd_repositories: Count = 5  # with one cause within `crowd`: their reruns wait, as in an incident
    crowd: Duration = timedelta(minutes=5)
    stale: Duration = timedelta(hours=6)  # what failed longer ago is left alone


class Archive(Section):
    """The archive: where it is, and how soon what was read is durable there."""

    directory: Path | None = None
    flush: Duration = timedelta(seconds=60)  # how long entries wait for others to share a file with
    flush_bytes: Annotated[int, Field(ge=MIB)] = 64 * MIB  # of entries in hand; then they do not wait
    retention_days: Days = 400
    metrics_host: Name = "127.0.0.1"
    metrics_port: Port = 8200  # of archiver number 0; the next one has the next port


class Reconcile(Section):
    """The reconciler: what no webhook brought is found by asking."""

    interval: Duration = timedelta(minutes=10)  # at which each repository is looked at
    overlap: Duration = timedelta(minutes=10)  # so much of what was looked at is looked at again
    grace: Duration = timedelta(minutes=2)  # for so long a webhook may still come
    lookback: Duration = timedelta(hours=3)  # at a repository that was never looked at
    requests_per_hour: Annotated[int, Field(ge=1)] = 2000  # of each instance, at most
    metrics_host: Name = "127.0.0.1"
    metrics_port: Port = 8500


class ApiCredential(Section):
    """What opens an API. What reads is not what acts: it need not have the right to change anything."""

    kind: Literal["token", "basic"]
    value: Secret


class ActCredential(Section):
    """What opens an API for acting. Without it nothing is ever done there."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    kind: Literal["token", "basic", "app"]
    value: Secret  # of a GitHub App: its private key
    app_id: Name | None = None  # or its client id

    @field_validator("app_id")
    @classmethod
    def _whose_key_it_is(cls, app_id: str | None, info: ValidationInfo) -> str | None:
        if (info.data.get("kind") == "app") is not (app_id is not None) and "kind" in info.data:
            raise ValueError("must be set where kind is app, and nowhere else")
        return app_id


class Api(Section):
    """How one instance of a platform is asked."""

    platform: PlatformName
    instance: Name  # as receiver.sources has it
    url: ApiUrl | None = None  # the platform's own, if not set
    read_credential: ApiCredential | None = None
    act_credential: ActCredential | None = None
    private: bool = False  # it stands at an address of a private network
    ca_file: ExistingFile | None = None  # certificates to trust besides those that the machine trusts
    log_hosts: Annotated[list[HostName] | None, Listed] = None  # those that the platform uses, if not set
    concurrency: Annotated[int, Field(ge=1, le=256)] = 32  # asked at once, by one reader
    repositories: Annotated[list[Name], Listed] = []  # that are looked at besides those that were heard of
    hooks: Annotated[list[Name], Listed] = []  # webhooks that bring us its events, by their address in the API

    @field_validator("act_credential")
    @classmethod
    def _one_for_each(cls, acting: ActCredential | None, info: ValidationInfo) -> ActCredential | None:
        reading = info.data.get("read_credential")
        if acting is not None and reading is not None and acting.value == reading.value:
            raise ValueError("the same as read_credential; what reads must not be able to change anything")
        return acting

    @field_validator("private")
    @classmethod
    def _encrypted_or_at_home(cls, private: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        url = urlsplit(info.data.get("url") or "")
        if url.scheme == "http" and not private and not is_private_host(url.hostname or ""):
            raise ValueError("its url is http, by which a credential would pass for all to see; true allows that")
        return private


class Person(Section):
    """Somebody, or something, that may ask the healer's HTTP API."""

    token: SecretKey
    role: Literal["viewer", "approver", "operator"]  # each may do what those before may, too


class Act(Section):
    """The healers, which act where the policy's mode is act, or a person has said yes; and the people over them."""

    metrics_host: Name = "127.0.0.1"
    metrics_port: Port = 8400  # of healer number 0; the next one has the next port
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16  # cases in hand at once, of one healer
    lease: Duration = timedelta(minutes=2)  # after which a silent healer is thought dead; an answer may take half of it
    probe_every: Duration = timedelta(seconds=30)  # in an incident one of those that wait is tried
    probes_to_pass: Annotated[int, Field(ge=1, le=20)] = 2  # so many more that pass than fail say that it is over
    drain: Duration = timedelta(minutes=2)  # over which what waited comes back
    limits: ActLimits = ActLimits()
    stop_file: Path | None = None  # while it is there, nothing is done
    api_host: Name = "127.0.0.1"  # the HTTP API for people
    api_port: Port = 8300
    people: dict[Annotated[str, Field(pattern=NAME_PATTERN)], Person] = {}
    audit_seals: Path | None = None  # the file in which the seals of the audit stand outside the database
    proposals_expire: Duration = timedelta(hours=24)  # so long what is suggested can be approved

    @field_validator("people")
    @classmethod
    def _one_token_each(cls, people: dict[str, Person]) -> dict[str, Person]:
        tokens = [person.token.get_secret_value() for person in people.values()]
        if len(set(tokens)) < len(tokens):
            raise ValueError("two of them have the same token, and nobody could tell who did what")
        return people


class Notify(Section):
    """Whom healers tell what only people can mend: see flows/notifying.py."""

    urls: Annotated[list[Secret], Listed] = []  # of Apprise
    timeout: Duration = timedelta(seconds=10)
    most_per_subject_an_hour: Annotated[int, Field(ge=1, le=60)] = 2  # of one finding, by one healer


class Redaction(Section):
    """What hides secrets and mail addresses."""

    key: SecretKey | None = None  # one and the same in every process


class Rulebook(Section):
    """What is changed of the built-in rulebook. The keys below a name are checked by the rulebook itself."""

    detectors: dict[str, dict[str, Plain]] = {}  # parameters by the detector's class name
    signature_files: Annotated[list[ExistingFile], Listed] = []
    policy: dict[str, Plain] = {}
    policy_files: Annotated[list[ExistingFile], Listed] = []  # of [[rule]] tables, after those of `policy`
    fleet: dict[str, Plain] = {}


Price = Annotated[float, Field(ge=0)]


class Prices(Section):
    """What `guard report` adds up, in any one currency. Of a runner's labels the dearest that has a price counts."""

    currency: Annotated[str, Field(min_length=1, max_length=8)] = "USD"
    default: Price = 0.008  # a minute of a runner none of whose labels has a price
    waiting: Price = 0.0  # a minute that people wait for green
    labels: dict[str, Price] = {}  # a minute of a runner with that label


class Retention(Section):
    """For how many days each table keeps a row."""

    failures: Days = 90
    diagnoses: Days = 90
    findings: Days = 90
    decisions: Days = 365
    aggregates: Days = 400
    job_hours: Days = 400
    dead_letters: Days = 30
    passing_logs: Days = 30
    detector_faults: Days = 90
    incidents: Days = 365
    act_outcomes: Days = 400
    reconciled: Days = 90
    hooks: Days = 90
    redeliveries: Days = 7
    quarantines: Days = 400
    acts: Days = 400
    healing: Days = 90
    budgets: Days = 90
    holds: Days = 90


class Logging(Section):
    """Our own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal, JSON elsewhere


class Settings(BaseSettings):
    """Everything that is set, valid as a whole."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    mode: Mode = "observe"
    redis: Redis = Redis()
    postgres: Postgres = Postgres()
    receiver: Receiver = Receiver()
    flow: Flow = Flow()
    logs: Logs = Logs()
    archive: Archive = Archive()
    act: Act = Act()
    reconcile: Reconcile = Reconcile()
    notify: Notify = Notify()
    platforms: dict[Annotated[str, Field(pattern=NAME_PATTERN)], Api] = {}
    redaction: Redaction = Redaction()
    rulebook: Rulebook = Rulebook()
    prices: Prices = Prices()
    retention: Retention = Retention()
    logging: Logging = Logging()

    _origins: Origins = PrivateAttr(default_factory=Origins)

    @field_validator("flow")
    @classmethod
    def _a_backup_can_be_replayed(cls, flow: Flow, info: ValidationInfo) -> Flow:
        redis = info.data.get("redis")
        if redis and timedelta(seconds=flow.backup_seconds + flow.snapshot_seconds) >= redis.retention:
            raise ValueError("backup_seconds and snapshot_seconds together must be less than redis.retention")
        return flow

    @field_validator("platforms")
    @classmethod
    def _one_way_each(cls, platforms: dict[str, Api]) -> dict[str, Api]:
        ways = [(api.platform, api.instance) for api in platforms.values()]
        twice = next((way for way in ways if ways.count(way) > 1), None)
        if twice:
            raise ValueError(f"two of them are {twice[0]} {twice[1]}")
        return platforms

    @classmethod
    def load(
        cls, environ: Mapping[str, str], *, path: Path | None = None, given: Mapping[str, Any] | None = None
    ) -> Self:
        """The settings of the file at `path` (or the one GUARD_SETTINGS names, or none), `environ`, the command line.

        `given` is what the command line set, nested as the file is.

        Raises:
            ConfigError: all that is wrong, one line each, with the key and where it was set.
        """
        path = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
        from_file = read_file(path) if path else {}
        from_variables, names = read_variables(environ)
        from_command = dict(given or {})
        origins = Origins()
        origins.note(from_file, str(path))
        origins.note(from_variables, "environment", names)
        origins.note(from_command, "command line")
        sources = [InitSettingsSource(cls, values) for values in (from_command, from_variables, from_file)]
        try:
            settings = cls(_build_sources=(tuple(sources), {}))  # type: ignore[call-arg] # it hides pydantic's options
        except ValidationError as error:
            raise ConfigError(problems(error, origins, keys())) from None
        settings._origins = origins
        return settings

    def require(self, *wanted: str) -> None:
        """Insist on settings that only some processes need, by their dotted keys.

        Raises:
            ConfigError: those that are not set, one line each.
        """
        missing = [key for key in wanted if attrgetter(key)(self) is None]
        if missing:
            raise ConfigError("\n".join(f"{key}: must be set to do this" for key in missing))

    def place(self, key: Key) -> str | None:
        """Where `key` was set: the settings file, a variable or the command line; None for a default."""
        return self._origins.of(key)

    def lines(self) -> list[str]:
        """What is in force, a line for each key: key, value with secrets masked, where it was set."""
        return [
            f"{dotted(key)} = {_shown(value)}  ({self._origins.of(key) or 'default'})"
            for key, value in leaves(_tables(self))
        ]


def keys() -> Iterator[str]:
    """Every key there is, dotted; <name> stands for a name of the operator's, [] for a place in a list."""
    return _keys(Settings, "")


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(annotation: object, prefix: str) -> Iterator[str]:
    inner = get_args(annotation)
    if _is_section(annotation):
        for name, field in annotation.model_fields.items():
            yield from _keys(field.annotation, f"{prefix}.{name}")
    elif get_origin(annotation) is dict:
        yield from _keys(inner[1], f"{prefix}.<name>")
    elif get_origin(annotation) is list and _is_section(inner[0]):
        yield from _keys(inner[0], f"{prefix}[]")
    else:
        yield prefix.removeprefix(".")


def _tables(value: object) -> object:
    """`value` with each model as the table it stands for."""
    if isinstance(value, BaseModel):
        return {name: _tables(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {name: _tables(item) for name, item in value.items()}
    return [_tables(item) for item in value] if isinstance(value, list) else value


def _shown(value: object) -> str:
    """One value as TOML writes it, a secret as stars, what is not set as a dash."""
    if value is None:
        return "-"
    if isinstance(value, timedelta):
        value = duration_text(value)
    return json.dumps(value, default=str)
