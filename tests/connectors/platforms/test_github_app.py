"""A GitHub App proves itself, and is given a token that opens one repository."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from connectors.platforms import github_app
from connectors.platforms.acting import Send
from connectors.platforms.asking import Reply
from models.records.calls import Refusal, Refused, Unavailable
from models.records.errors import ConfigError
from tests.connectors.platforms.acts import hold, says
from tests.connectors.platforms.calls import description

AT = 1_775_040_000.0
KEY = rsa.generate_private_key(65537, 2048)


def pem(key: Any, encryption: Any = None) -> bytes:
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    assert isinstance(text, bytes)
    return text


APP = github_app.app("Iv1.guard", pem(KEY))
GRANTED = {
    "token": "ghs" + "_canary",
    "expires_at": "2026-04-01T11:40:00Z",
    "permissions": {"actions": "write", "metadata": "read"},
    "repositories": [{"full_name": "acme/shop"}],
}


def _part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_assertion_is_signed_by_the_key_and_lives_for_less_than_ten_minutes() -> None:
    text = github_app.assertion(APP, AT)
    head, claims, signature = text.split(".")
    assert json.loads(_part(head)) == {"alg": "RS256", "typ": "JWT"}
    said = json.loads(_part(claims))
    assert said == {"iat": AT - 60, "exp": AT + 540, "iss": "Iv1.guard"}
    assert said["exp"] - said["iat"] <= 600
    KEY.public_key().verify(_part(signature), f"{head}.{claims}".encode(), PKCS1v15(), SHA256())
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(_part(signature), f"{head}.{claims}x".encode(), PKCS1v15(), SHA256())
    assert "=" not in text


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
        pem(KEY, BestAvailableEncryption(b"x")),
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(65537, 1024)),
    ],
    ids=["nothing", "garbage", "with a password", "of another kind", "too short"],
)
def test_what_is_no_key_is_a_fault_of_the_settings_and_is_not_told(key: bytes) -> None:
    with pytest.raises(ConfigError, match="GitHub App") as caught:
        github_app.app("1", key)
    assert "canary" not in str(caught.value)


def _held(answers: Any) -> Any:
    return hold(github_app.token(APP, "acme/shop", AT), answers)


def _answers(step: Send) -> Reply:
    return says(200, {"id": 77}) if step.method == "GET" else says(201, GRANTED)


def test_the_token_is_narrowed_to_one_repository_and_to_acting() -> None:
    held = _held(_answers)
    assert [(step.method, step.path) for step in held.sent] == [
        ("GET", "/repos/acme/shop/installation"),
        ("POST", "/app/installations/77/access_tokens"),
    ]
    assert json.loads(held.sent[1].body) == {
        "repositories": ["shop"],
        "permissions": {"actions": "write", "metadata": "read"},
    }
    given = held.ended
    assert given.value == GRANTED["token"]
    assert given.expires_at == datetime(2026, 4, 1, 11, 40, tzinfo=UTC)
    assert (given.repositories, github_app.missing(given)) == (("acme/shop",), [])
    assert "canary" not in repr(given)
    described = description.github()
    if described is not None:
        assert described.faults("POST", held.sent[1].path, held.sent[1].body) == []


def test_nothing_secret_shows() -> None:
    held = _held(_answers)
    proof = held.sent[0].headers["authorization"].removeprefix("Bearer ")
    assert proof not in repr(held.sent)
    assert "RSAPrivateKey" not in repr(APP)


def test_less_than_was_asked_for_is_noticed() -> None:
    less = {**GRANTED, "permissions": {"actions": "read", "metadata": "read"}}
    held = _held(lambda step: says(200, {"id": 77}) if step.method == "GET" else says(201, less))
    assert github_app.missing(held.ended) == ["actions=write"]
    more = {**GRANTED, "permissions": {"actions": "write", "metadata": "write"}}
    held = _held(lambda step: says(200, {"id": 77}) if step.method == "GET" else says(201, more))
    assert github_app.missing(held.ended) == []


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (says(404, {"message": "Not Found"}), Refused(Refusal.NOT_FOUND, "HTTP 404: Not Found")),
        (says(401), Refused(Refusal.LOGIN, "HTTP 401")),
        (says(422), Refused(Refusal.PERMISSION, "HTTP 422")),
        (says(500), Unavailable("HTTP 500")),
        (says(201, {**GRANTED, "token": "a\r\nb: c"}), Unavailable("token: it cannot stand in a header")),
        (says(201, b"<html>"), Unavailable("the body is not JSON in UTF-8, at character 0")),
    ],
    ids=lambda value: getattr(value, "status", None),
)
def test_every_other_answer_has_its_consequence(answer: Reply, ended: Any) -> None:
    assert _held(lambda step: says(200, {"id": 77}) if step.method == "GET" else answer).ended == ended
