"""Ratios are of pairs, a slow loop is not compared with, and the bottleneck limits the others."""

import json

import pytest

from streamtrain.bench.bench_verdict import RATIOS, WORST_EXPERT, bottleneck, judge_loop, summarize
from streamtrain.bench.stream_bench import drain, take_turns

SAMPLES = {
    "streamtrain": [40e6, 44e6, 42e6],
    "decode": [100e6, 110e6, 105e6],
    "expert_loop": [8e6, 8.8e6, 8.4e6],
    "tuned_loop": [16e6, 17.6e6, 16.8e6],
    "in_ram_gather": [10e6, 11e6, 10.5e6],
}


def test_medians_and_paired_ratios_with_intervals():
    document = summarize(SAMPLES, {})
    assert [
        document[name]
        for name in ("rows_per_second", "decode_rows_per_second", "expert_loop_rows_per_second")
    ] == [42e6, 105e6, 8.4e6]
    expected = {
        "ratio_to_decode": 0.4,
        "ratio_to_expert_loop": 5.0,
        "ratio_to_tuned_loop": 2.5,
        "ratio_to_in_ram_gather": 4.0,
    }
    assert {name: document[name] for name in RATIOS.values()} == pytest.approx(expected)
    assert document["expert_loop_valid"] is True
    assert document["reasons"] == {}
    for name, figure in document["intervals"].items():
        assert figure["n"] == 3, name
        assert figure["lo"] <= figure["value"] * (1 + 1e-9), name
        assert figure["value"] <= figure["hi"] * (1 + 1e-9), name
        assert figure["value"] == document[name]
    json.dumps(document, allow_nan=False)


def test_a_bad_expert_is_no_yardstick():
    document = summarize(SAMPLES | {"expert_loop": [3e6, 3e6, 3e6]}, {})
    assert document["ratio_to_expert_loop"] is None
    assert document["expert_loop_valid"] is False
    assert "0.029 of raw decode" in document["reasons"]["expert_loop"]
    assert document["expert_loop_rows_per_second"] == 3e6
    assert "ratio_to_expert_loop" not in document["intervals"]
    assert document["ratio_to_tuned_loop"] == pytest.approx(2.5)


def test_the_expert_is_judged_by_decode_on_two_threads():
    wide = SAMPLES | {"decode": [1600e6] * 3, "decode_2_threads": [105e6] * 3}
    document = summarize(wide, {})
    assert document["expert_loop_valid"] is True
    assert document["ratio_to_decode"] == pytest.approx(42 / 1600, rel=0.01)


@pytest.mark.parametrize("missing", [pytest.param(name, id=name) for name in RATIOS])
def test_a_side_that_was_not_measured_is_null_with_its_reason(missing):
    document = summarize(
        {name: sample for name, sample in SAMPLES.items() if name != missing},
        {missing: "too large"},
    )
    assert document[f"{missing}_rows_per_second"] is None
    assert document[RATIOS[missing]] is None
    assert document["reasons"][missing] == "too large"
    assert document["expert_loop_valid"] == (missing not in ("expert_loop", "decode"))


@pytest.mark.parametrize(
    ("share", "valid"),
    [
        pytest.param(WORST_EXPERT, True, id="just"),
        pytest.param(WORST_EXPERT * 0.999, False, id="below"),
        pytest.param(0.5, True, id="good"),
    ],
)
def test_the_limit_of_a_good_loop(share, valid):
    assert (judge_loop(share * 2**27, {"value": 2.0**27}) is None) == valid


PARTS = {
    "decode_seconds": 2.0,
    "deal_seconds": 1.5,
    "permute_seconds": 1.0,
    "wait_seconds": 2.0,
    "consumer_seconds": 1.0,
    "fill_seconds": 0.1,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, "shuffle", id="deal and permute together"),
        pytest.param({"decode_seconds": 2.6}, "decode", id="decode"),
        pytest.param({"consumer_seconds": 30.0}, "consumer", id="consumer"),
        pytest.param({"fill_seconds": 1.95}, "consumer", id="it waited at first only"),
        pytest.param({"fill_seconds": 9.0}, "consumer", id="more fill than wait"),
    ],
)
def test_the_bottleneck(change, expected):
    assert bottleneck(PARTS | change) == expected


def test_sides_take_turns_after_a_warm_up():
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in "abc"}
    samples = take_turns(sides, 2, warm=["b", "c"])
    assert "".join(calls) == "bc" + "abc" * 2
    assert samples == {"a": [3.0, 6.0], "b": [4.0, 7.0], "c": [5.0, 8.0]}


@pytest.mark.parametrize(
    ("limit", "rows"),
    [
        pytest.param(0, 0, id="none"),
        pytest.param(-1, 0, id="less than none"),
        pytest.param(3, 4, id="whole minibatches"),
        pytest.param(99, 10, id="all"),
    ],
)
def test_the_consumer_stops_at_its_rows(limit, rows):
    assert drain(iter([("xx", "y")] * 5), limit) == rows
