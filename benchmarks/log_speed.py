"""How fast logs are read on one core, and that no input makes it super-linear.

    python -m benchmarks.log_speed [--megabytes 60] [--rounds 3]

Reads ci_logs.parquet of the shared data (GUARD_DATA, or ../shared/data beside the project), or seeded logs of its own
where that is absent; the line says which. All subjects read the same bytes in turn, round by round; the best round of
each counts, and Python's `re` gets a tenth of a megabyte, since it needs seconds for it.

    normalise             bytes to text
    normalise_and_match   and the text patterns of the shipped signatures, all in one Hyperscan pass over each block
    match_re2_set         the same patterns as one RE2 set, over text that is already normalised: which of them match
    match_re2_set_by_line and in which lines
    match_python_re       the same patterns, each with Python's `re`, line by line over the same text
    analyse               all of the analysis of a failed log, with signatures; and compared with a passing one
    index_passing         what is remembered of a passing log
    redact                connectors/redaction.py on the text

Then what is hard on a reader of logs, at 1, 2 and 4 MB: `growth` is the time for 4 MB over twice that for 2 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import hyperscan
import polars as pl
import re2

from analytics.logs.analyse import Analysis
from analytics.logs.normalise import Normaliser, normalise
from analytics.logs.passing import PassingIndex, PassingIndexing
from analytics.signatures.catalogue import shipped
from connectors.redaction import Redactor

_MEGABYTE: Final = 1_000_000
_CHUNK_BYTES: Final = 64 << 10
_KEY: Final = b"a key of the benchmark, any will do"
_NESTED: Final = (r"(a+)+b", r"(\w+\s*)*!", r"((x|y)*z)*Q", r"(.*,)*\d+;$")  # what a user may write
_WORDS: Final = [
    "building",
    "linking",
    "test",
    "passed",
    "in",
    "ms",
    "src",
    "main",
    "error",
    "warning",
    "module",
    "cache",
    "fetch",
    "done",
    "of",
    "the",
]


class Logs(NamedTuple):
    """Some logs, and where they are from."""

    origin: str
    raw: list[bytes]

    @property
    def megabytes(self) -> float:
        """How long they are together."""
        return sum(map(len, self.raw)) / _MEGABYTE


def logs(megabytes: float, seed: int) -> Logs:
    """Logs of about so many megabytes, the same for the same seed."""
    path = Path(os.environ.get("GUARD_DATA", "../shared/data")) / "ci_logs.parquet"
    real = path.is_file()
    taken: list[bytes] = []
    for raw in _real(path, seed) if real else map(_synthetic, count(seed)):
        taken.append(raw)
        if sum(map(len, taken)) >= megabytes * _MEGABYTE:
            break
    return Logs("ci_logs" if real else "synthetic", taken)


def _real(path: Path, seed: int) -> list[bytes]:
    found = [log.encode() for log in pl.read_parquet(path, columns=["log"])["log"]]
    random.Random(seed).shuffle(found)
    return found


def _synthetic(seed: int) -> bytes:
    """A log as GitHub gives it: stamps, some colours, a bar, an error and an exit code."""
    dice = random.Random(seed)
    lines = []
    for number in range(4000):
        words = " ".join(dice.choices(_WORDS, k=dice.randint(3, 14)))
        colour = "%s" if dice.randrange(5) else "\x1b[32m%s\x1b[0m"
        bar = "" if dice.randrange(100) else "".join(f"{percent} %\r" for percent in range(0, 100, 10))
        lines.append(f"2024-05-01T12:{number // 60 % 60:02}:{number % 60:02}.1234567Z {bar}{colour % words} {number}")
    lines.append("2024-05-01T13:10:00.1234567Z src/main.c:12:5: error: expected ';' before 'return'")
    lines.append("2024-05-01T13:10:01.1234567Z ##[error]Process completed with exit code 2.")
    return "\r\n".join(lines).encode()


class Patterns:
    """Patterns as each matcher takes them."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = patterns
        options = re2.Options()
        options.max_mem = 256 << 20
        options.log_errors = False
        self._re2 = re2.Set.SearchSet(options)
        for pattern in patterns:
            self._re2.Add(f"(?m){pattern}")
        self._re2.Compile()
        self._python = [re.compile(pattern.encode()) for pattern in patterns]
        self._hyperscan = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        self._hyperscan.compile(
            expressions=[pattern.encode() for pattern in patterns],
            ids=list(range(len(patterns))),
            flags=[hyperscan.HS_FLAG_MULTILINE] * len(patterns),
        )
        self._scratch = hyperscan.Scratch(self._hyperscan)

    def find(self, text: bytes) -> list[int]:
        """Where the lines begin that some pattern matches, in one pass over the text."""
        starts: set[int] = set()

        def add(_pattern: int, _start: int, end: int, *_: object) -> None:
            starts.add(text.rfind(b"\n", 0, max(end - 1, 0)) + 1)

        self._hyperscan.scan(text, add, scratch=self._scratch)
        return sorted(starts)

    def which(self, text: bytes) -> list[int]:
        """Which patterns match somewhere, by RE2."""
        return sorted(self._re2.Match(text) or ())

    def re2_lines(self, text: bytes) -> int:
        """How many lines RE2 finds."""
        return sum(bool(self._re2.Match(line)) for line in text.split(b"\n"))

    def python_lines(self, text: bytes) -> int:
        """How many lines Python finds."""
        return sum(any(pattern.search(line) for pattern in self._python) for line in text.split(b"\n"))


def chunks(raw: bytes) -> Iterator[bytes]:
    """A log as it comes from a connection."""
    return (raw[at : at + _CHUNK_BYTES] for at in range(0, len(raw), _CHUNK_BYTES))


