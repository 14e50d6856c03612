"""Comparison of two runs: properties of a change, pairing, missing figures, and limits."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streamtrain.errors import ConfigError, DataError
from streamtrain.report.change import Sample, change
from streamtrain.report.compare import FIGURES, changed_keys, compare, paired, render_comparison
from streamtrain.report.fail_on import check_limits, parse_limits
from streamtrain.science.intervals import independent_ratio
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_records

SIZES = (256, 1024, 65536)


def runs(change=lambda record: None, **options):
    """Return a run, and the same run with `change` applied to each of its records."""
    before = make_records(SIZES, target_loss=[0.1], trials=3, **options)
    after = copy.deepcopy(before)
    for record in after:
        change(record)
    return collect(before), collect(after)


def scale(event, key, factor):
    def change(record):
        if record["event"] == event and record.get(key) is not None:
            record[key] *= factor

    return change


def test_a_run_beside_itself_has_not_changed():
    document = compare(*runs())
    assert document["paired"]
    assert document["same_data"]
    assert document["changed"] == []
    for cell in document["cells"]:
        assert [cell[name]["verdict"] for name in FIGURES] == [
            "undecided" if cell[name]["change"] is not None else "none" for name in FIGURES
        ]
        assert cell["verdict"] == "no difference shown"
        assert cell["holdout_loss"]["change"] == 0
    json.dumps(document, allow_nan=False)


def test_a_known_change_is_found_and_named():
    """Losses are 10 % higher in every trial, so the paired interval has no width."""
    document = compare(*runs(scale("evaluation", "holdout_loss", 1.1)))
    for cell in document["cells"]:
        loss = cell["holdout_loss"]
        assert (loss["change"], loss["lo"], loss["hi"]) == pytest.approx((0.1, 0.1, 0.1))
        assert loss["verdict"] == "worse"
        assert "higher loss" in cell["verdict"]
        assert cell["rows_per_second"]["verdict"] == "undecided"
        assert loss["b"] == pytest.approx(1.1 * loss["a"])


def test_slower_steps_are_slower_rows():
    document = compare(*runs(scale("timing", "seconds", 10)))
    assert all(
        cell["verdict"].startswith("slower") and cell["rows_per_second"]["change"] < -0.3
        for cell in document["cells"]
    )


@pytest.mark.parametrize("seed", range(3))
def test_swapping_the_runs_inverts_every_change(seed):
    a, b = (
        collect(make_records(SIZES, trials=3, seed=seed, target_loss=[0.1])),
        collect(make_records(SIZES, trials=3, seed=seed + 9, target_loss=[0.1])),
    )
    for there, back in zip(compare(a, b)["cells"], compare(b, a)["cells"], strict=True):
        for name in FIGURES:
            if there[name]["change"] is not None:
                assert (1 + there[name]["change"]) * (1 + back[name]["change"]) == pytest.approx(1)
                assert (1 + there[name]["lo"]) * (1 + back[name]["hi"]) == pytest.approx(1)


def test_independent_ratio_is_welchs_interval():
    draw = np.random.default_rng(1)
    a, b = draw.lognormal(1, 0.1, 5), draw.lognormal(0, 0.3, 7)
    interval = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval()
    ratio = independent_ratio(a, b)
    assert ratio.lo == pytest.approx(np.exp(interval.low))
    assert ratio.hi == pytest.approx(np.exp(interval.high))
    many = independent_ratio(draw.lognormal(1, 0.1, 200), draw.lognormal(0, 0.1, 200))
    assert many.lo < np.e < many.hi
    assert many.hi / many.lo < 1.1
    with pytest.raises(ValueError, match="positive"):
        independent_ratio([], [1.0])


def test_trials_pair_only_on_the_same_rows_in_the_same_order():
    a, b = runs()
    assert paired(a, b)
    b.header.config["order"] = {"seed": 1}
    assert not paired(a, b)
    b.header = replace(b.header, config=a.header.config)
    b.header = replace(b.header, data=replace(b.header.data, fingerprint="another"))
    assert not paired(a, b)
    assert "different data" in render_comparison(compare(a, b), ("a", "b"))


def test_another_path_of_the_same_data_is_no_change():
    a, b = runs()
    a.header.config["data"], b.header.config["data"] = {"path": "d.csv"}, {"path": "/home/d.csv"}
    assert "data.path" not in render_comparison(compare(a, b), ("a", "b"))
    b.header = replace(b.header, data=replace(b.header.data, fingerprint="another"))
    text = render_comparison(compare(a, b), ("a", "b"))
    assert "changed  data.path: d.csv → /home/d.csv" in text


def test_what_only_one_run_has_is_said():
    a = collect(make_records((64, 256, 1024), target_loss=[0.1]))
    b = collect(make_records((256, 1024, 4096), target_loss=[0.1], outcomes={1024: "diverged"}))
    document = compare(a, b)
    assert (document["only_in_a"], document["only_in_b"]) == ([64], [4096])
    assert [cell["verdict"] for cell in document["cells"]][1] == "diverged in B"
    assert document["cells"][1]["holdout_loss"]["verdict"] == "missing"
    text = render_comparison(document, ("runs/a", "runs/b"))
    assert "only in A: minibatch size 64" in text
    assert "no value in B" in text
    document = compare(a, collect(make_records((128,))))
    assert document["cells"] == []
    with pytest.raises(DataError, match="no batch size is in both"):
        check_limits(document, parse_limits("holdout_loss>+1%"))


def test_changed_keys_are_dotted():
    assert changed_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}) == [
        {"key": "a.c", "a": 2, "b": 4},
        {"key": "d", "a": 3, "b": None},
    ]


@given(
    figure=st.sampled_from(sorted(FIGURES)),
    sign=st.sampled_from("<>"),
    percent=st.integers(-99, 500),
    change=st.floats(-0.9, 9),
    width=st.floats(0, 0.5),
)
def test_a_limit_fails_only_beyond_it_and_beyond_doubt(figure, sign, percent, change, width):
    [limit] = parse_limits(f"{figure}{sign}{percent:+d}%")
    lo, hi = change - width, change + width
    cell = {
        "batch_size": 64,
        figure: {
            "change": change,
            "lo": lo,
            "hi": hi,
            "verdict": "undecided" if lo <= 0 <= hi else "worse",
        },
        "status": ["reached"] * 2,
    }
    failures, doubts = check_limits({"cells": [cell]}, [limit])
    beyond = change < percent / 100 if sign == "<" else change > percent / 100
    assert bool(failures) == (beyond and not lo <= 0 <= hi)
    assert bool(doubts) == (beyond and lo <= 0 <= hi)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows_per_second", "write it like"),
        ("rows_per_secnd<-5%", "Did you mean rows_per_second"),
        ("holdout_loss>1", "write it like"),
        ("", "write it like"),
    ],
)
def test_a_wrong_limit_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_limits(text)


def test_a_figure_that_was_lost_fails_and_one_that_never_was_is_a_doubt():
    a, b = (
        collect(make_records((256, 1024), target_loss=[0.1], outcomes=outcomes))
        for outcomes in ({}, {256: "diverged"})
    )
    assert len(check_limits(compare(a, b), parse_limits("holdout_loss>+1%"))[0]) == 1
    assert check_limits(compare(a, b), parse_limits("holdout_loss<-1%"))[0] == []
    a, b = (collect(make_records((256, 1024), target_loss=[0.1], timing=False)) for _ in range(2))
    assert (
        "nothing was checked"
        in check_limits(compare(a, b), parse_limits("rows_per_second<-1%"))[1][0]
    )


@pytest.mark.parametrize(
    ("lacking", "words"), [("a", "A does not have"), ("ab", "neither run has")]
)
def test_a_limit_on_what_a_run_does_not_have_is_no_pass(lacking, words):
    sides = [
        collect(make_records(SIZES, holdout="none" if side in lacking else "rows")) for side in "ab"
    ]
    failures, doubts = check_limits(compare(*sides), parse_limits("holdout_loss>+1%"))
    assert failures == []
    assert len(doubts) == 1
    assert words in doubts[0]


def test_samples_that_share_one_trial_of_several_are_independent():
    """The fresh trials of a run of two are 2 and 3, and of a run of three 3, 4 and 5.

    One pair has no interval; five independent trials have one.
    """
    a, b = Sample({2: 1.0, 3: 1.1}, paired=True), Sample({3: 1.1, 4: 1.2, 5: 1.0}, paired=True)
    independent, mixed = (change(a, b, pairs=p, more_is_better=False) for p in (False, True))
    assert mixed == independent
    assert mixed["lo"] is not None
    twice = Sample({2: 2.0, 3: 2.2}, paired=True)
    assert change(a, twice, pairs=True, more_is_better=False)["lo"] == pytest.approx(1.0)
