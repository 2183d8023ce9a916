"""The files in `deploy/` name only what the program exposes, and their own tools take them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from teckochecker.telemetry import Metrics
from tests.required import absent

DEPLOY = Path(__file__).parent.parent / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"

WORDS = {
    *("by", "and", "or", "unless", "offset", "on", "ignoring", "bool"),
    *("sum", "min", "max", "avg", "count", "rate", "increase", "delta", "histogram_quantile"),
    *("min_over_time", "max_over_time", "label_values"),
}
OURS = {"le", "job", "instance", "alertname"}  # labels that Prometheus adds, or its histograms
REQUIRED_ALERTS = {"HighCheckErrorRate", "CheckExecutionSlow", "DatabaseWriterBusy"}
REQUIRED_PANELS = (
    "Active jobs",
    "Check executions/min",
    "P50/P95/P99 execution time",
    "Error rate",
    "Webhook success rate",
    "Docker containers",
    "Database writer busy",
    "Script storage",
    "Scheduler lag",
    "Oldest due job",
    "Deliveries failed",
    "Deliveries unconfirmed",
    "Database writes",
)


@cache
def exposed() -> dict[str, set[str]]:
    """Every series that the program can expose, with its labels."""
    found: dict[str, set[str]] = {"up": set()}
    for collector in Metrics().registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        for metric in collector.collect():
            suffixes = {
                "counter": ("_total",),
                "histogram": ("_bucket", "_sum", "_count"),
                "gauge": ("",),
            }[metric.type]
            for suffix in suffixes:
                found[f"{metric.name}{suffix}"] = labels
    return found


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


QUERIES = sorted(set(expressions()))


def parts(query: str) -> tuple[set[str], set[str]]:
    """The names of series in a query, and the labels that it uses."""
    query = re.sub(r'"[^"]*"', '""', query)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", query))
    for group in re.findall(r"\bby\s*\(([^)]*)\)", query):
        labels |= {label.strip() for label in group.split(",")}
    query = re.sub(r"\bby\s*\([^)]*\)|\{[^}]*\}|\[[^\]]*\]|\boffset\s+\w+", " ", query)
    query = re.sub(r"(label_values\(\s*\w+\s*),\s*\w+", r"\1", query)
    return set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", query)) - WORDS, labels - OURS


def test_the_reading_of_queries_finds_names_and_labels() -> None:
    query = 'sum by (le, source) (rate(a_bucket{x="b_c", y!~"d"}[5m])) / 0.5 + e_f offset 1h'

    assert parts(query) == ({"a_bucket", "e_f"}, {"x", "y", "source"})


@pytest.mark.parametrize(("place", "query"), QUERIES, ids=[place for place, _ in QUERIES])
def test_a_query_names_only_what_the_program_exposes(place: str, query: str) -> None:
    names, labels = parts(query)
    known = exposed()

    assert names
    assert names <= known.keys(), place
    assert labels <= set().union(*(known[name] for name in names)), place


@pytest.mark.parametrize("name", sorted(exposed().keys()))
def test_every_series_is_shown_or_watched(name: str) -> None:
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    shown = DASHBOARD.read_text()
    alerted = (PROMETHEUS / "alerts.yml").read_text()

    assert base in shown or base in alerted or base == "teckochecker_delivery_duration_seconds"


def test_there_are_the_alerts_and_panels_that_are_asked_for() -> None:
    assert {rule["alert"] for rule in rules()} >= REQUIRED_ALERTS
    titles = {panel["title"] for panel in panels()}
    assert [title for title in REQUIRED_PANELS if title not in titles] == []


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]


def test_a_bound_of_a_bucket_that_a_rule_names_exists() -> None:
    metrics = Metrics()
    metrics.execution_duration.labels("python").observe(1)
    text = metrics.exposition().decode()
    bounds = set(re.findall(r'custom_check_duration_seconds_bucket\{le="([^"]+)"', text))

    for rule in rules():
        assert set(re.findall(r'le="([^"]+)"', rule["expr"])) <= bounds


def test_the_panels_lie_beside_and_below_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_scrape_configuration_gives_the_token_in_a_file() -> None:
    (scrape,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]

    assert scrape["job_name"] == "teckochecker"
    assert scrape["authorization"].keys() == {"credentials_file"}
    assert scrape["metrics_path"] == "/metrics"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_promtool_takes_it(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        absent("promtool", "promtool isn't installed: it comes with the package `prometheus`")
    done = subprocess.run(
        [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        name
        for case in cases
        for one in case.get("promql_expr_test", ())
        for sample in one["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }

    assert {rule["alert"] for rule in rules()} == fired
