"""How well the shipped signatures explain real logs: `python -m benchmarks.quality [--logs FILE] [--out FOLDER]`.

Reads the shared data (GUARD_DATA, or ../shared/data beside the project), or any Parquet or CSV file with the columns
`log`, `repository`, `failing_chunk` and `cause` (the last two may be empty or absent), and writes quality.md and
quality.svg. A log goes the way that it goes live: normalised and cut down to an excerpt (analytics/logs), matched by
the catalogue (analytics/signatures), and nothing else is known of it.

The labels are *silver*: drafted by a machine and bulk-accepted. Where ours and theirs disagree, a reader's verdict
counts if there is one (adjudicated/*.csv); it holds for the signature that was judged, and no longer if another wins.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import re
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from analytics.logs.analyse import Analysis
from analytics.logs.normalise import normalise
from analytics.signatures.catalogue import Catalogue, Match, shipped
from benchmarks import quality_report
from models.records.evidence import Line
from models.records.outputs import Category

ADJUDICATED: Final = Path(__file__).parent / "adjudicated"
LAST_RESORT: Final = 25
"""Signatures of a lower priority only say that something failed: they name no cause, and do not count as covering."""

SILVER: Final[Mapping[Category, str]] = {
    Category.INFRASTRUCTURE: "infrastructure",
    Category.NETWORK: "infrastructure",
    Category.RESOURCES: "infrastructure",
    Category.TIMEOUT: "infrastructure",
    Category.DEPENDENCY: "dependency",
    Category.TEST: "test_assertion",
    Category.BUILD: "compilation",
    Category.AUTHENTICATION: "authentication",
    Category.CONFIGURATION: "other",
    Category.POLICY: "other",
    Category.DEPLOY: "other",
    Category.CANCELLED: "other",
}
"""Our categories as the six silver labels; "other" mixes lint, checks of documents and CI configuration."""

_CHUNK_BYTES: Final = 64 << 10
_SAMPLE: Final = 200
_SEED: Final = 20261126
_NOT_GENERAL: Final = re.compile(  # of log_fixtures: one project's own tools
    r"(dirty_checkout|distributed_test_wrapper|ghstack_|inductor_|lint|pr_|test_file_|unittest_)"
)
_COLOUR: Final = re.compile(r"\x1b?\[[0-9;?]*[A-Za-z]|\x1b")
_NO_LETTERS: Final = bytes(set(range(256)) - set(b"_./:" + string.ascii_letters.encode() + string.digits.encode()))
"""The marked chunks lost `<`, `&` and the ESC of colours on their way through XML, and blanks do not count."""
_OPEN, _CLOSE = "\u2039", "\u203a"  # what a marked line quotes stands between them
_QUOTED: Final = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}")


class Judged(NamedTuple):
    """One log, what it was labelled, and what the catalogue says of it."""

    key: str  # start of the digest of the raw log
    repository: str
    silver: str | None
    match: Match | None
    in_chunk: bool  # the line shown stands in the failing chunk
    chunk_kept: bool | None  # the excerpt holds the whole failing chunk; None where there is none
    log_bytes: int
    kept_bytes: int

    @property
    def named(self) -> str | None:
        """The signature, if it names a cause."""
        match = self.match
        return match.signature.name if match and match.signature.priority >= LAST_RESORT else None

    @property
    def ours(self) -> str | None:
        """The silver label that our category is counted as."""
        return SILVER[self.match.signature.category] if self.match and self.named else None


class Verdict(NamedTuple):
    """What a reader of the log said of one disagreement."""

    signature: str
    verdict: str  # ours, silver, both, neither; of docker builds: right, wrong, unknown
    reason: str


def main() -> None:
    """Judge, say what was found, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--logs", type=Path, help="a Parquet or CSV file; ci_logs of the shared data if not said")
    parser.add_argument("--out", type=Path, default=quality_report.DOCS, help="the folder of the page")
    parser.add_argument("--disagreements", action="store_true", help="only list them, for a reader")
    args = parser.parse_args()
    data = Path(os.environ.get("GUARD_DATA", "../shared/data"))
    catalogue = Catalogue(shipped())
    found = run(args.logs or data / "ci_logs.parquet", catalogue)
    if args.disagreements:
        print(*(f"{x.key} {x.repository} {x.silver} {x.named}" for x in disagreements(found["logs"])), sep="\n")
        return
    if args.logs is None:
        found |= {"fixtures": fixtures(data / "log_fixtures", catalogue)}
        found |= docker(data / "docker_build_failures.parquet", catalogue)
    quality_report.write(args.out, found, catalogue)


