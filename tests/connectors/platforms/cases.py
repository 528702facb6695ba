"""Deliveries of our own writing, after the platforms' pages: tests/fixtures/webhooks/<platform>/<case>.json.

Beside each stands what it becomes, <case>.golden.json. `GUARD_BLESS=1 pytest tests/contracts/test_platforms.py` writes
the goldens anew; read the difference before you commit it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Normalised, Request, Secret
from models.records.errors import MalformedPayload

ROOT = Path(__file__).parents[2] / "fixtures" / "webhooks"
RECEIVED_AT = 1_775_040_000.0
INSTANCE = "here"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Case:
    """One delivery and where its golden stands."""

    platform: str
    name: str
    headers: dict[str, str]
    body: Any
    golden: Path

    def request(self, body: Any = None) -> Request:
        """The delivery as it comes in, with another body where one is given."""
        return delivery(self.headers, self.body if body is None else body)


def delivery(headers: dict[str, str], body: Any) -> Request:
    raw = json.dumps(body).encode()
    if headers.get("Content-Type") == FORM:
        raw = urlencode({"payload": raw.decode()}).encode()
    return Request({name.lower(): value for name, value in headers.items()}, raw, RECEIVED_AT)


def _load() -> Iterator[Case]:
    for path in sorted(ROOT.glob("*/*.json")):
        if not path.name.endswith(".golden.json"):
            said = json.loads(path.read_text())
            name = path.name.removesuffix(".json")
            yield Case(path.parent.name, name, said["headers"], said["body"], path.with_name(f"{name}.golden.json"))


CASES = list(_load())
BY_NAME = {(case.platform, case.name): case for case in CASES}


def normalised(case: Case, body: Any = None) -> Normalised:
    return PLATFORMS[case.platform].events(case.request(body), INSTANCE)


def told(case: Case) -> dict[str, Any]:
    """What a delivery becomes, as the golden has it."""
    try:
        result = normalised(case)
    except MalformedPayload as error:
        return {"rejected": error.detail}
    if result.ignored is not None:
        return {"ignored": result.ignored}
    return {"events": msgspec.to_builtins(list(result.events))}


def event_of(platform: str, name: str, **changes: Any) -> Any:
    """The last event of a case, with some of its fields changed: `a__b=1` sets b in a."""
    case = BY_NAME[platform, name]
    body = json.loads(json.dumps(case.body))
    for path, value in changes.items():
        *outer, last = path.split("__")
        at = body
        for key in outer:
            at = at[key]
        at[last] = value
    return normalised(case, body).events[-1]


def sign_github(request: Request, value: str) -> Request:
    digest = hmac.new(value.encode(), request.body, hashlib.sha256).hexdigest()
    return _with(request, {"x-hub-signature-256": f"sha256={digest}"})


def sign_guard(request: Request, value: str) -> Request:
    digest = hmac.new(value.encode(), request.body, hashlib.sha256).hexdigest()
    return _with(request, {"x-guard-signature-256": f"sha256={digest}"})


def sign_circleci(request: Request, value: str) -> Request:
    digest = hmac.new(value.encode(), request.body, hashlib.sha256).hexdigest()
    return _with(request, {"circleci-signature": f"v1={digest}"})


def sign_gitlab(request: Request, value: str, *, at: float | None = None, identity: str = "msg_1") -> Request:
    stamp = str(int(request.received_at if at is None else at))
    message = f"{identity}.{stamp}.".encode() + request.body
    digest = hmac.new(base64.b64decode(value.removeprefix("whsec_")), message, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return _with(request, {"webhook-id": identity, "webhook-timestamp": stamp, "webhook-signature": signature})


def sign_token(request: Request, value: str) -> Request:
    return _with(request, {"x-gitlab-token": value})


def sign_basic(request: Request, value: str) -> Request:
    return _with(request, {"authorization": f"Basic {base64.b64encode(value.encode()).decode()}"})


def sign_path(request: Request, value: str) -> Request:
    return replace(request, path_secret=value)


def _with(request: Request, headers: dict[str, str]) -> Request:
    return replace(request, headers={**request.headers, **headers})


@dataclass(frozen=True)
class Proof:
    """One way to prove a delivery, with two secrets of its form and the header it stands in (None: in the path)."""

    platform: str
    kind: Any
    sign: Callable[[Request, str], Request]
    header: str | None
    values: tuple[str, str]
    covers_body: bool = True

    def secrets(self) -> list[Secret]:
        """Both secrets, active at once."""
        return [Secret(self.kind, value) for value in self.values]


def _key(seed: int) -> str:
    return "whsec_" + base64.b64encode(hashlib.sha256(bytes([seed])).digest()).decode()


PROOFS = [
    Proof("github", "signature", sign_github, "x-hub-signature-256", ("old horse", "new horse")),
    Proof("gitlab", "signing_token", sign_gitlab, "webhook-signature", (_key(1), _key(2))),
    Proof("gitlab", "token", sign_token, "x-gitlab-token", ("old horse", "new horse"), covers_body=False),
    Proof("jenkins", "signature", sign_guard, "x-guard-signature-256", ("old horse", "new horse")),
    Proof("jenkins", "basic", sign_basic, "authorization", ("ci:old horse", "ci:new horse"), covers_body=False),
    Proof("jenkins", "path", sign_path, None, ("old-horse", "new-horse"), covers_body=False),
    Proof("circleci", "signature", sign_circleci, "circleci-signature", ("old horse", "new horse")),
]
