"""A full account of one failure: what explains it, what else matched and why it lost, and how sure that is.

The shard only needs `prove`; people ask for the rest, so it is worked out when they do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from analytics.proof import Proof, prove
from analytics.signatures.catalogue import Catalogue, Explanation, Match, Signature, Why
from models.records.evidence import Evidence
from models.records.outputs import Category

SEEN: Final = "the last passing log has its line too"
_ABLE: Final = frozenset({Why.HARD_STOP, Why.PRIORITY, Why.EARLIER})
"""Why a signature lost that would explain the failure if it stood alone."""

# How often the category agreed with the silver label of ../shared/data/ci_logs, the mean over repositories; none of
# those logs could be compared with a passing one. Measured by `python -m benchmarks.confidence`.
_ALONE: Final = 0.93
_CONTESTED: Final = 0.8  # another category matched too, though less strongly
_LAST_RESORT: Final = 0.2
LAST_RESORT_PRIORITY: Final = 25
_DOUBT_LEFT: Final = 0.5  # a judgement: a line that no passing log has is wrong half as often


class Other(NamedTuple):
    """A signature that matched and does not explain the failure, and why not."""

    match: Match
    why: str
    able: bool  # it would explain the failure if nothing else did


class Account(NamedTuple):
    """The proof, what lost against it, the strongest first, and the chance that the cause is the true one."""

    proof: Proof
    others: tuple[Other, ...]
    confidence: float | None  # 0 to 1; None where nothing explains the failure


def account(catalogue: Catalogue, platform: str, facts: tuple[str, ...], evidence: Evidence) -> Account:
    """All there is to say of a failure whose log showed `evidence`."""
    proof = prove(catalogue, platform, facts, evidence)
    whole = catalogue.explain(platform, facts, evidence.lines or None)
    others = _losers(whole)
    if proof.discarded is not None:
        new = [line for line in evidence.lines if line.new]
        others = _losers(catalogue.explain(platform, facts, new or None))
        named = {it.match.signature.name for it in others} | {proof.cause.signature}
        others += [it for it in _seen(whole) if it.match.signature.name not in named]
    if proof.match is None or proof.cause.signature is None:
        return Account(proof, tuple(others), None)
    rivals = {it.match.signature.category for it in others if it.able and not _is_last_resort(it.match.signature)}
    proven = evidence.compared or proof.match.number is None
    sure = confidence(proof.match.signature, rivals, proven=proven)
    return Account(proof, tuple(others), sure)


def confidence(signature: Signature, rivals: Collection[Category], *, proven: bool) -> float:
    """The chance that `signature` names the kind of cause that a person would.

    `rivals` are the categories of the others that name a cause and would explain the failure if they stood alone.
    `proven` says that more than a match speaks for it: the last passing log was there to compare with and lacks the
    line, or it is the platform itself that says so. A signature of the last resort (of a priority below 25) only says
    that something failed, which is true and explains little, new or not.
    """
    if _is_last_resort(signature):
        return _LAST_RESORT
    sure = _CONTESTED if set(rivals) - {signature.category} else _ALONE
    return round(1 - (1 - sure) * (_DOUBT_LEFT if proven else 1), 3)


def _is_last_resort(signature: Signature) -> bool:
    return signature.priority < LAST_RESORT_PRIORITY


def _losers(explanation: Explanation) -> list[Other]:
    return [Other(match, why.value, why in _ABLE) for match, why in explanation.losers]


def _seen(whole: Explanation) -> Iterable[Other]:
    """All that matched, where the lines that proved it are not new."""
    if whole.winner is not None:
        yield Other(whole.winner, SEEN, able=False)
    for match, why in whole.losers:
        yield Other(match, SEEN if why in _ABLE else why.value, able=False)
