"""What the benchmarks of minibatch sizes share: schedules, seconds and ratios of known answer."""

import importlib.util
import math
from pathlib import Path

import pytest

from streamtrain.records import BatchStage


@pytest.fixture(scope="module")
def contestants():
    spec = importlib.util.spec_from_file_location(
        "contestants", Path(__file__).with_name("contestants.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_size_begins_where_the_power_law_says(contestants):
    stages = contestants.power_law(512.0, 1.0, 32, 128)
    assert stages == (
        BatchStage(first_row=0, batch_size=32),
        BatchStage(first_row=512 * 64, batch_size=64),
        BatchStage(first_row=512 * 128, batch_size=128),
    )
    assert contestants.Contestant(stages, 0.1).name == "32@0,64@32768,128@65536"
    assert contestants.power_law(8.0, 2.0, 32, 64)[1].first_row == 8 * 64**2


def test_seconds_are_those_of_the_row_at_which_a_loss_is_reached(contestants):
    # the log loss falls by log 2 from row 100 to row 200, so half of that is at row 150
    curve = ([0, 100, 200, 300], [8.0, 4.0, 2.0, 1.0])
    contestant = contestants.Contestant(contestants.constant(10), 0.1)
    seconds, reached = contestants.log_seconds({10: 1e-3}, contestant, curve, [math.sqrt(8)])
    assert reached
    assert seconds == pytest.approx(math.log(0.15))
    missed, reached = contestants.log_seconds({10: 1e-3}, contestant, curve, [0.5])
    assert not reached
    assert missed == pytest.approx(math.log(0.3))


def test_a_ratio_is_paired_within_trials(contestants):
    """Trials that differ by a factor of 100 do not widen it; t(0.975, 1) is 12.706."""
    slow, fast = [0.0, math.log(100)], [math.log(2), math.log(200)]
    paired = contestants.ratio(fast, slow)
    assert (paired.value, paired.lo, paired.hi) == pytest.approx((2, 2, 2))
    spread = contestants.ratio([0.0, 2.0], [0.0, 0.0])
    assert spread.value == pytest.approx(math.e)
    assert spread.hi == pytest.approx(math.exp(1 + 12.706), rel=1e-3)
