import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from connectors import metrics
from connectors.metric_kinds import Histogram

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus"
TEXT = (RULES / "guard.rules.yml").read_text()
ALERTS = re.findall(r"^ +- alert: (\w+)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        message = "promtool is not installed; it is in the Debian package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=RULES, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def blocks() -> dict[str, str]:
    """The text of each alert's rule."""
    return dict(zip(ALERTS, re.split(r"^ +- alert: \w+$", TEXT, flags=re.MULTILINE)[1:], strict=True))


def test_prometheus_reads_the_rules_and_the_configuration(promtool: str) -> None:
    run(promtool, "check", "rules", "guard.rules.yml")
    run(promtool, "check", "config", "prometheus.yml")


@pytest.mark.parametrize("file", sorted(path.name for path in RULES.glob("*.test.yml")))
def test_each_alert_fires_on_its_side_of_the_boundary_only(file: str, promtool: str) -> None:
    run(promtool, "test", "rules", file)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_where_it_fires_and_where_it_does_not(alert: str) -> None:
    tests = "".join(path.read_text() for path in sorted(RULES.glob("*.test.yml")))
    assert re.search(rf"alertname: {alert}, exp_alerts: \[\]", tests)
    assert re.search(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels", tests)


def test_every_metric_in_the_rules_is_one_that_we_have() -> None:
    suffixes = ("", "_bucket", "_sum", "_count")
    exposed = {m.name + s for m in metrics.TABLE for s in (suffixes if isinstance(m, Histogram) else ("",))}
    expressions = re.sub(r"^ +(summary|description|runbook):.*$|#.*$", "", TEXT, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w:])guard_\w+", expressions))
    assert len(named) > 8
    assert named <= exposed


def test_every_label_and_word_in_the_rules_is_one_that_the_metric_has() -> None:
    by_name = {metric.name: metric for metric in metrics.TABLE}
    for name, matchers in re.findall(r"(?<![\w:])(guard_\w+)\{([^}]*)\}", TEXT):
        metric = by_name[name.removesuffix("_bucket")]
        for label, words in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            assert set(words.split("|")) <= set(metric.words[label] or ())


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_it_is_and_where_to_read_what_to_do(alert: str) -> None:
    block = blocks()[alert]
    assert {"severity", "summary", "description", "runbook"} <= set(re.findall(r"(\w+):", block))
    assert f"runbook: docs/alerts.md#{alert.lower()}\n" in block + "\n"
    section = (ROOT / "docs/alerts.md").read_text().partition(f"## {alert}\n")[2].partition("\n## ")[0]
    assert "**Look at**" in section
    assert "**Do**" in section


def test_the_page_of_alerts_has_no_alert_that_is_gone() -> None:
    assert re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE) == ALERTS


def test_the_scrape_targets_are_the_ports_of_the_settings() -> None:
    from flows.settings import Settings

    settings = Settings.load({})
    targets: list[Any] = [
        json.loads(t) for t in re.findall(r"targets: (\[.*\])", (RULES / "prometheus.yml").read_text())
    ]
    sections = (settings.flow, settings.archive, settings.act, settings.reconcile)
    ports = (settings.receiver.admin_port, *(section.metrics_port for section in sections))
    assert targets == [[f"127.0.0.1:{port}"] for port in ports]
