"""Which signatures earn their place: hits, and what is wrong with those that have none or hit passing logs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

import msgspec
from rich.console import RenderableType

from analytics.signatures.signature import Signature
from connectors.diagnoses import SignatureHits
from flows.tables import table

DAYS: Final = 30  # that the view guard.signature_hits counts


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One signature, counted over the last 30 days."""

    signature: str
    category: str | None
    hits: int
    hits_by_log: int
    passing_hits: int
    repositories: int
    last_hit: datetime | None
    flags: list[str]


def standings(
    signatures: Iterable[Signature], hits: Iterable[SignatureHits], *, oldest: datetime | None, at: datetime
) -> list[Standing]:
    """Every signature of the rulebook, and those that have hits and are no longer in it; the most hits first.

    `oldest` is since when failures are known: before 30 days are over, no signature is called idle.
    """
    known = {it.signature: it for it in hits}
    categories = {signature.name: signature.category.value for signature in signatures}
    long_enough = oldest is not None and at - oldest >= timedelta(days=DAYS)
    made = [
        _standing(name, categories.get(name), known.get(name), long_enough=long_enough)
        for name in {**categories, **known}
    ]
    return sorted(made, key=lambda it: (-it.hits, it.signature))


def _standing(name: str, category: str | None, hits: SignatureHits | None, *, long_enough: bool) -> Standing:
    found = hits or SignatureHits(name, category, 0, 0, 0, 0, None)
    flags = []
    if category is None:
        flags.append("not in the rulebook")
    elif long_enough and not found.hits:
        flags.append(f"no hit for {DAYS} days")
    if found.passing_hits:
        flags.append("hits passing logs")
    return Standing(**(found._asdict() | {"category": category or found.category}), flags=flags)


def shown(standings: Iterable[Standing]) -> Iterator[RenderableType]:
    """`standings` for a terminal."""
    columns = ("signature", "category", "#hits", "#by log", "#passing", "#repositories", "last hit", "flags")
    rows = [
        (
            *(it.signature, it.category, it.hits, it.hits_by_log, it.passing_hits, it.repositories, it.last_hit),
            ", ".join(it.flags) or None,
        )
        for it in standings
    ]
    yield table(f"signatures, hits of the last {DAYS} days", columns, rows)
