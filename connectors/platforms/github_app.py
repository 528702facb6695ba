"""A GitHub App as our credential: it proves itself by a signature, and is given a token for an hour.

The token is narrowed to one repository and to what is to be done there: one that leaks opens nothing else. As
everywhere here nothing is sent; the requests carry their own authorisation, so the client that sends them has none.
The signature is RS256, made by `cryptography`: PyJWT would need that too, and all it adds is three lines of base64.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connectors.platforms.acting import JSON, Asking, Send, Stop, Talk, answered, conversation, encoded, words
from connectors.platforms.asking import Reply, number, segments
from connectors.platforms.calls.github import NEEDS, judge, repository
from connectors.platforms.reading import Fields
from connectors.platforms.rights import READ, Asked, Rights, lacking, needed
from models.records.calls import Refusal, Refused
from models.records.errors import ConfigError, MalformedPayload

ACTING: Final[Mapping[str, str]] = {"actions": "write", "metadata": "read"}
"""What rerunning, cancelling and reading runs needs; what else is wanted is named by GitHub's NEEDS."""

_ACCEPT: Final = {"accept": "application/vnd.github+json"}
_SKEW_SECONDS: Final = 60
_LIVES_SECONDS: Final = 540  # GitHub takes none that lives for more than ten minutes
_LEAST_BITS: Final = 2048
_TOO_LITTLE: Final = 422


@dataclass(frozen=True, slots=True)
class App:
    """A GitHub App: its id, or client id, and its private key."""

    id: str
    key: RSAPrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an installation, and what it opens."""

    value: str = field(repr=False)
    expires_at: datetime
    permissions: Mapping[str, str]
    repositories: tuple[str, ...]


def app(identity: str, pem: bytes) -> App:
    """The App `identity` with its private key as GitHub gave it.

    Raises:
        ConfigError: it is no such key; nothing of it is told.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            "the private key of the GitHub App cannot be read: PEM without a password was expected"
        ) from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _LEAST_BITS:
        raise ConfigError(f"the private key of the GitHub App is no RSA key of at least {_LEAST_BITS} bits")
    return App(identity, key)


def assertion(of: App, at: float) -> str:
    """What proves at `at` (Unix seconds) that we are the App, for some minutes.

    https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app
    """
    claims = {"iat": int(at) - _SKEW_SECONDS, "exp": int(at) + _LIVES_SECONDS, "iss": of.id}
    signed = b".".join(_base64(msgspec.json.encode(part)) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    return b".".join((signed, _base64(of.key.sign(signed, PKCS1v15(), SHA256())))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def itself(of: App, at: float) -> dict[str, str]:
    """The headers of a request that the App makes as itself."""
    return {**_ACCEPT, "authorization": f"Bearer {assertion(of, at)}"}


def token(of: App, name: str, at: float, permissions: Mapping[str, str] = ACTING) -> Talk[Token]:
    """A token that opens the repository `name`, or the organisation `name`, for `permissions` and nothing else.

    https://docs.github.com/en/rest/apps/apps#get-a-repository-installation-for-the-authenticated-app
    https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app: 422 where the App itself
    has less than is asked for.
    """
    return conversation(_token(of, name, at, permissions), _judge)


def _judge(reply: Reply) -> Stop | None:
    return Refused(Refusal.PERMISSION, words(reply)) if reply.status == _TOO_LITTLE else judge(reply)


def _token(of: App, name: str, at: float, permissions: Mapping[str, str]) -> Asking[Token]:
    headers = itself(of, at)
    owner, _, one = name.partition("/")
    where = repository(name) if one else f"/orgs/{segments(owner, 'organisation', most=1)[0]}"
    installation = answered((yield Send("GET", f"{where}/installation", headers)))
    path = f"/app/installations/{number(installation.identity('id'), 'installation_id')}/access_tokens"
    narrowed = {"repositories": [one]} if one else {}
    body = encoded(**narrowed, permissions=dict(permissions))
    said = answered((yield Send("POST", path, {**headers, **JSON}, body)))
    value = said.text("token", None)
    if value is None or not (value.isascii() and value.isprintable() and " " not in value):
        raise MalformedPayload("token: it cannot stand in a header")
    granted = said.inner("permissions")
    kept = {one: granted.text(one) or "" for one in permissions if granted.text(one) is not None}
    return Token(value, said.first_time("expires_at"), kept, _names(said))


def permissions(calls: Collection[str]) -> dict[str, str]:
    """The permissions of a token for `calls` (the names that they have as JSON) and for reading runs."""
    wanted = sorted(needed(NEEDS, (READ, *calls)))  # read before write, which is kept
    return {"metadata": "read", **dict(one.split("=") for one in wanted)}


def rights(of: App, name: str, at: float, calls: Collection[str]) -> Asked:
    """What the App was not allowed of what `calls` need, where it is installed for the repository `name`."""
    return conversation(_rights(of, name, at, permissions(calls)), judge)


def _rights(of: App, name: str, at: float, wanted: Mapping[str, str]) -> Asking[Rights]:
    headers = itself(of, at)
    installation = answered((yield Send("GET", f"{repository(name)}/installation", headers)))
    granted = installation.inner("permissions")
    held = [f"{one}={granted.text(one)}" for one in wanted if granted.text(one) is not None]
    asked = [f"{one}={level}" for one, level in wanted.items()]
    who = installation.text("app_slug", None)
    return Rights(who, tuple(lacking(asked, held, implied={f"{one}=write": (f"{one}=read",) for one in wanted})))


def _names(said: Fields) -> tuple[str, ...]:
    return tuple(one.identity("full_name") for one in said.each("repositories"))


def missing(given: Token, permissions: Mapping[str, str] = ACTING) -> list[str]:
    """What of `permissions` a token was not given, as GitHub's NEEDS has it: `actions=write`."""
    wanted = [f"{name}={level}" for name, level in permissions.items()]
    held = [f"{name}={level}" for name, level in given.permissions.items()]
    return lacking(wanted, held, implied={f"{name}=write": (f"{name}=read",) for name in given.permissions})
