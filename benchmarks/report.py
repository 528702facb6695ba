"""docs/benchmarks.md and docs/benchmarks.svg, from the lines of a run: `python -m benchmarks.report [FILE]`.

Without a file, the newest full run in benchmarks/results. Where a case had several rounds, the median round is shown;
ratios are taken within a round, and their median is shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.run import RESULTS

DOCS: Final = Path(__file__).parent.parent / "docs"
Line = Mapping[str, Any]

_ENCODINGS: Final = {"drain_json": "JSON", "drain_protobuf": "Protocol Buffers", "drain_packed": "packed"}
_SUBJECTS: Final = {
    "xread": "limit: bare XREAD",
    "xread_decode": "limit: XREAD and columnar decode",
    "flow_1": "Pipeline Guard, one process",
    "flow_2": "Pipeline Guard, two processes",
    "rival_1": "plain loop, one process",
    "rival_2": "plain loop, two processes",
}


_NONE: Final = "-"


class Lines:
    """The lines of one run, by case and subject; the rounds of a subject together."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.about = lines[0]
        self._found: dict[tuple[str, str], list[Line]] = {}
        for line in lines:
            self._found.setdefault((line["case"], line.get("subject", "")), []).append(line)

    def rounds(self, case: str, subject: str = "") -> list[Line]:
        """All rounds of one subject; none if it was not run."""
        return self._found.get((case, subject), [])

    def median(self, case: str, subject: str, *path: str) -> float | None:
        """The median over the rounds of the number at `path`."""
        values = [value for line in self.rounds(case, subject) if (value := _at(line, path)) is not None]
        return statistics.median(values) if values else None


def _at(line: Line, path: Sequence[str]) -> float | None:
    value: Any = line
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


class Target(NamedTuple):
    """What the issue asks for, and what it came to."""

    text: str
    wanted: str
    measured: float | None
    reached: bool | None
    digits: int = 2


def _reached(value: float | None, least: float | None = None, most: float | None = None) -> bool | None:
    if value is None:
        return None
    return (least is None or value >= least) and (most is None or value <= most)


