"""A sweep with a budget: its rungs grow, its trials compare, and its records decide both."""

import itertools
from dataclasses import replace

import pytest

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.records import LadderInfo, PassEnded, StepsTimed
from streamtrain.report.run_files import read_records
from streamtrain.science.contest import timing_variance
from streamtrain.science.ladder import (
    FACTORS,
    FIRST_ROWS,
    _trial_rows,
    contest_target,
    next_rung,
    next_trial,
    trials_after,
)
from streamtrain.science.run_log import Run, collect
from streamtrain.science.selection import Contender, select
from streamtrain.science.spending import timing_would_tell
from tests.run.whole_runs import run_sweep
from tests.science.runs import add_curve, make_header


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the run of a sweep with a budget of rows, which makes its decisions repeatable."""
    folder = tmp_path_factory.mktemp("ladder")
    generate(folder / "data", kind="friedman2", rows=20_000)
    values = {
        "data": {"path": str(folder / "data")},
        "sweep": {
            "batch_sizes": [64, 1024],
            "lr_grid": 3,
            "budget": 3_000_000,
            "measure": "none",
            "confirm": False,
        },
        "model": {"hidden": [8]},
    }
    run_sweep(make_config(values), folder / "out", report=False)
    return collect(read_records(folder / "out" / "events.jsonl"))


def test_rungs_have_fresh_seeds_and_grow(run):
    rungs = [record for record in run.passes if record.kind == "tuning"]
    rows = [max(run.curves[64, record.lrs[64][0]][record.trial].rows) for record in rungs]
    assert rows[0] == FIRST_ROWS
    assert all(b in [a * factor for factor in FACTORS] for a, b in itertools.pairwise(rows))
    assert [record.trial for record in rungs] == list(range(len(rungs)))


def replayed(run):
    """Yield the run as it was before each trial, with the plan of the trial and the later ones."""
    fresh = [record for record in run.passes if record.kind == "fresh"]
    for number, record in enumerate(fresh):
        curves = {
            cell: {trial: curve for trial, curve in trials.items() if trial < record.trial}
            for cell, trials in run.curves.items()
        }
        passes = run.passes[: len(run.passes) - len(fresh) + number]
        before = replace(run, passes=passes, curves=curves)
        yield before, next_trial(before)


def test_the_trials_up_to_the_next_look_follow_whatever_the_records_are(run):
    """A budget of rows decides by rows only, so each is the trial that the records ask for."""
    before, plans = zip(*replayed(run), strict=True)
    found = [trials_after(*each) for each in zip(before, plans, strict=True)]
    assert [len(after) for after in found] == [2, 1, 0, 1, 0, 2, 1, 0][: len(found)]
    for number, after in enumerate(found):
        assert after == list(plans[number + 1 : number + 1 + len(after)])


def test_trials_that_the_budget_does_not_hold_do_not_follow(run):
    """The second trial does in any case."""
    first, plan = next(replayed(run))
    used = sum(max(first.curves[64, r.lrs[64][0]][r.trial].rows) for r in first.passes)
    for trials, ahead in ((0, 1), (2, 1), (3, 2)):
        ladder = replace(first.header.ladder, budget_rows=used + trials * plan.rows)
        poor = replace(first, header=replace(first.header, ladder=ladder))
        assert len(trials_after(poor, plan)) == ahead


def test_trials_come_after_the_rungs_on_other_seeds(run):
    kinds = [record.kind for record in run.passes]
    assert kinds.index("fresh") > max(i for i, kind in enumerate(kinds) if kind != "fresh")
    fresh = [record.trial for record in run.passes if record.kind == "fresh"]
    assert len(fresh) >= 2
    assert min(fresh) > max(record.trial for record in run.passes if record.kind == "tuning")


def test_the_budget_of_rows_holds(run):
    rows = sum(record.rows_read for record in run.passes)
    assert rows <= 3_000_000 + 2 * 20_000 * len(run.passes)


def test_the_ended_sweep_needs_no_further_pass(run):
    assert next_rung(run) is None
    assert next_trial(run) is None


def test_the_target_is_below_a_constant_and_was_chosen_before_the_trials(run):
    assert run.winners[0].target_loss == contest_target(run)
    assert run.winners[0].target_loss < run.baseline.constant_loss


@pytest.mark.parametrize(
    ("losses", "grown"),
    [
        pytest.param({16: 0.5, 64: 0.4, 256: 0.1}, 1024, id="the largest is the fastest"),
        pytest.param({16: 0.1, 64: 0.4, 256: 0.5}, 4, id="the smallest is the fastest"),
        pytest.param({16: 0.5, 64: 0.1, 256: 0.5}, None, id="an inner size is the fastest"),
        pytest.param({16: 0.5, 64: 0.1, 256: 0.1}, None, id="two sizes are equally fast"),
    ],
)
def test_a_size_is_added_beyond_the_edge_where_the_fastest_one_is(losses, grown):
    assert grown_size(losses, largest_size=1024) == grown
    assert grown_size(losses, largest_size=None) is None


def test_no_size_is_added_above_the_largest():
    losses = {16: 0.5, 64: 0.4, 256: 0.1}
    assert grown_size(losses, largest_size=256) is None


def grown_size(losses, *, largest_size):
    """Return the size that the second rung adds to `losses`, the best loss of each size."""
    header = make_header(tuple(losses), lr=0.1, trials=1)
    run = Run(header=replace(header, ladder=LadderInfo(largest_size=largest_size)))
    for size, loss in losses.items():
        rows = [0, 1024, 2048, 4096]
        add_curve(
            run,
            batch_size=size,
            lr=0.1,
            trial=0,
            steps=[row // size for row in rows],
            losses=[1.0, loss, loss, loss],
            rows=rows,
        )
    run.add(PassEnded(kind="tuning", trial=0, lrs=dict.fromkeys(losses, (0.1,))))
    plan = next_rung(run)
    assert plan is not None
    [size] = set(plan.lrs).difference(losses) or {None}
    return size


def test_no_trial_and_no_rung_is_shorter_than_a_minibatch_of_the_largest_size():
    """Size 16 needs 64 rows to the target; four times that is no step of 4,096."""
    header = make_header((16, 4096), lr=0.1, trials=1)
    run = Run(header=replace(header, ladder=LadderInfo()))
    for size, losses in ((16, [1.0, 0.1, 0.1, 0.1]), (4096, [1.0, 1.0, 1.0, 0.5])):
        rows = [0, 64, 4096, 8192]
        steps = [row // size for row in rows]
        add_curve(run, batch_size=size, lr=0.1, trial=0, steps=steps, losses=losses, rows=rows)
    run.add(PassEnded(kind="tuning", trial=0, lrs={16: (0.1,), 4096: (0.1,)}))
    assert _trial_rows(run, 0.2) == 4096
    large = make_header((64, 2**20), lr=0.1, trials=1)
    plan = next_rung(Run(header=replace(large, ladder=LadderInfo())))
    assert plan is not None
    assert plan.rows == 2**20


def test_steps_are_timed_again_only_where_that_could_settle_the_choice():
    """Size 64 is 5 % faster in every trial, and timings are off by 30 %."""
    run = Run(
        header=replace(
            make_header((64, 256), lr=0.1, trials=1), ladder=LadderInfo(budget_seconds=60)
        )
    )
    errors = itertools.cycle([0.7, 1.3, 1.0, 1.3, 0.7])
    for repeat in range(5):
        for size in (64, 256):
            run.add(StepsTimed(batch_size=size, repeat=repeat, rows=1000, seconds=next(errors)))
    deviation = (2 * timing_variance(run, (64, 256))) ** 0.5
    assert deviation > 0.1
    logs = {64: {0: 1.0, 1: 2.0, 2: 3.0}, 256: {0: 1.05, 1: 2.05, 2: 3.06}}

    def selected(missed, timing):
        found = [
            Contender(
                batch_size=size,
                log_seconds={trial: value for trial, value in by_trial.items() if trial != missed},
                censored={missed: by_trial[missed]} if missed in by_trial else {},
            )
            for size, by_trial in logs.items()
        ]
        return select(found, within=0.2, timing_variance=timing)

    doubtful = selected(None, deviation**2 / 2)
    assert doubtful.reached
    assert not doubtful.settled
    assert timing_would_tell(run, doubtful)
    assert not timing_would_tell(run, selected(None, 0.0))
    missed = selected(2, deviation**2 / 2)
    assert (missed.batch_size, missed.reached, missed.settled) == (64, False, False)
    assert missed.regret.hi is not None
    assert not timing_would_tell(run, missed)
