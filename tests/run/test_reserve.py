"""What a sweep keeps of its budget for everything but passes and timings."""

import time
from itertools import count

import pytest

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.records import LadderInfo
from streamtrain.report.dry_run import plan_run
from streamtrain.run.prepare import prepare
from streamtrain.run.reserve import REPORT_SECONDS, with_reserve
from streamtrain.run.sweep import sweep
from streamtrain.run.sweep_plan import ladder_of
from streamtrain.science.spending import passes_seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reserve") / "data"
    generate(folder, kind="linear", rows=20_000)
    return folder


def test_what_is_no_pass_is_reserved_from_a_budget_of_seconds(data, monkeypatch):
    """Opening counts as it was measured, and a sweep that measures more reserves more."""
    monkeypatch.setattr("streamtrain.run.measure._seconds_per_row_gradient", lambda *_: 1e-6)

    def reserved(measure, opening=0.0, budget=60.0):
        config = make_config(
            {"data": {"path": str(data)}, "sweep": {"measure": measure, "budget": budget}}
        )
        prepared = prepare(config, learners=2, rates=2)
        return with_reserve(prepared, ladder_of(prepared), (16, 64), opening).reserved_seconds

    assert reserved("none") == REPORT_SECONDS
    assert reserved("none", opening=3.5) == REPORT_SECONDS + 3.5
    assert REPORT_SECONDS < reserved("shuffle") < reserved("noise,curvature,sharpness,shuffle")
    assert reserved("none", opening=3.5, budget="10M") == 0.0


def test_more_is_reserved_on_a_busy_machine(data, monkeypatch):
    """Clocks of a thread that gets a quarter of its core."""
    ticks = count()
    monkeypatch.setattr("streamtrain.run.reserve.time.perf_counter", lambda: 0.4 * next(ticks))
    monkeypatch.setattr("streamtrain.run.reserve.time.thread_time", lambda: 0.05 * next(ticks))
    monkeypatch.setattr("streamtrain.run.reserve.measure_costs", lambda *_, **__: [])
    prepared = prepare(make_config({"data": {"path": str(data)}}), learners=2, rates=2)
    ladder = with_reserve(prepared, LadderInfo(budget_seconds=60.0), (16,), 0.0)
    assert ladder.reserved_seconds == pytest.approx(8.0 * REPORT_SECONDS)


class Stopped(Exception):
    """Ends a sweep at its first record."""


@pytest.mark.parametrize("seconds", [0, 50])
def test_a_sweep_reserves_the_seconds_before_it(data, seconds):
    config = make_config({"data": {"path": str(data)}, "sweep": {"measure": "none"}})
    headers = []

    def stop(record):
        headers.append(record)
        raise Stopped

    before = time.perf_counter() - seconds
    with pytest.raises(Stopped):
        sweep(config, stop, {"command": "", "env": {}}, began=before if seconds else None)
    ladder = headers[0].ladder
    assert ladder.before_seconds == pytest.approx(seconds, abs=1.0)
    assert REPORT_SECONDS < ladder.reserved_seconds < REPORT_SECONDS + 10
    # a quarter of the budget is the least, and 85 % the most
    assert passes_seconds(ladder) == (0.25 if seconds else 0.85) * 60


def test_a_dry_run_announces_a_budget_that_was_spent_before_it(data):
    config = make_config({"data": {"path": str(data)}, "sweep": {"measure": "none", "budget": 5.0}})
    plan = plan_run(config, "sweep", began=time.perf_counter() - 50)
    assert plan["budget_seconds"] > 50