def targets(lines: Lines) -> list[Target]:
    """Every figure that issues 2 and 5 name."""
    found = []
    for case, name in list(_ENCODINGS.items())[:2]:
        ratio = lines.median(case, "flow_1", "ratio", "to_limit")
        text = f"drain of {name}, one process, to XREAD and columnar decode"
        found.append(Target(text, "≥ 0.5", ratio, _reached(ratio, least=0.5)))
    packed = lines.median("drain_packed", "flow_1", "events_per_second")
    single = lines.median("drain_json", "flow_1", "events_per_second")
    ratio = packed / single if packed and single else None
    found.append(Target("drain of packed to single JSON, one process", "≥ 5", ratio, _reached(ratio, least=5)))
    ratio = lines.median("drain_json", "flow_1", "ratio", "to_rival")
    text = "drain of JSON, one process, to the plain loop in one process"
    found.append(Target(text, "≥ 1.2", ratio, _reached(ratio, least=1.2)))
    for case, name in _ENCODINGS.items():
        ratio = lines.median(case, "flow_2", "ratio", "cpu_to_one_process")
        text = f"CPU of the flow an event, two processes to one, {name}"
        found.append(Target(text, "≤ 1.15", ratio, _reached(ratio, most=1.15)))
    for rate, most in ((1000, 100), (5000, 250)):
        p99 = lines.median(f"latency_{rate}", "flow_1", "latency_ms", "p99")
        found.append(Target(f"p99 from append to row at {rate:,}/s, ms", f"< {most}", p99, _reached(p99, most=most), 0))
    taken = lines.median("receiver", "", "deliveries_per_second")
    text = "signed deliveries a second, every append fsynced"
    found.append(Target(text, "≥ 1,500", taken, _reached(taken, least=1500), 0))
    p99 = lines.median("heal_latency", "healers_1", "latency_ms", "p99")
    found.append(Target("p99 from decision to call at 50/s, ms", "< 500", p99, _reached(p99, most=500), 0))
    share = lines.median("outage", "healers_2", "of_twice")
    text = "reruns in an outage of half an hour, to those of retrying everything twice"
    found.append(Target(text, "≤ 0.05", share, _reached(share, most=0.05)))
    seconds = lines.median("outage", "healers_2", "drained_seconds")
    return [
        *found,
        Target("all that waited is run again after it, s", "≤ 600", seconds, _reached(seconds, most=600), 0),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _number(value: float | None, digits: int = 0) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _drain(lines: Lines) -> str:
    rows = []
    for case, encoding in _ENCODINGS.items():
        for subject, name in _SUBJECTS.items():
            rounds = lines.rounds(case, subject)
            if not rounds:
                continue
            rates = [line["events_per_second"] for line in rounds]
            cpu = [lines.median(case, subject, "cpu_us_per_event", who) for who in ("ours", "redis", "postgresql")]
            ratios = [lines.median(case, subject, "ratio", to) for to in ("to_limit", "to_rival")]
            rows.append(
                [
                    *(encoding, name, _number(statistics.median(rates)), f"{min(rates):,} to {max(rates):,}"),
                    *(_number(value, 2) for value in (*cpu, *ratios)),
                ]
            )
    head = ["encoding", "subject", "events/s", "range", "own µs", "Redis µs", "PostgreSQL µs", "to limit", "to rival"]
    return _table(head, rows)


def _latency(lines: Lines) -> str:
    rows = []
    for rate in (1000, 5000):
        for subject in ("flow_1", "rival_1"):
            for line in lines.rounds(f"latency_{rate}", subject):
                quantiles = [line["latency_ms"][name] for name in ("p50", "p95", "p99", "max")]
                shares = [line["cpu_share"][who] for who in ("ours", "redis", "postgresql")]
                rows.append(
                    [
                        *(f"{rate:,}", _SUBJECTS[subject], f"{line['seconds']:.0f}", f"{line['samples']:,}"),
                        *(_number(value, 1) for value in quantiles),
                        *(f"{line['seen_after_ms'][name]:.1f}" for name in ("p50", "p99")),
                        *(f"{share:.0%}" for share in shares),
                    ]
                )
    head = ["events/s", "subject", "s", "rows", "p50", "p95", "p99", "max", "seen +p50", "seen +p99"]
    return _table([*head, "own CPU", "Redis", "PostgreSQL"], rows)


def _receiver(lines: Lines) -> str:
    rows = [
        [
            _number(line["deliveries_per_second"]),
            _number(line["body_bytes"]),
            _number(line["p50_ms"], 1),
            _number(line["p99_ms"], 1),
            ", ".join(f"{who} {value}" for who, value in line["cpu_us_per_delivery"].items()),
        ]
        for line in lines.rounds("receiver")
    ]
    return _table(["deliveries/s", "bytes a body", "p50 ms", "p99 ms", "CPU µs a delivery"], rows)


def _snapshots(lines: Lines) -> Iterator[str]:
    for line in lines.rounds("snapshots"):
        yield (
            f"{line['repositories']:,} repositories, {line['events']:,} events: {line['total_bytes'] / 1e6:.1f} MB in "
            f"twelve shards, {line['total_snapshot_ms']:.0f} ms for all snapshots (the dearest shard "
            f"{line['snapshot_ms']['most']:.0f} ms), {line['total_restore_ms']:.0f} ms for all restores. Largest parts "
            f"of shard 0: {', '.join(f'{name} {size / 1e6:.2f} MB' for name, size in line['largest_parts'].items())}."
        )
        rows = [
            [
                "none" if run["epoch_seconds"] >= run["seconds"] else f"{run['epoch_seconds']:.0f} s",
                f"{run['cpu_share']:.1%}",
                f"{run['cpu_share_of_snapshots']:.1%}" if "cpu_share_of_snapshots" in run else _NONE,
                _number(run["snapshot_ms_an_epoch"]),
                _number(run["stall_ms"]["median"]) if run["stall_ms"] else _NONE,
                _number(run["stall_ms"]["most"]) if run["stall_ms"] else _NONE,
            ]
            for run in line["bytewax"]
        ]
        head = ["epochs of", "CPU of a core", "of it for snapshots", "snapshot ms an epoch", "stall ms", "longest"]
        yield _table(head, rows)


def _targets(lines: Lines) -> str:
    marks = {True: "yes", False: "**no**", None: "not run"}
    rows = [[t.text, t.wanted, _number(t.measured, t.digits), marks[t.reached]] for t in targets(lines)]
    return _table(["figure", "wanted", "measured", "reached"], rows)


_HEAD: Final = (
    "Written by `python -m benchmarks.report`; not to be edited. What each case means, and why it is fair, stands "
    "in [benchmarks/README.md](../benchmarks/README.md)."
)


def page(lines: Lines) -> str:
    """docs/benchmarks.md."""
    about = lines.about
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    servers = ", ".join(f"{name} {number}" for name, number in about["servers"].items())
    parts = [
        "# What was measured",
        _HEAD,
        f"{about['run']}, revision {about['revision']}, {about['cores']} cores of {about['cpu']}, Python "
        f"{about['python']}, {packages}; {servers}. Everything shares these cores: servers, senders, subjects."
        + (" **A quick run: it shows that the cases work and is not to be quoted.**" if about["quick"] else ""),
        "## Wanted and measured",
        _targets(lines),
        "## Drain",
        "Medians of the rounds; CPU per event; ratios within a round.",
        "![events a second](benchmarks.svg)",
        _drain(lines),
        "## From the append to the row",
        "Milliseconds, every row of `guard.failures`; *seen* is what the commit adds until a reader sees it.",
        _latency(lines),
        "## Receiver",
        _receiver(lines),
        "## Snapshots",
        *_snapshots(lines),
    ]
    return "\n\n".join(parts) + "\n"


_COLOURS: Final = {"xread": "#c9ced6", "flow": "#2f6fdb", "rival": "#e08a2e"}


def plot(lines: Lines, target: Path) -> None:
    """Bars of events a second: ours, the rival, and the limit over them."""
    import matplotlib as mpl  # noqa: PLC0415 - the tables do not need it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "guard"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [name for name in _SUBJECTS if name != "xread"]
    labels = [_SUBJECTS[name].removeprefix("limit: ") for name in shown]
    figure, axes = plt.subplots(1, len(_ENCODINGS), figsize=(9, 2.2), layout="constrained", sharey=True)
    for axis, (case, encoding) in zip(axes, _ENCODINGS.items(), strict=True):
        values = [(lines.median(case, name, "events_per_second") or 0) / 1000 for name in shown]
        bars = axis.barh(labels, values, color=[_COLOURS[name.split("_")[0]] for name in shown])
        axis.bar_label(bars, [f"{value:.0f}" if value else "" for value in values], padding=2, fontsize=7)
        axis.set_title(f"{encoding}: thousands a second", fontsize=8, loc="left")
        axis.tick_params(labelsize=7, length=0)
        axis.margins(x=0.2)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
    axes[0].invert_yaxis()
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _newest() -> Path:
    full = sorted(path for path in RESULTS.glob("*.jsonl") if not path.stem.endswith("-quick"))
    if not full:
        sys.exit("there is no full run in benchmarks/results: python -m benchmarks.run")
    return full[-1]


def main() -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder that takes them")
    args = parser.parse_args()
    lines = Lines([json.loads(line) for line in (args.file or _newest()).read_text().splitlines()])
    (args.to / "benchmarks.md").write_text(page(lines))
    plot(lines, args.to / "benchmarks.svg")
    print(f"written: {args.to / 'benchmarks.md'}, {args.to / 'benchmarks.svg'}")


if __name__ == "__main__":
    main()
