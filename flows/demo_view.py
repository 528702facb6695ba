"""How the demo looks: a pure function from numbers to something that rich can draw, and one to a line of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from connectors.postgres_live import Landed, Latency
from flows.demo_numbers import Numbers
from flows.demo_stage import HOST, PATIENCE_SECONDS, Stage
from flows.demo_truth import Truth
from flows.explain import in_words
from flows.tables import escape
from models.records.outputs import Diagnosis, FindingState, Verdict

ABOUT: Final = (
    "A simulated world posts signed webhooks and is healed by its APIs. Receiver, streams, dataflow, PostgreSQL, "
    "every number and everything that is done here are real. The mode is act; yours is observe until you say otherwise."
)
_PLATFORMS: Final = {"github": "white", "gitlab": "dark_orange", "jenkins": "red", "circleci": "green"}
_VERDICTS: Final = {Verdict.ACT: "bold green", Verdict.WAIT: "yellow", Verdict.SKIP: "blue"}
_FINDINGS: Final = {
    "StuckJob": ("stuck", "no end seen"),
    "RepeatedFailure": ("repeated", "over and over"),
    "FlakyTest": ("flaky", "then passed"),
}
_RERUNS: Final = ("rerun", "rerun_failed", "rerun_job")
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_WIDE: Final = 110  # columns from which on there is room for a third panel
_IN_FULL: Final = 170  # columns from which on there is room for reasons in words
_TITLE_LINES: Final = 2  # and the one that the cursor stands on
_TOP_LINES: Final = 7
_HEALING_LINES: Final = 6
_MIDDLE_LINES: Final = 10
_FRAME_LINES: Final = 3  # of the panel with the decisions
_FEWEST_DECISIONS: Final = 3
_BAR: Final = 8


def view(numbers: Numbers, where: Sequence[str] = (), *, width: int, height: int) -> RenderableType:
    """All of it, for a terminal of so many columns and lines; `where` says how to reach what runs."""
    wide = width >= _WIDE
    foot = [Text(text, style="dim") for text in where or (ABOUT,)]
    parts: list[RenderableType] = [
        _title(numbers, width),
        _side_by_side((_deliveries(numbers, wide=wide), 3 if wide else 2), (_speed(numbers), 2)),
    ]
    room = height - _TITLE_LINES - _TOP_LINES - _FRAME_LINES - sum(-(-text.cell_len // width) for text in foot)
    if room >= _HEALING_LINES + _FEWEST_DECISIONS:
        room -= _HEALING_LINES
        parts.append(_side_by_side((_done(numbers), 3), (_truth(numbers), 2)))
    if room >= _MIDDLE_LINES + _FEWEST_DECISIONS:
        room -= _MIDDLE_LINES
        reasons = [(_reasons(numbers), 4)] if wide else []
        parts.append(_side_by_side((_causes(numbers), 4), *reasons, (_findings(numbers), 3)))
    landed = numbers.rows.landed[: max(room, _FEWEST_DECISIONS)]
    return Group(*parts, _decisions(landed, numbers, in_full=width >= _IN_FULL), *foot)


def line(numbers: Numbers) -> str:
    """The same in one line, for a log."""
    latency = numbers.rows.latency
    verdicts = _by_verdict(numbers)
    return "  ".join(
        (
            _clock(numbers.seconds),
            f"{numbers.delivered():,} deliveries",
            f"{numbers.rate:.0f} events/s",
            f"{numbers.rows.failures} failures",
            f"{numbers.decisions} decisions ({', '.join(f'{v} {verdicts.get(v, 0)}' for v in Verdict)})",
            f"{sum(raised for raised, _ in _by_detector(numbers).values())} findings",
            f"{numbers.truth.get('healed', 0)} of {numbers.truth.get('reruns', 0)} reruns green",
            f"{numbers.rows.healing.held} held",
            f"p99 {latency.p99:.0f} ms" if latency else "p99 -",
        )
    )


def landed_line(landed: Landed) -> str:
    """One decision in one line."""
    return "  ".join(("     ", f"{landed.verdict:4}", landed.reason, landed.platform, escape(_where(landed))))


def addresses(stage: Stage, guard: str) -> tuple[str, ...]:
    """How to reach what runs, for a second terminal; `guard` is how that command is called there."""
    files, ports = stage.files, stage.ports
    base = f"http://{HOST}"
    settings = f"--settings {files.settings}"
    return (
        f"post     curl -K {files.curl} {stage.webhooks}/jenkins",
        f"metrics  {base}:{ports.receiver_admin}/metrics (receiver)  {base}:{ports.flow_metrics}/metrics (flow)",
        f"rows     {stage.psql} '{stage.postgres.url}' -c 'TABLE guard.current_decisions'",
        f"look     {guard} top {settings}  (and status, explain ID)",
    )


def summary(numbers: Numbers, truth: Truth, *, began: float) -> Iterator[str]:
    """What was seen, against what the world knows; `began` is when the demo did, in Unix seconds."""
    rows = numbers.rows
    verdicts = _by_verdict(numbers)
    yield ""
    if rows.first_decision is None:
        yield "No decision was seen."
    else:
        yield f"First decision in PostgreSQL {rows.first_decision.timestamp() - began:.1f} s after the start."
    yield (
        f"Deliveries:  {truth.deliveries:,} posted, {truth.copies:,} of them a second time; "
        f"{truth.refused} refused; {numbers.duplicates:,} duplicate events absorbed; {rows.dead_letters} dead letters"
    )
    yield f"Failed jobs: {truth.failed:,} in the world, {truth.recorded:,} of them in PostgreSQL"
    yield f"Silent jobs: {truth.silent} for more than {PATIENCE_SECONDS} s, {truth.stuck} of them found stuck"
    counts = ", ".join(f"{verdict} {verdicts.get(verdict, 0)}" for verdict in Verdict)
    yield f"Decisions:   {numbers.decisions:,}: {counts}"
    told, healing = numbers.truth, rows.healing
    yield (
        f"Healing:     {told.get('reruns', 0)} reruns, {told.get('healed', 0)} of them turned green, "
        f"{told.get('going_on', 0)} go on; {healing.held + healing.released} were held in outages, "
        f"{healing.released} of them let go; {healing.done('cancel')} stuck jobs cancelled"
    )
    yield (
        f"Harm:        {told.get('harmed', 0)} real faults run again or good jobs stopped, "
        f"{told.get('twice', 0)} effects twice, as the world counts them"
    )
    if rows.latency is not None:
        p50, p95, p99 = rows.latency
        yield f"Latency:     p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms from the receiver to the row"


def _title(numbers: Numbers, width: int) -> RenderableType:
    left = Text.assemble((" Pipeline Guard ", "bold white on dark_blue"), ("  four CI platforms, this machine", "dim"))
    if numbers.of_seconds is None:
        right = Text.assemble((_clock(numbers.seconds), "bold"), ("  Ctrl-C ends it ", "dim"))
    else:
        seconds = min(numbers.seconds, numbers.of_seconds)
        bar = max(width // 5, 10)
        done = round(seconds / numbers.of_seconds * bar)
        right = Text.assemble(
            ("━" * done, "cyan"),
            ("━" * (bar - done), "bright_black"),
            (f"  {_clock(seconds)}", "bold"),
            (f" of {_clock(numbers.of_seconds)} ", "dim"),
        )
    return _row(left, right)


def _row(left: Text, right: Text) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(justify="left", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


def _side_by_side(*parts: tuple[RenderableType, int]) -> Table:
    grid = Table.grid(expand=True)
    for _, ratio in parts:
        grid.add_column(ratio=ratio)
    grid.add_row(*(part for part, _ in parts))
    return grid


def _panel(content: RenderableType, title: str, *, height: int | None = None) -> Panel:
    shown = Text(title, style="bold")
    return Panel(content, title=shown, title_align="left", border_style="bright_black", box=box.ROUNDED, height=height)


def _deliveries(numbers: Numbers, *, wide: bool) -> Panel:
    made = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    made.add_column("platform")
    shown = ("posted", "accepted", "duplicate", "ignored", "refused") if wide else ("posted", "refused")
    for name in shown:
        made.add_column(name, justify="right")
    for source in dict.fromkeys((*_PLATFORMS, *numbers.deliveries)):
        answers = numbers.deliveries.get(source, {})
        counts = _answers(answers)
        made.add_row(Text(source, style=_PLATFORMS.get(source, "")), *(counts[name] for name in shown))
    return _panel(made, "deliveries to the receiver", height=_TOP_LINES)


def _answers(answers: Mapping[str, int]) -> dict[str, Text]:
    counts = {
        "accepted": answers.get("accepted", 0) + answers.get("spooled", 0),
        "duplicate": answers.get("duplicate", 0),
        "ignored": answers.get("ignored", 0),
    }
    total = sum(answers.values())
    shown = {name: Text(f"{count:,}", style="" if count else "bright_black") for name, count in counts.items()}
    refused = total - sum(counts.values())
    shown["posted"] = Text(f"{total:,}", style="bold")
    shown["refused"] = Text(f"{refused:,}", style="bold red" if refused else "bright_black")
    return shown


def _speed(numbers: Numbers) -> Panel:
    facts = Table.grid(padding=(0, 1), expand=True)
    facts.add_column(style="dim", no_wrap=True, min_width=len("dead letters"))
    facts.add_column(no_wrap=True)
    facts.add_row("events", _spark(numbers.rates, numbers.rate))
    facts.add_row("latency", _quantiles(numbers.rows.latency))
    facts.add_row("", Text("receiver to row", style="dim"))
    facts.add_row("duplicates", Text.assemble((f"{numbers.duplicates:,}", "bold"), (" absorbed", "dim")))
    dead = numbers.rows.dead_letters
    facts.add_row("dead letters", Text(f"{dead}", style="bold red" if dead else "bright_black"))
    return _panel(facts, "speed", height=_TOP_LINES)


def _quantiles(latency: Latency | None) -> Text:
    if latency is None:
        return Text("-", style="bright_black")
    made = Text()
    for name, value in zip(latency._fields, latency, strict=True):
        made.append(f"{name} ", "dim").append(f"{value:.0f} ", "bold cyan")
    return made.append("ms", "dim")


def _spark(rates: Sequence[float], rate: float, *, most: int = 20) -> Text:
    last = rates[-most:]
    top = max(last, default=0.0) or 1.0
    bars = "".join(_SPARKS[min(int(value / top * len(_SPARKS)), len(_SPARKS) - 1)] for value in last)
    return Text.assemble((f"{rate:.0f}/s ", "bold cyan"), (bars, "cyan"))


def _done(numbers: Numbers) -> Panel:
    """What healers did, and what came of it."""
    healing, outcomes = numbers.rows.healing, dict(numbers.rows.healing.outcomes)
    failed = sum(count for outcome, count in outcomes.items() if outcome.startswith("failed"))
    facts = Table.grid(padding=(0, 1), expand=True)
    facts.add_column(style="dim", no_wrap=True, min_width=len("stuck jobs"))
    facts.add_column(no_wrap=True, overflow="ellipsis")
    facts.add_row(
        "reruns",
        _counted((healing.done(*_RERUNS), "done"), (outcomes.get("passed", 0), "passed"), (failed, "failed again")),
    )
    facts.add_row("stuck jobs", _counted((healing.done("cancel"), "cancelled")))
    facts.add_row("outages", _outages(numbers))
    left = sum(count for verdict, _, count in numbers.rows.decisions if verdict == Verdict.SKIP)
    facts.add_row("left alone", _counted((left, "with a reason"), (healing.done("open_issue"), "issues opened")))
    return _panel(facts, "done about it", height=_HEALING_LINES)


def _outages(numbers: Numbers) -> Text:
    healing = numbers.rows.healing
    made = _counted((healing.held, "reruns held"), (healing.released, "let go"))
    if healing.holds:
        signature, state = healing.holds[-1]
        made.append("  ").append(escape(signature), "yellow" if state == "held" else "green").append(f" {state}", "dim")
    return made


def _truth(numbers: Numbers) -> Panel:
    """What the world knows of it, which nobody else can."""
    told = numbers.truth
    facts = Table.grid(padding=(0, 1), expand=True)
    facts.add_column(style="dim", no_wrap=True, min_width=len("by the way"))
    facts.add_column(no_wrap=True, overflow="ellipsis")
    facts.add_row("healed", _counted((told.get("healed", 0), f"of {told.get('reruns', 0)} reruns turned green")))
    facts.add_row(
        "not yet", _counted((told.get("going_on", 0), "go on"), (told.get("failed_again", 0), "failed again"))
    )
    facts.add_row("harm", _counted((told.get("harmed", 0), "real faults run again, or good jobs stopped"), bad=True))
    facts.add_row("twice", _counted((told.get("twice", 0), "effects came twice"), bad=True))
    return _panel(facts, "what the world says of it", height=_HEALING_LINES)


def _counted(*counts: tuple[int, str], bad: bool = False) -> Text:
    made = Text()
    for count, what in counts:
        style = "bright_black" if not count else "bold red" if bad else "bold green"
        made.append(f"{count}", style).append(f" {what}  ", "dim")
    return made


def _causes(numbers: Numbers) -> Panel:
    counted: dict[str, int] = {}
    unexplained = 0
    for signature, diagnosis, count in numbers.rows.causes:
        if diagnosis != Diagnosis.MATCHED or signature is None:
            unexplained += count
        else:
            counted[signature] = counted.get(signature, 0) + count
    rows = sorted(((Text(escape(name)), count) for name, count in counted.items()), key=lambda row: -row[1])
    last = (Text("not explained", style="dim"), unexplained) if unexplained else None
    return _panel(_bars(rows, last), f"{numbers.rows.failures} failures, by signature", height=_MIDDLE_LINES)


def _reasons(numbers: Numbers) -> Panel:
    rows = [
        (Text.assemble((f"{verdict:5}", _VERDICTS.get(Verdict(verdict), "")), reason), count)
        for verdict, reason, count in numbers.rows.decisions
    ]
    return _panel(_bars(rows, None), "decisions, by reason", height=_MIDDLE_LINES)


def _bars(rows: Sequence[tuple[Text, int]], last: tuple[Text, int] | None) -> Table:
    """Counts with bars, the greatest first, as many as there is room for; `last` stands below them without a bar."""
    made = Table.grid(padding=(0, 1), expand=True)
    made.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    made.add_column(justify="right", no_wrap=True)
    made.add_column(no_wrap=True, width=_BAR)
    room = _MIDDLE_LINES - 2 - (last is not None)
    if len(rows) > room:
        hidden = rows[room - 1 :]
        rest = Text(f"{len(hidden)} others", style="dim")
        rows = [*rows[: room - 1], (rest, sum(count for _, count in hidden))]
    top = max((count for _, count in rows), default=1)
    for name, count in rows:
        length = max(round(count / top * _BAR * 2), 1)
        bar = "━" * (length // 2) + "╸" * (length % 2)
        made.add_row(name, Text(f"{count}", style="bold"), Text(bar, style="cyan"))
    if last is not None:
        made.add_row(last[0], Text(f"{last[1]}", style="dim"), "")
    return made


def _findings(numbers: Numbers) -> Panel:
    made = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    made.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    made.add_column("raised", justify="right")
    made.add_column("cleared", justify="right")
    by_detector = _by_detector(numbers)
    for detector in dict.fromkeys((*_FINDINGS, *by_detector)):
        raised, cleared = by_detector.get(detector, (0, 0))
        name, meaning = _FINDINGS.get(detector, (detector, ""))
        made.add_row(
            Text(name),
            Text(f"{raised}", style="bold magenta" if raised else "bright_black"),
            Text(f"{cleared}", style="bold" if cleared else "bright_black"),
        )
        made.add_row(Text(meaning, style="dim"))
    return _panel(made, "findings", height=_MIDDLE_LINES)


def _decisions(landed: Sequence[Landed], numbers: Numbers, *, in_full: bool) -> Panel:
    made = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    made.add_column("time", no_wrap=True, style="dim")
    made.add_column("platform", no_wrap=True)
    made.add_column("repository, job", no_wrap=True, ratio=5, overflow="ellipsis")
    made.add_column("signature", no_wrap=True, ratio=3, overflow="ellipsis")
    made.add_column("score", no_wrap=True, justify="right")
    made.add_column("verdict", no_wrap=True)
    made.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=4 if in_full else None)
    for row in landed:
        reason = (in_words(row.reason) if in_full else None) or row.reason
        made.add_row(
            f"{row.written_at.astimezone(UTC):%H:%M:%S}",
            Text(row.platform, style=_PLATFORMS.get(row.platform, "")),
            Text(escape(_where(row))),
            Text(escape(row.signature or "-"), style="" if row.signature else "bright_black"),
            Text(
                "-" if row.score is None else f"{row.score:.2f}", style="" if row.score is not None else "bright_black"
            ),
            Text(row.verdict, style=_VERDICTS.get(Verdict(row.verdict), "")),
            Text(reason),
        )
    verdicts = _by_verdict(numbers)
    counts = ", ".join(f"{verdict} {verdicts.get(verdict, 0)}" for verdict in Verdict)
    return _panel(made, f"{numbers.decisions} decisions, as they land in PostgreSQL: {counts}")


def _where(landed: Landed) -> str:
    repository = landed.repository.removeprefix("gh/")
    job = f" {landed.job}" if landed.job and not repository.endswith(f"/{landed.job}") else ""
    return f"{repository}{job}{f' +{landed.more_jobs}' if landed.more_jobs else ''}"


def _by_verdict(numbers: Numbers) -> dict[str, int]:
    counted: dict[str, int] = {}
    for verdict, _, count in numbers.rows.decisions:
        counted[verdict] = counted.get(verdict, 0) + count
    return counted


def _by_detector(numbers: Numbers) -> dict[str, tuple[int, int]]:
    """How many findings each detector raised and cleared."""
    counted: dict[str, tuple[int, int]] = {}
    for detector, state, count in numbers.rows.findings:
        raised, cleared = counted.get(detector, (0, 0))
        counted[detector] = (
            raised + count * (state == FindingState.RAISED),
            cleared + count * (state == FindingState.CLEARED),
        )
    return counted


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
