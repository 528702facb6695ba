"""Every exception we raise on purpose; what may be done about it is in the type.

    GuardError
      InputError             theirs: a reject or a dead letter, never retried
        BadSignature           not proven to be from whom it says (401, nothing more is said)
        MalformedPayload       authentic, but not what the platform documents
        UnknownSchema          a kind, encoding or version that this release does not read
        BadChecksum            the bytes are not those that were written
      ConfigError            the operator's: names the key and what is wrong with it
      Unavailable            the world's: retry with exponential backoff and jitter
      Refused                someone said no for a reason that will not pass: record, do not retry

Anything else is our bug: crash, and resume from the snapshot.
"""

from __future__ import annotations


class GuardError(Exception):
    """Root of all that we raise on purpose."""


class InputError(GuardError):
    """What came in is wrong; the same bytes will be wrong again."""

    reason = "bad_input"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadSignature(InputError):
    """The delivery is not proven to come from the configured source."""

    reason = "bad_signature"


class MalformedPayload(InputError):
    """An authentic payload that does not hold what its platform documents."""

    reason = "malformed_payload"


class UnknownSchema(InputError):
    """An entry of a kind, encoding or version that this release does not read."""

    reason = "unknown_schema"


class BadChecksum(InputError):
    """An entry whose bytes are not those that its writer put there."""

    reason = "bad_checksum"


class ConfigError(GuardError):
    """A setting, rulebook or signature file is wrong; the message names the key."""


class Unavailable(GuardError):
    """Something outside is not there now. `retry_after` is in seconds, if the other side named it."""

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Refused(GuardError):
    """The other side said no, for a reason that will not pass by waiting."""
