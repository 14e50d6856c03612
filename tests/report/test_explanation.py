"""The explanation quotes the figures of the summary, and nothing that was not measured."""

from dataclasses import replace

import pytest

from streamtrain.report.analysis import Summary
from streamtrain.report.summary_parts import CellFigures, Growing, OtherTarget
from streamtrain.report.text.explanation import explain
from streamtrain.science.intervals import Estimate


def cell(size, status="reached", lr=0.01, steps=100.0):
    figures = {}
    if status == "reached":
        figures["steps_to_target"] = Estimate(value=steps)
        figures["rows_to_target"] = Estimate(value=steps * size)
    return CellFigures(
        batch_size=size, status=status, lr=lr, holdout_loss=Estimate(value=0.1), **figures
    )


def summary(**changes):
    values = {
        "cells": [cell(1000, steps=480), cell(1_000_000, steps=481)],
        "lr_rules": ["fixed"],
        "target_loss": 0.15,
        "train_rows": 10**9,
    }
    return Summary(**(values | changes))


def test_the_same_rate_takes_the_same_steps_and_a_thousand_times_the_rows():
    said = explain(summary())
    assert (
        said[0] == "At the same learning rate (0.01) loss 0.15 took: 1,000: 480 steps, 480 k rows;"
        " 1,000,000: 481 steps, 481 M rows."
    )
    assert "From 1,000 to 1,000,000" in said[1]
    assert "the rows grow 1,002 times" in said[1]
    assert len(said) == 2


def test_step_for_step_a_larger_minibatch_is_hardly_better():
    cells = [cell(1000, steps=480), cell(1_000_000, "not_reached")]
    cells = [
        replace(one, holdout_loss_at_steps=Estimate(value=loss, n=1))
        for one, loss in zip(cells, (0.214, 0.213), strict=True)
    ]
    said = explain(summary(cells=cells, holdout_loss_at_steps=19))[-1]
    assert said.startswith("After 19 steps each, 1,000 is at loss 0.2140 and 1,000,000 at 0.2130")
    assert "1,000 times the rows per step, and no better" in said
    cells[1] = replace(cells[1], holdout_loss_at_steps=Estimate(value=0.1, n=1))
    assert "2.1 times better" in explain(summary(cells=cells, holdout_loss_at_steps=19))[-1]


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [
        (-0.3, -0.1, "takes 20 % [10, 30] less time than the recommended size (90 %)"),
        (-0.1, 0.3, "is not certainly faster than the recommended size: slower by 10 % [-10, 30]"),
        (0.1, 0.3, "is slower than the recommended size, by 20 % [10, 30] (90 %)."),
    ],
)
def test_a_size_that_grows_is_slower_where_its_interval_says_so(lo, hi, verdict):
    growing = Growing(
        batch_schedule="16@0,64@1024",
        learning_rate=0.01,
        slower_by=Estimate(value=(lo + hi) / 2, lo=lo, hi=hi, n=5),
        wins=hi < 0,
    )
    (said,) = [text for text in explain(summary(growing=growing)) if "that grows" in text]
    assert verdict in said


def test_the_hardest_target_that_the_largest_size_reached_is_told():
    cells = [cell(100, steps=3000), cell(1000, steps=480), cell(1_000_000, "not_reached")]
    easier = [
        OtherTarget(
            target_loss=0.2,
            cells=(cell(100, steps=90), cell(1000, steps=20), cell(1_000_000, steps=21)),
        ),
        OtherTarget(
            target_loss=0.3,
            cells=(cell(100, steps=9), cell(1000, steps=2), cell(1_000_000, steps=2)),
        ),
    ]
    said = explain(summary(cells=cells, other_targets=easier, train_rows=20_000_000))
    assert (
        "loss 0.2 took: 100: 90 steps, 9 k rows; 1,000: 20 steps, 20 k rows; 1,000,000: 21 steps"
        in said[0]
    )
    assert "From 1,000 to 1,000,000" in said[1]
    assert said[2].startswith(
        "20 M rows are only 20 steps of 1,000,000: too few updates to reach loss 0.15"
    )


