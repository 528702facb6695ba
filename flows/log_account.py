"""What a log says of a failure, for people and for machines: the cause, how sure it is, and the lines that prove it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from analytics.account import Account
from analytics.logs.mask import mask
from analytics.logs.templates import Templates
from analytics.signatures.signature import Signature
from flows.tables import escape, facts, table
from models.records.evidence import Evidence, Line

_AROUND_LINES: Final = 6  # shown before and after the line that counts
_SHOWN_CHARACTERS: Final = 400  # of one line
_OTHERS: Final = 12
_LEAST_ALIKE: Final = 0.5
"""Less of a line in common with a cluster than this says nothing."""


class Other(msgspec.Struct, frozen=True):
    """A signature that matched and lost."""

    signature: str
    category: str
    line: int | None  # None where a fact of the webhook matched
    matched: str
    why: str  # it lost


class Nearest(msgspec.Struct, frozen=True):
    """The cluster of unknown failures that a line is most like."""

    template: str
    alike: float  # share of the words that agree
    count: int  # failures in it
    example: str


class LogAccount(msgspec.Struct, frozen=True, kw_only=True):
    """All that is told of one log. Line numbers are those of the log as the platform gave it, from 1."""

    log: str | None = None  # the file it was read from
    reading: str
    why: str | None
    diagnosis: str
    category: str | None
    signature: str | None
    confidence: float | None  # 0 to 1
    transient: bool | None
    hard_stop: bool | None
    cause: str | None
    fix: str | None
    owner: str | None
    action: str | None
    line: int | None
    matched: str | None
    captures: dict[str, str]
    seen_passing: bool
    exit_code: int | None
    excerpt: list[dict[str, Any]]  # number, text, and whether the last passing log lacks it
    others: list[Other]
    template: str | None
    nearest: Nearest | None
    log_lines: int
    log_bytes: int
    cut: bool
    compared: bool


Near = Callable[[str], Nearest | None]
"""Finds the cluster nearest to a masked line."""


def nowhere(_line: str) -> None:
    """What is known of clusters without a database."""


def near(templates: Templates) -> Near:
    """What finds the nearest of these clusters."""

    def find(line: str) -> Nearest | None:
        found = templates.nearest(line)
        if found is None or found[1] < _LEAST_ALIKE:
            return None
        cluster, alike = found
        return Nearest(cluster.template, round(alike, 3), cluster.count, cluster.example)

    return find


def told(account: Account, evidence: Evidence, *, log: str | None = None, near: Near = nowhere) -> LogAccount:
    """`account` in words."""
    proof = account.proof
    match, cause = proof.match, proof.cause
    explains = match.signature if match is not None and cause.signature is not None else None
    return LogAccount(
        log=log,
        reading=evidence.reading.value,
        why=evidence.why,
        diagnosis=cause.diagnosis,
        confidence=account.confidence,
        **_meaning(explains),
        line=match.number if match else None,
        matched=match.line if match else None,
        captures=dict(match.captures) if match else {},
        seen_passing=proof.seen_passing,
        exit_code=evidence.exit_code,
        excerpt=[line._asdict() for line in evidence.lines],
        others=[
            Other(it.signature.name, it.signature.category.value, it.number, it.line, why)
            for it, why, _ in account.others
        ],
        template=evidence.template,
        nearest=near(evidence.template) if explains is None and evidence.template else None,
        log_lines=evidence.log_lines,
        log_bytes=evidence.log_bytes,
        cut=evidence.cut,
        compared=evidence.compared,
    )


def _meaning(signature: Signature | None) -> dict[str, Any]:
    """What a signature says of the failures that it explains."""
    names = ("category", "transient", "hard_stop", "cause", "fix", "owner", "action")
    if signature is None:
        return dict.fromkeys((*names, "signature"))
    return {name: getattr(signature, name) for name in names} | {
        "signature": signature.name,
        "category": signature.category.value,
        "owner": signature.owner or None,
        "action": signature.action.value,
    }


# --- for a terminal


def shown(account: LogAccount, title: str) -> Iterator[RenderableType]:
    """`account` for a terminal."""
    yield facts(title, _facts(account))
    if account.excerpt:
        yield _context(account)
    if account.others:
        rows = [(it.signature, it.category, it.line, it.why) for it in account.others[:_OTHERS]]
        more = f", {_OTHERS} of {len(account.others)}" if len(account.others) > _OTHERS else ""
        yield table(f"also matched{more}", ("signature", "category", "#line", "why it lost"), rows)


def _facts(account: LogAccount) -> Iterator[tuple[str, object]]:
    if account.reading != "read":
        yield "log", f"{account.reading.replace('_', ' ')}: {account.why or 'no reason is known'}"
    yield "signature", account.signature or f"none ({account.diagnosis.replace('_', ' ')})"
    yield "category", account.category
    if account.signature is not None:
        yield "rerun", _rerun(account)
    yield "confidence", account.confidence
    yield "cause", account.cause
    yield "fix", account.fix
    yield "owner", account.owner
    yield "matched", account.matched if account.line is None else f"line {account.line}: {account.matched}"
    if account.seen_passing:
        yield "but", "the last passing log has this line too, so that it proves nothing"
    yield "captures", ", ".join(f"{name} = {value}" for name, value in account.captures.items()) or None
    yield "exit code", account.exit_code
    if account.signature is None:
        yield "masked line", account.template
    if account.nearest is not None:
        yield "nearest cluster", account.nearest.template
        yield "", f"{account.nearest.count} failures, {account.nearest.alike:.0%} of the words agree"
    if account.reading == "read":
        yield "read", _read(account)


def _rerun(account: LogAccount) -> str:
    if account.hard_stop:
        return "never: a hard stop, which outranks all else"
    return (
        "may pass: the cause is transient" if account.transient else "fails again: the cause stays until it is mended"
    )


def _read(account: LogAccount) -> str:
    compared = "compared with a passing log" if account.compared else "no passing log to compare with"
    return f"{account.log_lines:,} lines, {account.log_bytes:,} bytes{', cut' if account.cut else ''}; {compared}"


def _context(account: LogAccount) -> RenderableType:
    """The lines around the one that counts, with their numbers; where the excerpt leaves lines out there are dots."""
    made = Table.grid(padding=(0, 1))
    made.add_column(width=1)
    made.add_column(justify="right", no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    lines = [Line(**line) for line in account.excerpt]
    at = _place(lines, account)
    last = None
    for line in lines[max(at - _AROUND_LINES, 0) : at + _AROUND_LINES + 1]:
        if last is not None and line.number != last + 1:
            made.add_row("", "...", "")
        last = line.number
        is_it = line.number == lines[at].number
        mark = ">" if is_it else "+" if account.compared and line.new else ""
        made.add_row(mark, str(line.number), Text(_cut(escape(line.text)), style="bold" if is_it else ""))
    return made


def _place(lines: Sequence[Line], account: LogAccount) -> int:
    """Which of `lines` counts: the one that matched, else the one that stands for the failure, else the last."""
    for place, line in enumerate(lines):
        if line.number == account.line:
            return place
    if account.template:
        for place, line in enumerate(lines):
            if mask(line.text.strip()).startswith(account.template):
                return place
    return len(lines) - 1


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