def normalised_and_matched(raw: bytes, find: Callable[[bytes], Iterable[int]]) -> None:
    """Read a log, and match each block of its text."""
    normaliser = Normaliser()
    for chunk in chunks(raw):
        for block in normaliser.feed(chunk):
            find(block.text)
    for block in normaliser.finish():
        find(block.text)


def analysed(raw: bytes, find: Callable[[bytes], Iterable[int]], passing: PassingIndex | None = None) -> None:
    """Analyse a failed log."""
    analysis = Analysis(find=find, passing=passing)
    for chunk in chunks(raw):
        analysis.feed(chunk)
    analysis.finish()


def indexed(raw: bytes) -> PassingIndex:
    """Index a passing log."""
    indexing = PassingIndexing()
    for chunk in chunks(raw):
        indexing.feed(chunk)
    return indexing.finish()


def _subjects(found: Logs) -> dict[str, tuple[Callable[[bytes], object], list[bytes]]]:
    """Each subject: what is done to one log, and to which."""
    patterns = Patterns([pattern for signature in shipped() for pattern in signature.text])
    redactor = Redactor(_KEY)
    texts = [normalise(raw) for raw in found.raw]
    passing = indexed(b"\n".join(found.raw[len(found.raw) // 2 :]))
    little = [b"\n".join(texts)[: _MEGABYTE // 10]]
    return {
        "normalise": (normalise, found.raw),
        "normalise_and_match": (lambda raw: normalised_and_matched(raw, patterns.find), found.raw),
        "match_re2_set": (patterns.which, texts),
        "match_re2_set_by_line": (patterns.re2_lines, texts),
        "match_python_re": (patterns.python_lines, little),
        "analyse": (lambda raw: analysed(raw, patterns.find), found.raw),
        "analyse_compared": (lambda raw: analysed(raw, patterns.find, passing), found.raw),
        "index_passing": (indexed, found.raw),
        "redact": (redactor.redact_bytes, texts),
    }


def speeds(found: Logs, rounds: int) -> Iterator[dict[str, Any]]:
    """A line of each subject."""
    subjects = _subjects(found)
    best = dict.fromkeys(subjects, float("inf"))
    for work, inputs in subjects.values():
        work(inputs[0])  # what is compiled at first use
    for _ in range(rounds):
        for name, (work, inputs) in subjects.items():
            best[name] = min(best[name], _seconds(work, inputs))
    for name, (_, inputs) in subjects.items():
        megabytes = sum(map(len, inputs)) / _MEGABYTE
        yield {
            "case": "log_speed",
            "subject": name,
            "megabytes_per_second": round(megabytes / best[name], 2),
            "megabytes": round(megabytes, 2),
            "logs": len(inputs),
            "rounds": rounds,
            "data": found.origin,
        }


def hard_inputs(seed: int) -> dict[str, Callable[[int], bytes]]:
    """What is hard on readers of logs, as functions of a size in bytes."""
    dice = random.Random(seed)

    def repeated(piece: bytes) -> Callable[[int], bytes]:
        return lambda size: piece * (size // len(piece))

    return {
        "one_line": repeated(b"a word "),
        "one_line_without_blanks": repeated(b"a"),
        "lines_of_a_megabyte": lambda size: (b"ab, " * 250_000 + b"\n") * (size // _MEGABYTE),
        "no_line_break_but_cr": repeated(b"10 %\r"),
        "backspaces": repeated(b"a\b\b\b"),
        "escapes": repeated(b"\x1b[31"),
        "titles_without_end": repeated(b"\x1b]0;"),
        "stamps": repeated(b"2024-05-01T12:00:00.1Z "),
        "binary": dice.randbytes,
        "zeros": repeated(b"\0"),
        "broken_utf_8": repeated(b"\xe9\n"),
        "every_line_an_error": repeated(b"error: it failed with an exception in x.c:12:3: error: y\n"),
        "every_line_a_section": repeated(b"FAIL: test_x (a)\n  1) expected: 3\n"),
        "secrets": repeated(b"password=" + b"hunter2 by ada@example.org\n"),
        "open_quotes": repeated(b'token="\\"'),
        "empty_lines": repeated(b"\n"),
    }


def linear(seed: int, megabytes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """For each hard input a line with the seconds of each stage at each size, and how they grow."""
    redactor = Redactor(_KEY)
    nested = Patterns(_NESTED)
    stages: dict[str, Callable[[bytes], object]] = {
        "normalise": normalise,
        "match_nested": lambda raw: normalised_and_matched(raw, nested.find),
        "analyse": lambda raw: analysed(raw, nested.find, indexed(b"one line\n")),
        "redact": redactor.redact_bytes,
    }
    for name, make in hard_inputs(seed).items():
        inputs = [make(size * _MEGABYTE) for size in megabytes]
        for stage, work in stages.items():
            seconds = [min(_seconds(work, [data]) for _ in range(2)) for data in inputs]
            yield {
                "case": "log_growth",
                "subject": f"{name}/{stage}",
                "seconds": [round(value, 4) for value in seconds],
                "growth": round(seconds[-1] / seconds[-2:][0] * megabytes[-2:][0] / megabytes[-1], 2),
                "megabytes_per_second": round(megabytes[-1] / seconds[-1], 2),
            }


def _seconds(work: Callable[[bytes], object], inputs: Iterable[bytes]) -> float:
    begun = time.perf_counter()
    for data in inputs:
        work(data)
    return time.perf_counter() - begun


def main() -> None:
    """Measure on one core, and print one JSON line of each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", default=[1, 2, 4], metavar="MB")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for line in speeds(logs(args.megabytes, args.seed), args.rounds):
        print(json.dumps(line), flush=True)
    for line in linear(args.seed, args.growth):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