def run(path: Path, catalogue: Catalogue) -> dict[str, Any]:
    """All logs of the file at `path`, judged, with the time that it took."""
    rows = _rows(path)
    catalogue.check()
    begun = time.perf_counter()
    logs = [judged(row, catalogue) for row in rows]
    seconds = time.perf_counter() - begun
    return {
        "source": path.name,
        "logs": logs,
        "seconds": seconds,
        "find_bytes_per_second": speed(rows, catalogue),
        "verdicts": verdicts("ci_logs"),
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SystemExit(f"{path}: not there; GUARD_DATA says where the shared data is, --logs names another file")
    table = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    missing = {"log", "repository"} - set(table.columns)
    if missing:
        raise SystemExit(f"{path}: no column {', '.join(sorted(missing))}")
    return table.to_dicts()


def judged(row: Mapping[str, Any], catalogue: Catalogue) -> Judged:
    """One log, explained from its excerpt alone."""
    raw = str(row["log"] or "").encode()
    lines = excerpt(raw, catalogue)
    match = catalogue.match("jenkins", (), lines)
    chunk = str(row.get("failing_chunk") or "")
    kept = "\n".join(line.text for line in lines)
    return Judged(
        key=hashlib.sha256(raw).hexdigest()[:16],
        repository=row["repository"],
        silver=row.get("cause"),
        match=match,
        in_chunk=match is not None and _letters(match.line) in _letters(chunk),
        chunk_kept=_letters(chunk) in _letters(kept) if chunk.strip() else None,
        log_bytes=len(raw),
        kept_bytes=len(kept.encode()) + 1,
    )


def _letters(text: str) -> bytes:
    return _COLOUR.sub("", text).encode().translate(None, _NO_LETTERS)


def excerpt(raw: bytes, catalogue: Catalogue) -> tuple[Line, ...]:
    """The lines that a log reader would keep of a log that nothing is compared with."""
    analysis = Analysis(find=catalogue.find)
    for start in range(0, len(raw), _CHUNK_BYTES):
        analysis.feed(raw[start : start + _CHUNK_BYTES])
    return analysis.finish()["lines"]


def speed(rows: Sequence[Mapping[str, Any]], catalogue: Catalogue) -> float:
    """Bytes a second that `Catalogue.find` looks through, in normalised text of one core; the best of three rounds."""
    text = b"\n".join(normalise(str(row["log"]).encode()) for row in rows[::10])
    best = 0.0
    for _ in range(3):
        begun = time.perf_counter()
        catalogue.find(text)
        best = max(best, len(text) / (time.perf_counter() - begun))
    return best


def disagreements(logs: Iterable[Judged]) -> Iterator[Judged]:
    """Those that have a label and a cause of ours which is another."""
    return (log for log in logs if log.silver and log.ours and log.ours != log.silver)


def verdicts(name: str) -> dict[str, Verdict]:
    """What a reader said, by key of the log."""
    path = ADJUDICATED / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["key"]: Verdict(row["ours"], row["verdict"], row["reason"]) for row in csv.DictReader(file)}


def fixtures(folder: Path, catalogue: Catalogue) -> list[tuple[str, str | None, bool]]:
    """The general ones of log_fixtures: name, signature, and whether the marked line wins, or one that says the same:
    everything that is quoted in the marked line stands in it.
    """
    found = []
    for path in sorted(folder.glob("*.txt")):
        if _NOT_GENERAL.match(path.name):
            continue
        text = path.read_text("utf-8").split("\n", 1)[1]
        marked = next(line for line in text.split("\n") if "#=MATCH=#" in line)
        plain = text.replace("#=MATCH=# ", "").replace(_OPEN, "").replace(_CLOSE, "")
        match = catalogue.match("github", (), normalise(plain.encode()).decode())
        said = match is not None and all(
            normalise(quoted.encode()).decode().strip() in match.line for quoted in _QUOTED.findall(marked)
        )
        found.append((path.stem, match.signature.name if match else None, said))
    return found


def docker(path: Path, catalogue: Catalogue) -> dict[str, Any]:
    """Failing builds that a rerun would hardly ever mend: which of them are called worth one."""
    rows = _rows_of_docker(path)
    called = {}
    for index, text in enumerate(rows):
        match = catalogue.match("github", (), normalise(text.encode()).decode())
        if match is not None:
            called[index] = match
    sample = random.Random(_SEED).sample(range(len(rows)), _SAMPLE)
    return {
        "docker": called,
        "docker_rows": len(rows),
        "docker_sample": sample,
        "docker_verdicts": {int(key): verdict for key, verdict in verdicts("docker_build_failures").items()},
    }


def _rows_of_docker(path: Path) -> list[str]:
    table = pl.read_parquet(path, columns=["stdout_tail", "stderr_tail"])
    return [f"{out or ''}\n{err or ''}" for out, err in table.iter_rows()]


if __name__ == "__main__":
    main()
