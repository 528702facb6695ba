"""Whether a delivery is proven by one of a source's secrets: as bytes, in constant time, and always by all of them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

from connectors.platforms.platform import Request, Secret
from models.records.errors import BadSignature


def header(request: Request, name: str) -> bytes | None:
    """The value of a header as bytes, None where it is absent. hmac.compare_digest raises on text beyond ASCII."""
    value = request.headers.get(name)
    return None if value is None else value.encode("utf-8", "surrogatepass")


def hmac_sha256(key: bytes, body: bytes) -> bytes:
    """HMAC-SHA256 of `body`."""
    return hmac.digest(key, body, hashlib.sha256)


def hex_hmac(body: bytes, prefix: bytes = b"") -> Callable[[bytes], bytes]:
    """What a sender that holds a key writes: `prefix` and the lower-case hexadecimal HMAC-SHA256 of `body`."""
    return lambda key: prefix + hmac_sha256(key, body).hex().encode()


def has(secrets: Iterable[Secret], kind: str) -> bool:
    """Whether a secret of this kind is configured."""
    return any(secret.kind == kind for secret in secrets)


def prove(
    secrets: Sequence[Secret],
    kind: str,
    given: Iterable[bytes],
    expected: Callable[[bytes], bytes | None],
) -> int:
    """The index of the first secret of `kind` for which one of the `given` values is the `expected` one.

    An empty secret proves nothing, nor does one for which nothing can be expected (None: it is no key of this scheme).

    Raises:
        BadSignature: no secret did.
    """
    values = list(given)
    proven: list[int] = []
    for index, secret in enumerate(secrets):
        if secret.kind != kind or not secret.value:
            continue
        right = expected(secret.value.encode("utf-8", "surrogatepass"))
        equal = [hmac.compare_digest(right or b"", value) for value in values]
        if right and any(equal):
            proven.append(index)
    if not proven:
        raise BadSignature(f"no {kind} secret of the source proves it")
    return proven[0]
