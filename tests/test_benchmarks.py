"""The benchmark programs still run; what they measure on a busy machine proves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figure, percentile, table
from tests.benchmarks.lags import by_batch, lags_ms

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "figure"), [("lag-100k", "p99"), ("soak", "descriptors")])
def test_a_benchmark_runs_and_shows_its_figures(name: str, figure: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", name, "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode in (0, 1), done.stderr
    assert "FAILED" not in done.stdout, done.stdout
    assert figure in done.stdout
    for never in ("lost triggers", "stuck", "containers left"):  # however busy the machine is
        assert f"{name}, {never}" not in done.stdout, done.stdout


def test_a_figure_is_judged_by_its_median_and_with_every_by_its_worst_round() -> None:
    rounds = [1.0, 2.0, 9.0]

    assert not Figure(what="lag", unit="ms", rounds=rounds, bar=2.0).missed
    assert Figure(what="lag", unit="ms", rounds=rounds, bar=2.0, every=True).missed
    assert Figure(what="rate", unit="1/s", rounds=rounds, bar=3.0, higher_is_better=True).missed
    assert "MISSED" in table([Figure(what="lag", unit="ms", rounds=rounds, bar=1.0)])


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile(range(1, 101), 99) == 99
    assert percentile([7.0], 50) == 7.0


def test_a_due_time_that_no_request_followed_counts_with_the_time_that_has_passed() -> None:
    asked = by_batch([("batch_a", 10.25), ("batch_a", 40.0)])
    dues = [("batch_a", 10.0), ("batch_a", 50.0), ("batch_b", 58.0)]

    assert lags_ms(dues, asked, now=60.0) == [250.0, 10_000.0, 2_000.0]
