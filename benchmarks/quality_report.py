"""docs/quality.md and docs/quality.svg, from what benchmarks/quality.py found."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from analytics.signatures.catalogue import Catalogue
from benchmarks import quality

DOCS: Final = Path(__file__).parent.parent / "docs"
LABELS: Final = ("test_assertion", "compilation", "dependency", "infrastructure", "authentication", "other")
_NONE: Final = "no cause named"
_RESAMPLES: Final = 1000
_SEED: Final = 20261126
_RIGHT: Final = frozenset({"ours", "both"})
_MEGABYTE: Final = 1e6

Logs = Sequence["quality.Judged"]


def write(folder: Path, found: Mapping[str, Any], catalogue: Catalogue) -> None:
    """Write the page, and the picture where there are labels."""
    folder.mkdir(parents=True, exist_ok=True)
    logs: Logs = found["logs"]
    labelled = [log for log in logs if log.silver in LABELS]
    parts = [*_head(found, catalogue), *_overall(found), *_mapping()]
    if labelled:
        draw(folder / "quality.svg", labelled)
        parts += [*_by_label(labelled), *_by_category(logs, found["verdicts"])]
    parts += [*_by_repository(logs, found["verdicts"])]
    if "fixtures" in found:
        parts += [*_fixtures(found["fixtures"]), *_docker(found)]
    (folder / "quality.md").write_text("\n".join(parts) + "\n", "utf-8")
    print(f"{folder / 'quality.md'}: {share(logs, lambda log: log.named):.1%} covered")


def share(items: Iterable[Any], holds: Callable[[Any], object]) -> float:
    """How many of `items` hold, as a part of all; 0 of none."""
    results = [bool(holds(item)) for item in items]
    return sum(results) / len(results) if results else 0.0


def is_right(log: quality.Judged, verdicts: Mapping[str, quality.Verdict]) -> bool:
    """Whether our cause is the labelled one, or a reader of the log said that it holds."""
    read = verdicts.get(log.key)
    if read is not None and read.signature == log.named:
        return read.verdict in _RIGHT
    return log.ours == log.silver


_FOREWORD: Final = """\
The labels are *silver*: drafted by a machine and bulk-accepted, and not ours. No signature was fitted to them: patterns
are written from what tools print, by hand. These logs were read all the same, to see where a pattern misleads, so what
stands here flatters; logs that nobody here has seen are the judge. Figures are given by repository as well, since logs
of one repository resemble each other.

