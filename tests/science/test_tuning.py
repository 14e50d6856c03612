"""The passes of a sweep where the curve of every learning rate is known."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.records import PassEnded
from streamtrain.science.judge import judge
from streamtrain.science.run_log import Run
from streamtrain.science.tuning import (
    EXTENDED_BY,
    EXTENSIONS,
    PassPlan,
    choose_winners,
    expected_passes,
    next_fresh_pass,
    next_tuning_pass,
    passes_after,
)
from tests.science.runs import add_curve, make_header

GRID = (0.001, 0.00316, 0.01, 0.0316, 0.1)
ROWS = [0] + [1024 * 2**k for k in range(12)]


def header(**changes):
    values = {
        "lrs": (GRID, GRID),
        "trials": 4,
        "target_loss": (0.1,),
        "lr_rules": ("tuned",),
        "halving": True,
        "extend": True,
        "rerun": True,
    }
    sizes = changes.pop("batch_sizes", (64, 1024))
    return replace(make_header(sizes, lr=0.01, **{**values, **changes}), lr=0.01)


def run_plan(
    run: Run,
    plan: PassPlan,
    best: dict[int, float],
    luck: dict[tuple[float, int], float] | None = None,
    *,
    ends: bool = True,
):
    """Add the records of a pass.

    The further a learning rate is from the best of its size, the slower its loss falls.
    """
    for size, lrs in plan.lrs.items():
        for lr in lrs:
            distance = abs(math.log(lr / best[size])) + (luck or {}).get((lr, plan.trial), 0.0)
            add_curve(
                run,
                batch_size=size,
                lr=lr,
                trial=plan.trial,
                steps=[rows // size for rows in ROWS],
                rows=ROWS,
                losses=[1 / (1 + rows / 1024 * math.exp(-distance)) for rows in ROWS],
            )
    if ends:
        run.add(
            PassEnded(
                kind=plan.kind,
                trial=plan.trial,
                rows_read=ROWS[-1],
                replicas=1,
                lrs=dict(plan.lrs),
            )
        )


def play(run: Run, best: dict[int, float], luck=None) -> list[PassPlan]:
    """Run all passes of a sweep and return their plans."""
    plans = []
    while plan := next_tuning_pass(run):
        plans.append(plan)
        run_plan(run, plan, best, luck)
    run.add(choose_winners(run))
    while plan := next_fresh_pass(run):
        plans.append(plan)
        run_plan(run, plan, best, luck)
    return plans


def test_halving_leaves_fewer_rates_each_trial_and_fresh_seeds_judge():
    run = Run(header=header())
    plans = play(run, {64: 0.00316, 1024: 0.0316})
    assert [(plan.kind, plan.trial) for plan in plans] == [("tuning", k) for k in range(4)] + [
        ("fresh", k) for k in range(4, 8)
    ]
    assert [len(plan.lrs[64]) for plan in plans] == [5, 3, 2, 2, 1, 1, 1, 1]
    assert {plan.lrs[64] for plan in plans[4:]} == {(0.00316,)}
    assert {plan.lrs[1024] for plan in plans[4:]} == {(0.0316,)}
    judgement = judge(run)
    assert judgement.fresh
    assert [sorted(cell.curves) for cell in judgement.cells] == [[4, 5, 6, 7]] * 2


def test_without_halving_every_rate_runs_to_the_end():
    plans = play(Run(header=header(halving=False, rerun=False)), {64: 0.01, 1024: 0.01})
    assert [len(plan.lrs[64]) for plan in plans] == [5] * 4


@settings(max_examples=60, deadline=None)
@given(
    best=st.tuples(*[st.floats(-10, 1)] * 2),
    trials=st.integers(1, 4),
    flags=st.tuples(*[st.booleans()] * 3),
    rates=st.integers(1, 5),
    rules=st.sampled_from([("tuned",), ("fixed", "tuned"), ("linear", "sqrt"), ("tuned", "sqrt")]),
    targets=st.sampled_from([(), (0.1,), (0.1, 0.5, 0.9)]),
)
def test_the_passes_that_are_expected_hold_those_that_come(
    best, trials, flags, rates, rules, targets
):
    halving, extend, rerun = flags
    run = Run(
        header=header(
            lrs=(GRID[:rates],) * 2,
            trials=trials,
            target_loss=targets,
            lr_rules=rules,
            halving=halving,
            extend=extend,
            rerun=rerun,
        )
    )
    expected = expected_passes(run)
    plans = play(run, {64: 10 ** best[0], 1024: 10 ** best[1]})
    certain = [one for one in expected if one.fewest]
    assert [one.kind for one in certain] == [
        plan.kind for plan in plans if plan.kind != "extension"
    ]
    remaining = iter(plans)
    plan = next(remaining, None)
    for one in expected:
        if plan is None or plan.kind != one.kind:
            assert not one.fewest
            continue
        for size in one.most:
            least, count = one.fewest.get(size, 0), len(plan.lrs.get(size, ()))
            assert least <= count <= one.most[size]
        plan = next(remaining, None)
    assert plan is None


@pytest.mark.parametrize(("best", "sizes"), [(0.3, {64}), (1e-4, {64}), (1e-9, {64})])
def test_a_grid_grows_at_its_edge_until_the_best_lies_inside(best, sizes):
    run = Run(header=header())
    plans = play(run, {64: best, 1024: 0.01})
    extensions = [plan for plan in plans if plan.kind == "extension"]
    assert extensions
    assert all(
        set(plan.lrs) == sizes and plan.trial == 0 and len(plan.lrs[64]) == EXTENDED_BY
        for plan in extensions
    )
    grid, lr = run.learning_rates(64), run.winners[0].lrs[0]
    inside = grid[0] < best < grid[-1]
    assert len(grid) == len(set(grid)) == 5 + EXTENDED_BY * len(extensions)
    assert inside or len(extensions) == EXTENSIONS
    assert lr == min(grid, key=lambda rate: abs(math.log(rate / best)))
    assert run.winners[0].at_edge == (not inside, False)
    assert all(plan.lrs[1024] for plan in plans if plan.kind == "tuning")
    assert run.learning_rates(1024) == list(GRID)


def test_a_grid_does_not_grow_for_a_size_that_took_no_step():
    """All its learning rates have the loss of the initial weights, so extensions find nothing."""
    run = Run(header=header(batch_sizes=(64, 10**9)))
    assert {plan.kind for plan in play(run, {64: 0.01, 10**9: 0.0001})} == {"tuning", "fresh"}
    assert run.learning_rates(10**9) == list(GRID)


def test_rules_that_do_not_tune_share_the_tuning_passes_and_need_no_fresh_seeds():
    run = Run(header=header(lr_rules=("fixed", "linear", "sqrt")))
    plans = play(run, {64: 0.01, 1024: 0.01})
    assert [(plan.kind, plan.trial) for plan in plans] == [("tuning", k) for k in range(4)]
    assert plans[0].lrs == {64: (0.000625, 0.0025, 0.01), 1024: (0.01,)}
    judgement = judge(run)
    assert not judgement.fresh
    assert [cell.lr for cell in judgement.cells] == [0.01, 0.01]


def test_a_lucky_rate_is_found_out_on_fresh_seeds():
    """A learning rate that is lucky on the tuning seeds wins, but its figures come from seeds on
    which it is not.
    """
    luck = {(0.01, trial): -2.0 for trial in range(4)}
    run = Run(header=header(extend=False))
    play(run, {64: 0.00316, 1024: 0.01}, luck)
    cell = judge(run).cells[0]
    assert cell.lr == 0.01
    assert min(cell.rows_to_target.values()) > 2 * 9 * 1024


def test_an_automatic_target_is_the_harder_to_miss_of_tuning_and_fresh_seeds():
    """Fresh seeds may do better than those that chose the target, or worse: the target is never
    lowered, and is raised to a loss that they reached.
    """
    unlucky = {(lr, trial): 1.0 for lr in GRID for trial in range(2)}
    for luck, raised in (
        (unlucky, False),
        ({(lr, trial): 1.0 for lr in GRID for trial in (2, 3)}, True),
    ):
        run = Run(header=header(target_loss=(), trials=2, extend=False, halving=False))
        play(run, {64: 0.01, 1024: 0.01}, luck)
        tuned, judged = run.winners[0].target_loss, judge(run)
        assert judged.chosen == "automatic"
        assert judged.target > tuned if raised else judged.target == tuned
        assert all(cell.status == "reached" for cell in judged.cells)


def test_every_given_target_has_its_winner_on_fresh_seeds():
    run = Run(header=header(target_loss=(0.1, 0.5)))
    play(run, {64: 0.00316, 1024: 0.0316})
    assert [winners.target_loss for winners in run.winners] == [0.1, 0.5]
    assert next_tuning_pass(run) is None
    assert next_fresh_pass(run) is None


@given(st.data())
def test_the_next_pass_is_a_function_of_the_passes_that_ended(data):
    """Records of a pass that was cut off change nothing: a resumed sweep makes the same passes."""
    best = {
        64: data.draw(st.sampled_from([1e-4, *GRID, 0.5])),
        1024: data.draw(st.sampled_from(GRID)),
    }
    changes = {
        "trials": data.draw(st.integers(1, 3)),
        "halving": data.draw(st.booleans()),
        "target_loss": data.draw(st.sampled_from([(0.1,), ()])),
    }
    whole = play(Run(header=header(**changes)), best)
    run, plans = Run(header=header(**changes)), []
    while plan := next_tuning_pass(run):
        run_plan(Run(header=run.header), plan, best, ends=False)
        assert next_tuning_pass(run) == plan
        plans.append(plan)
        run_plan(run, plan, best)
    run.add(choose_winners(run))
    while plan := next_fresh_pass(run):
        plans.append(plan)
        run_plan(run, plan, best)
    assert plans == whole


@pytest.mark.parametrize(
    ("changes", "ahead"),
    [
        pytest.param({}, [0, 0, 0, 0], id="halving drops rates"),
        pytest.param({"halving": False}, [0, 2, 1, 0], id="the first may extend the grid"),
        pytest.param({"halving": False, "extend": False}, [3, 2, 1, 0], id="no rate depends on it"),
        pytest.param({"lrs": (GRID[:2],) * 2, "extend": False}, [3, 2, 1, 0], id="two rates"),
        pytest.param({"lrs": (GRID[:1],) * 2}, [3, 2, 1, 0], id="one rate"),
        pytest.param({"lr_rules": ("linear", "sqrt")}, [3, 2, 1, 0], id="rules"),
    ],
)
def test_passes_that_follow_whatever_the_records_are(changes, ahead):
    run = Run(header=header(**changes))
    best, found, plans = {64: 0.00316, 1024: 0.0316}, [], []
    following = next_tuning_pass
    while True:
        if (plan := following(run)) is None and following is next_fresh_pass:
            break
        if plan is None:
            run.add(choose_winners(run))
            following = next_fresh_pass
            continue
        plans.append(plan)
        found.append(passes_after(run, plan))
        run_plan(run, plan, best)
    for number, after in enumerate(found):
        assert after == plans[number + 1 : number + 1 + len(after)]
    by_kind = {
        kind: [len(after) for plan, after in zip(plans, found, strict=True) if plan.kind == kind]
        for kind in ("tuning", "extension", "fresh")
    }
    assert by_kind["tuning"] == ahead
    assert set(by_kind["extension"]) <= {0}
    assert by_kind["fresh"] in ([3, 2, 1, 0], [])
