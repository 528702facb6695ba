"""Failures that no signature explains: what they have in common, and drafts of the signatures they lack.

They are mined anew whenever somebody asks, from the masked lines counted by PostgreSQL: nothing is kept that could be
stale. 10^5 failures with 3 * 10^4 different lines, far more than real ones have, take 3 to 6 seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Final

import msgspec
import numpy as np

from analytics.logs.mask import MASKED, masked_hashes
from analytics.logs.passing import PassingIndex
from analytics.logs.templates import Cluster, Templates, draft
from analytics.signatures.catalogue import Catalogue, read
from connectors.diagnoses import Excerpt, UnknownLine, excerpts, passing_indexes, unknown_lines
from connectors.postgres import Connection
from flows import servers
from flows.log_account import Near, Nearest, near
from flows.settings import Settings
from flows.tables import escape

RECENT: Final = timedelta(days=30)
MOST_EXCERPTS: Final = 2000
MOST_PASSING: Final = 500
_MOST_LINES: Final = 2000  # of failed logs, that are looked for in passing ones
_REPOSITORIES: Final = 5


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster of unknown failures. Hits are those of the draft, in the newest logs that were looked at."""

    template: str
    count: int
    repositories: list[str]
    example: str
    draft: str | None  # a signature in TOML; None where the lines have too little in common
    failed_hits: int
    explained_hits: int  # of failed_hits, those that a signature explains already
    passing_hits: int


class Clusters(msgspec.Struct, frozen=True, kw_only=True):
    """The largest clusters, and how many logs their drafts were tried on."""

    days: int
    unknown_failures: int
    failed_logs: int
    passing_logs: int
    clusters: list[Unknown]


def mined(lines: Iterable[UnknownLine]) -> Templates:
    """The clusters of these lines."""
    templates = Templates()
    templates.add_counts({line.template: line.failures for line in lines})
    return templates


def nearest(settings: Settings) -> Near:
    """What finds the nearest cluster of recent unknown failures; PostgreSQL is asked once, when it is first needed."""

    @cache
    def find() -> Near:
        with servers.database(settings) as connection:
            return near(mined(unknown_lines(connection, servers.ago(RECENT))))

    def found(line: str) -> Nearest | None:
        return find()(line)

    return found


def clusters(connection: Connection, since: datetime, *, days: int, most: int) -> Clusters:
    """The `most` largest clusters of failures received since then, with drafts, and what those would hit."""
    lines = unknown_lines(connection, since)
    largest = mined(lines).clusters()[:most]
    words = [(line.template.split(), line) for line in lines]
    drafts = {cluster.name: draft(cluster) for cluster in largest}
    trial = _Trial(text for text in drafts.values() if text)
    for excerpt in excerpts(connection, since, most=MOST_EXCERPTS):
        trial.failed(excerpt)
    for index in passing_indexes(connection, most=MOST_PASSING):
        trial.passed(index)
    return Clusters(
        days=days,
        unknown_failures=sum(line.failures for line in lines),
        failed_logs=trial.failed_logs,
        passing_logs=trial.passing_logs,
        clusters=[
            Unknown(
                template=cluster.template,
                count=cluster.count,
                repositories=_repositories(cluster, words),
                example=cluster.example,
                draft=drafts[cluster.name],
                failed_hits=trial.failed_hits[name := f"draft_{cluster.name}"],
                explained_hits=trial.explained_hits[name],
                passing_hits=trial.passing_hits[name],
            )
            for cluster in largest
        ],
    )


def _repositories(cluster: Cluster, lines: Iterable[tuple[list[str], UnknownLine]]) -> list[str]:
    """Where its template was seen."""
    return sorted({name for words, line in lines if _covers(cluster.words, words) for name in line.repositories})


def _covers(template: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a template is that of a line of these words; the last word of a template may stand for many."""
    alike = len(template) == len(words) or (len(template) < len(words) and template[-1] == MASKED)
    return alike and all(a in {b, MASKED} for a, b in zip(template, words, strict=False))


class _Trial:
    """Drafts, tried on logs.

    Of a passing log only the hashes of its masked lines are known. So it is a hit if it has a line that some failed
    log has and a draft matches; lines that only passing logs have cannot be found, and hits are rather too few.
    """

    def __init__(self, drafts: Iterable[str]) -> None:
        self._catalogue = Catalogue(read("drafts", "\n".join(drafts)))
        self._matched: dict[str, set[str]] = defaultdict(set)
        self.failed_logs = self.passing_logs = 0
        self.failed_hits: Counter[str] = Counter()
        self.explained_hits: Counter[str] = Counter()
        self.passing_hits: Counter[str] = Counter()

    def failed(self, excerpt: Excerpt) -> None:
        """Try the drafts on what was kept of a failed log."""
        self.failed_logs += 1
        lines = [(number, text) for number, text, _ in excerpt.lines]
        explanation = self._catalogue.explain("", (), lines or None)
        matches = [explanation.winner, *(loser.match for loser in explanation.losers)]
        for match in filter(None, matches):
            name = match.signature.name
            self.failed_hits[name] += 1
            self.explained_hits[name] += excerpt.signature is not None
            if len(self._matched[name]) < _MOST_LINES:
                self._matched[name].add(match.line)

    def passed(self, index: bytes) -> None:
        """Look in a passing log for the lines that the drafts matched."""
        passing = PassingIndex.from_bytes(index)
        if passing is None:
            return
        self.passing_logs += 1
        for name, hashes in self._hashes().items():
            self.passing_hits[name] += bool(passing.contains(hashes).any())

    @cache  # noqa: B019 - a trial is as short as its cache
    def _hashes(self) -> dict[str, np.ndarray]:
        return {
            name: masked_hashes(("\n".join(sorted(lines)) + "\n").encode()) for name, lines in self._matched.items()
        }


def written(found: Clusters) -> str:
    """`found` as a file of signatures, to be completed by hand; all else in it is comments."""
    head = [
        f"{found.unknown_failures:,} failures of the last {found.days} days that no signature explains.",
        f"Drafts were tried on the newest {found.failed_logs:,} failed logs and {found.passing_logs:,} passing ones.",
    ]
    return "\n\n".join(["\n".join(f"# {line}" for line in head), *map(_cluster, found.clusters)])


def _cluster(it: Unknown) -> str:
    more = len(it.repositories) - _REPOSITORIES
    named = ", ".join(it.repositories[:_REPOSITORIES]) + (f" and {more} more" if more > 0 else "")
    lines = [
        f"{it.count:,} failures in {named or 'no repository that is known'}",
        f"template: {it.template}",
        f"example: {it.example}",
    ]
    if it.draft is None:
        return "\n".join(f"# {escape(line)}" for line in [*lines, "no draft: the lines have too little in common"])
    lines.append(
        f"the draft hits {it.failed_hits:,} failed logs, of which a signature explains {it.explained_hits:,},"
        f" and {it.passing_hits:,} passing ones" + (": NOT FIT, it hits logs that passed" if it.passing_hits else "")
    )
    return "\n".join([*(f"# {escape(line)}" for line in lines), *map(escape, it.draft.rstrip().split("\n"))])
