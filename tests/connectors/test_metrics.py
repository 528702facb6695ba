import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connectors import metrics
from connectors.metric_kinds import REGISTRY, Histogram
from models.records.errors import Unavailable
from models.records.event import EventType
from models.records.outputs import Reason, Verdict

ROOT = Path(__file__).parents[2]


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def of_a_fresh_process(code: str) -> str:
    """What a process of its own prints; this one's registry holds what other tests touched."""
    lines = f"from connectors import metrics\n{code}\nprint(metrics.render().decode())"
    return subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def served() -> Iterator[metrics.Served]:
    served = metrics.serve("127.0.0.1", 0)
    yield served
    served.close()


def test_every_metric_says_its_unit_what_it_means_and_what_to_do() -> None:
    assert len({metric.name for metric in metrics.TABLE}) == len(metrics.TABLE) > 0
    for metric in metrics.TABLE:
        assert metric.name.startswith("guard_")
        assert metric.unit
        assert metric.meaning.endswith(".")
        assert metric.moves.strip().endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.unit not in {"seconds", "bytes"} or metric.name.removesuffix("_total").endswith(f"_{metric.unit}")


def test_no_label_holds_what_a_poster_can_choose() -> None:
    labels = {label for metric in metrics.TABLE for label in metric.words}
    assert labels.isdisjoint({"repository", "branch", "author", "pipeline_id", "job_name", "job_id", "instance"})


def test_latency_has_exact_edges_where_promises_and_alerts_look() -> None:
    for latency in (metrics.guard_event_latency_seconds, metrics.guard_ingest_seconds):
        assert isinstance(latency, Histogram)
        assert {0.1, 0.25, 0.5, 1, 10, 30} < set(latency.buckets)
        assert (min(latency.buckets), max(latency.buckets)) == (0.005, 60)
    before = value("guard_event_latency_seconds_bucket", stage="event", le="10.0") or 0
    metrics.guard_event_latency_seconds(stage="event").observe(10)
    metrics.guard_event_latency_seconds(stage="event").observe(10.001)
    assert value("guard_event_latency_seconds_bucket", stage="event", le="10.0") == before + 1


def test_what_is_counted_is_exposed_under_the_name_it_was_declared_by() -> None:
    before = value("guard_decisions_total", verdict="skip", reason="fork") or 0
    metrics.guard_decisions_total(verdict=Verdict.SKIP, reason=Reason.FORK).inc()
    metrics.guard_events_total(platform="github", event_type=EventType.FAILED).inc(3)
    metrics.guard_stream_depth(shard=11).set(7)
    assert value("guard_decisions_total", verdict="skip", reason="fork") == before + 1
    assert value("guard_stream_depth", shard="11") == 7
    text = metrics.render().decode()
    assert 'guard_events_total{event_type="pipeline.failed",platform="github"}' in text
    assert "_created" not in text


def test_a_process_exposes_what_is_its_own_and_starts_every_closed_counter_at_nought() -> None:
    text = of_a_fresh_process('metrics.expose("receiver", version="1.2.3")')
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {"guard_spool_entries", "guard_ingest_seconds", "guard_build_info", "process_cpu_seconds"} <= set(families)
    assert families.keys().isdisjoint({"guard_stream_depth", "guard_dead_letters_open", "guard_snapshot_age_seconds"})
    (info,) = families["guard_build_info"].samples
    assert (info.labels["process"], info.labels["version"], info.value) == ("receiver", "1.2.3", 1)
    flow = {
        family.name: family.samples
        for family in text_string_to_metric_families(of_a_fresh_process('metrics.expose("flow", version="1")'))
    }
    assert [sample.value for sample in flow["guard_stream_gaps"]] == [0.0] * 24
    assert len(flow["guard_decisions"]) == len(Verdict) * len(Reason)
    assert flow["guard_stream_depth"] == []


def test_a_process_that_declared_nothing_exposes_only_what_it_touched() -> None:
    text = of_a_fresh_process("metrics.guard_late_events_total().inc()")
    assert [f.name for f in text_string_to_metric_families(text) if f.name.startswith("guard_")] == [
        "guard_late_events"
    ]


def test_a_gauge_can_be_worked_out_when_it_is_asked_for() -> None:
    ages = iter([1.0, 2.0])
    metrics.guard_snapshot_age_seconds().set_function(lambda: next(ages))
    assert [value("guard_snapshot_age_seconds") for _ in range(2)] == [1.0, 2.0]
    metrics.guard_snapshot_age_seconds().set_function(lambda: 0.0)


def test_a_port_of_its_own_answers_scrapes(served: metrics.Served) -> None:
    metrics.guard_batch_rows().observe(12)
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=5) as response:
        assert response.headers["Content-Type"] == metrics.CONTENT_TYPE
        assert b'guard_batch_rows_bucket{le="100.0"}' in response.read()


def test_a_port_that_is_taken_is_named(served: metrics.Served) -> None:
    with pytest.raises(Unavailable, match=f"metrics cannot be served on 127.0.0.1:{served.port}: Address already in"):
        metrics.serve("127.0.0.1", served.port)


def test_a_misspelt_metric_label_or_word_fails_the_type_check(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from connectors import metrics\n"
        'metrics.guard_errors_total(stage="store", type="Unavailable").inc()\n'
        'metrics.guard_erors_total(stage="store", type="Unavailable").inc()\n'
        'metrics.guard_errors_total(stage="stoer", type="Unavailable").inc()\n'
        'metrics.guard_errors_total(stgae="store", type="Unavailable").inc()\n'
        'metrics.guard_errors_total(stage="store").inc()\n'
        "metrics.guard_late_events_total().set(1)\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(wrong)]
    out = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stdout
    assert [line.split(": ")[0].split(":")[-1] for line in out.splitlines() if ": error: " in line] == list("34567")


def test_the_page_of_metrics_is_current() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics.document(), (
        "write it with: .venv/bin/python -m connectors.metrics > docs/metrics.md"
    )
