"""What a platform file must answer. Bytes in, records out; no I/O, no clock, and no knowledge of its siblings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from connectors.platforms.acting import Acting, Looking, Talk
from connectors.platforms.asking import JobRun, Steps
from connectors.platforms.past import Hook, Recent, Undelivered
from connectors.platforms.rights import Asked
from models.records.calls import Call
from models.records.event import Event, PlatformName


@dataclass(frozen=True, slots=True)
class Request:
    """One delivery as it came: headers by lower-case name, the raw body, and the time it came (Unix seconds).

    `path_secret` is what stood behind the source in the address, if anything did.
    """

    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: float
    path_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Secret:
    """One active secret of a source and how it proves a delivery; two may be active while one is rotated."""

    kind: Literal["signature", "token", "signing_token", "basic", "path"]
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What opens a platform's API for us; its kind is one of the platform's `logins`."""

    kind: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Normalised:
    """What a delivery says: events, or none with the reason for which it is knowingly ignored."""

    events: Sequence[Event] = ()
    ignored: str | None = None


class Platform(ABC):
    """All that we know of one CI platform."""

    name: ClassVar[PlatformName]
    secret_kinds: ClassVar[frozenset[str]]  # the kinds of Secret that can prove a delivery of this platform
    content_types: ClassVar[frozenset[str]] = frozenset({"application/json"})

    api: ClassVar[str | None] = None  # where its API is, if nothing else is configured; None: there is no one place
    api_headers: ClassVar[Mapping[str, str]] = {}  # that go with everything we ask
    logins: ClassVar[frozenset[str]] = frozenset()  # the kinds of Credential that its API takes
    anonymous_logs: ClassVar[bool] = False  # whether a log may be had without one
    log_hosts: ClassVar[tuple[str, ...]] = ()  # hosts, and what ends in them, that its API sends us on to for a log
    most_reruns: ClassVar[int | None] = None  # that it allows of one run
    rerun_days: ClassVar[int | None] = None  # after which it runs nothing again

    @abstractmethod
    def verify(self, request: Request, secrets: Sequence[Secret]) -> int:
        """Prove over the raw body that `request` comes from the source; return the index of the secret that did.

        Raises:
            BadSignature: missing, malformed or wrong; a stronger proof that is present but wrong is never made good
                by a weaker one.
        """

    @abstractmethod
    def events(self, request: Request, instance: str) -> Normalised:
        """The events of an authentic delivery. `instance` is what the source is configured as.

        Raises:
            MalformedPayload: a field that the platform documents is missing or of the wrong form; it is named.
        """

    def login(self, credential: Credential) -> Mapping[str, str]:
        """The headers by which `credential`, of one of its `logins`, opens the API."""
        raise NotImplementedError

    def log(self, job: JobRun) -> Steps:
        """How the log of `job` is read; see connectors/platforms/asking.py.

        Raises:
            MalformedPayload: at the first step: an id that no address can be made of.
        """
        raise NotImplementedError

    def ask(self, call: Call) -> Acting | None:
        """How `call` is carried out, at most one thing that cannot be repeated in it; None where it cannot be.

        It is held as connectors/platforms/acting.py says; an id that no address can be made of ends it at once.
        """
        raise NotImplementedError

    def rights(self, repository: str, calls: Collection[str]) -> Asked:
        """What the credential lacks to do `calls` (the names that they have as JSON), as far as the platform tells.

        `repository` is one of those that it is to be done in.
        """
        raise NotImplementedError

    def look(self, call: Call) -> Looking:
        """How that stands which `call` is about: before it is carried out, and where nobody knows whether it was."""
        raise NotImplementedError

    def recent(self, repository: str, since: datetime, instance: str) -> Talk[Recent]:
        """What the webhooks of `repository` should have told after `since`, for a time of which nobody knows.

        Events have the ids that its deliveries would have given them; more of them than was asked for does no harm.
        """
        raise NotImplementedError

    def hook(self, name: str) -> Talk[Hook] | None:  # noqa: ARG002 - of those that can be asked
        """How the webhook stands that is called `name` at the platform; None where that is not told."""
        return None

    def undelivered(self, hook: str, since: str) -> Talk[Undelivered] | None:  # noqa: ARG002 - as above
        """What the webhook `hook` sent after `since` (ISO 8601), taken or not; None where that is not told."""
        return None

    def redeliver(self, hook: str, delivery_id: int) -> Acting | None:  # noqa: ARG002 - as above
        """How a delivery is asked for again; None where it cannot be."""
        return None