Verdicts on single logs stand in benchmarks/adjudicated, and are those of one reader, who also wrote the signatures: of
every disagreement, of every log without a label of which a cause is named, and of a seeded sample of agreements, up to
150; he read the failing chunk and the line that won. Of a Docker build he read the line that won and the end of it.
"""
_AFTERWORD: Final = """
Most of the wrong ones are names of private or retired hosts: that a name does not resolve looks the same whether the
resolver or the host is gone, and in a pipeline that ran yesterday it is mostly the resolver.
"""


def _head(found: Mapping[str, Any], catalogue: Catalogue) -> Iterator[str]:
    signatures = catalogue.signatures
    patterns = sum(len(s.text) + len(s.facts) + len(s.near) + len(s.unless) for s in signatures)
    yield "# How well the shipped signatures explain real logs\n"
    yield f"Written by `python -m benchmarks.quality` over {found['source']}: {len(found['logs'])} logs,"
    yield f"{len(signatures)} signatures, {patterns} patterns. Each log is normalised, cut down to an excerpt and"
    yield "matched, and nothing else is known of it.\n"
    yield _FOREWORD


def _overall(found: Mapping[str, Any]) -> Iterator[str]:
    logs: Logs = found["logs"]
    verdicts = found["verdicts"]
    named = [log for log in logs if log.named and log.silver in LABELS]
    disagreeing = list(quality.disagreements(named))
    read = [log for log in logs if (v := verdicts.get(log.key)) is not None and v.signature == log.named]
    raw_bytes = sum(log.log_bytes for log in logs)
    chunks = [log for log in logs if log.chunk_kept is not None]
    yield "| what | figure |\n|---|---|"
    yield f"| logs of which a cause is named | {share(logs, lambda log: log.named):.1%} |"
    if named:
        yield f"| of those with a label: named as labelled | {share(named, _agrees):.1%} of {len(named)} |"
        yield (
            f"| and after a reader's verdict on {_read_of(disagreeing, read)} of the {len(disagreeing)} disagreements |"
            f" {share(named, lambda log: is_right(log, verdicts)):.1%} |"
        )
        yield f"| logs that a reader judged, disagreements and others | {len(read)} |"
    if chunks:
        yield f"| the line shown stands in the failing chunk | {share(_named(chunks), lambda log: log.in_chunk):.1%} |"
        yield f"| the excerpt holds the whole failing chunk | {share(chunks, lambda log: log.chunk_kept):.1%} |"
    yield f"| share of a log that is kept | {statistics.fmean(log.kept_bytes / log.log_bytes for log in logs):.1%} |"
    yield f"| normalise, cut down and match, one core | {raw_bytes / found['seconds'] / _MEGABYTE:.0f} MB/s |"
    yield f"| find the lines that patterns match, one core | {found['find_bytes_per_second'] / _MEGABYTE:.0f} MB/s |\n"
    yield (
        f"A signature of a priority below {quality.LAST_RESORT} only says that a program or a build failed. It names no"
        " cause, and its logs count as not covered.\n"
    )


def _read_of(disagreeing: Logs, read: Logs) -> int:
    keys = {log.key for log in read}
    return sum(log.key in keys for log in disagreeing)


def _agrees(log: quality.Judged) -> bool:
    return log.ours == log.silver


def _named(logs: Logs) -> list[quality.Judged]:
    return [log for log in logs if log.named]


def _mapping() -> Iterator[str]:
    yield "## Our categories as the six labels\n"
    yield "| label | categories |\n|---|---|"
    for label in LABELS:
        yield f"| {label} | {', '.join(c.value for c, other in quality.SILVER.items() if other == label)} |"
    yield ""


def _by_label(logs: Logs) -> Iterator[str]:
    yield "## By silver label, before any verdict\n"
    yield "| label | logs | named | precision | recall |\n|---|---|---|---|---|"
    for label in LABELS:
        of = [log for log in logs if log.silver == label]
        called = [log for log in logs if log.ours == label]
        yield (
            f"| {label} | {len(of)} | {share(of, lambda log: log.named):.0%} | {share(called, _agrees):.1%} of"
            f" {len(called)} | {share(of, _agrees):.1%} |"
        )
    yield "\n![Silver labels against what is named](quality.svg)\n"


def _by_category(logs: Logs, verdicts: Mapping[str, quality.Verdict]) -> Iterator[str]:
    yield "## By category of ours\n"
    yield "| category | logs | as labelled | after verdicts | signatures |\n|---|---|---|---|---|"
    groups = defaultdict(list)
    for log in logs:
        if log.match and log.named and log.silver in LABELS:
            groups[log.match.signature.category.value].append(log)
    for category, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        names = Counter(str(log.named) for log in group).most_common(6)
        yield (
            f"| {category} | {len(group)} | {share(group, _agrees):.1%} |"
            f" {share(group, lambda log: is_right(log, verdicts)):.1%} |"
            f" {', '.join(f'{name} {count}' for name, count in names)} |"
        )
    yield ""


def _by_repository(logs: Logs, verdicts: Mapping[str, quality.Verdict]) -> Iterator[str]:
    groups = defaultdict(list)
    for log in logs:
        groups[log.repository].append(log)
    covered = [share(group, lambda log: log.named) for group in groups.values()]
    judged = [[log for log in group if log.named and log.silver in LABELS] for group in groups.values()]
    right = [[is_right(log, verdicts) for log in group] for group in judged if group]
    yield "## By repository\n"
    yield f"Each of the {len(groups)} repositories counts once; intervals are of {_RESAMPLES} draws of repositories.\n"
    yield "| what | mean | 95 % interval |\n|---|---|---|"
    yield f"| coverage | {statistics.fmean(covered):.1%} | {_interval(covered)} |"
    if right:
        means = [statistics.fmean(group) for group in right]
        yield f"| precision after verdicts | {statistics.fmean(means):.1%} | {_interval(means)} |"
    none = sorted(name for name, group in groups.items() if not any(log.named for log in group))
    yield f"\nRepositories of which no log is explained: {', '.join(none) or 'none'}.\n"


def _interval(values: Sequence[float]) -> str:
    dice = random.Random(_SEED)
    means = sorted(statistics.fmean(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return f"{means[_RESAMPLES * 25 // 1000]:.1%} to {means[_RESAMPLES * 975 // 1000 - 1]:.1%}"


def _fixtures(fixtures: Sequence[tuple[str, str | None, bool]]) -> Iterator[str]:
    said = sum(right for _, _, right in fixtures)
    yield "## Noisy windows with a marked line\n"
    yield f"Of the {len(fixtures)} general ones of log_fixtures, the marked line or one that says the same wins in"
    yield f"{said}. {_missed(fixtures)}\n"


def _missed(fixtures: Sequence[tuple[str, str | None, bool]]) -> str:
    missed = [f"{name} ({signature or 'nothing'})" for name, signature, right in fixtures if not right]
    return f"Missed: {', '.join(missed)}." if missed else "None is missed."


def _docker(found: Mapping[str, Any]) -> Iterator[str]:
    called, rows, verdicts = found["docker"], found["docker_rows"], found["docker_verdicts"]
    worth = [index for index, match in called.items() if match.signature.transient]
    sample = found["docker_sample"]
    wrong = [index for index in worth if _is_wrong(index, called, verdicts)]
    read = [index for index in worth if _is_read(index, called, verdicts)]
    named = share(
        range(rows), lambda index: index in called and called[index].signature.priority >= quality.LAST_RESORT
    )
    in_sample = [index for index in sample if index in wrong]
    yield "## Docker builds that a rerun would hardly ever mend\n"
    yield "| what | figure |\n|---|---|"
    yield f"| builds of which a cause is named | {named:.1%} of {rows} |"
    yield f"| called worth a rerun | {len(worth)}, {len(worth) / rows:.2%} |"
    yield f"| wrongly, of a seeded sample of {len(sample)}, all read | {len(in_sample) / len(sample):.1%} |"
    yield f"| wrongly, of all that are called so, {len(read)} read | {len(wrong)}, {len(wrong) / rows:.2%} of all |"
    yield _AFTERWORD


def _is_read(index: int, called: Mapping[int, Any], verdicts: Mapping[int, quality.Verdict]) -> bool:
    return index in verdicts and verdicts[index].signature == called[index].signature.name


def _is_wrong(index: int, called: Mapping[int, Any], verdicts: Mapping[int, quality.Verdict]) -> bool:
    """What nobody has read counts as wrong."""
    return not _is_read(index, called, verdicts) or verdicts[index].verdict != "right"


def draw(path: Path, logs: Logs) -> None:
    """The confusion matrix: silver labels down, what is named across; shades are shares of a row."""
    columns = (*LABELS, _NONE)
    counts = Counter((log.silver, log.ours or _NONE) for log in logs)
    figure = Figure(figsize=(8.2, 5.2), layout="constrained")
    axes = figure.subplots()
    table = [[counts[label, column] for column in columns] for label in LABELS]
    axes.imshow([[cell / max(sum(row), 1) for cell in row] for row in table], cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(table):
        for x, cell in enumerate(row):
            dark = cell / max(sum(row), 1) > 0.5  # noqa: PLR2004 - half
            axes.text(x, y, str(cell or ""), ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in columns])
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.set_xlabel("named by the signatures")
    axes.set_ylabel("silver label")
    axes.set_title(f"{len(logs)} failed logs: silver labels against what is named")
    with mpl.rc_context({"svg.hashsalt": "quality"}):
        figure.savefig(path, metadata={"Date": None})