def test_the_root_law_predicts_and_is_measured():
    slope = {
        "value": -0.5,
        "lo": -0.52,
        "hi": -0.48,
        "sizes": [16, 32, 1024],
        "sd": [8.0, 5.7, 1.0],
    }
    assert (
        "64 times the rows made it 8.0 times as exact, 8.0 by the law"
        in explain(summary(measures={"sqrt_m_slope": slope}))[-1]
    )


def test_a_noise_scale_without_an_upper_end_says_at_least():
    scale = {"value": None, "lo": 512.4, "hi": None, "n": 16, "kind": "fieller lower bound"}
    assert "balance at ≥ 512" in explain(summary(measures={"noise_scale": scale}))[-1]


def test_a_size_that_did_not_arrive_had_too_few_updates():
    said = explain(
        summary(
            cells=[cell(1000, steps=480), cell(1_000_000, "not_reached")], train_rows=20_000_000
        )
    )
    assert "1,000: 480 steps" in said[0]
    assert "only 20 steps of 1,000,000: too few updates" in said[1]


def test_tuned_rates_are_told_beside_the_fixed_one():
    arms = {"tuned": [cell(1000, steps=5, lr=0.8), cell(1_000_000, steps=5, lr=0.9)]}
    said = explain(summary(lr_rules=["fixed", "tuned"], arms=arms))
    assert len(said) == 3
    assert "With the rate tuned" in said[2]
    assert "1,000 times the rows" in said[2]


@pytest.mark.parametrize(
    ("slope", "word"),
    [
        ((-0.55, -0.5, -0.45), "as Goodfellow"),
        ((-0.4, -0.35, -0.3), "less steeply"),
        ((-0.8, -0.7, -0.6), "more"),
    ],
)
def test_the_root_law(slope, word):
    lo, value, hi = slope
    said = explain(summary(measures={"sqrt_m_slope": {"value": value, "lo": lo, "hi": hi}}))[-1]
    assert f"m^{value:.2f} [{lo:.2f}, {hi:.2f}]" in said
    assert word in said


@pytest.mark.parametrize(
    ("large", "says"), [(10.0, "as Keskar"), (0.1, "opposite"), (1.2, "no difference")]
)
def test_sharpness_is_told_and_never_judged(large, says):
    said = explain(
        summary(
            measures={
                "sharpness": {
                    "by_batch_size": {
                        "1000": {"value": 1.0, "adaptive": {"0.001": {"value": 0.2}}},
                        "1000000": {"value": large, "adaptive": {"0.001": {"value": 0.3}}},
                    }
                }
            }
        )
    )[-1]
    assert says in said
    assert "0.2000 % and 0.3000 %" in said
    assert "never enters the recommendation" in said


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        ((1.5, 1.2, 1.9), "as Keskar"),
        ((1.5, 0.8, 2.8), "no difference"),
        ((0.5, 0.3, 0.9), "opposite"),
    ],
)
def test_at_equal_loss_the_interval_decides(ratio, says):
    value, lo, hi = ratio
    found = {"value": value, "lo": lo, "hi": hi, "n": 3, "kind": "t on logarithms"}
    equal = {
        "target_loss": 0.15,
        "trials": 3,
        "by_batch_size": {"1000": {}, "1000000": {}},
        "largest_over_smallest": dict.fromkeys(("phi", "adaptive", "curvature"), found),
    }
    # of the two, the one with the largest minibatch is reported
    deeper = equal | {"target_loss": 0.01, "by_batch_size": {"10": {}, "1000": {}}}
    said = explain(
        summary(measures={"sharpness": {"by_batch_size": {}, "at_targets": [deeper, equal]}})
    )[-1]
    assert "same loss (0.15)" in said
    assert f"{value:.2f} [{lo:.2f}, {hi:.2f}]" in said
    assert says in said


def test_nothing_measured_nothing_said():
    assert explain(summary(lr_rules=["tuned"])) == []
    assert explain(summary(cells=[cell(64)])) == []
