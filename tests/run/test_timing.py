"""How long the timing of a run takes, beside the run."""

import math

import pytest

from streamtrain.run import timing


@pytest.fixture(autouse=True)
def real_durations(monkeypatch):
    """The durations of the program: the tests of runs use shorter ones."""
    monkeypatch.setattr(timing, "REGION_SECONDS", 0.12)
    monkeypatch.setattr(timing, "REST_SECONDS", 0.06)


def test_long_runs_are_timed_in_full_and_short_ones_for_a_tenth_of_their_seconds():
    assert timing._durations(math.inf, 5, 6) == (0.12, 0.06)
    whole = 5 * (7 * 0.12 + 2 * 0.06)
    assert timing._durations(10 * whole, 5, 6) == (0.12, 0.06)
    region, rest = timing._durations(5 * whole, 5, 6)
    assert 5 * (7 * region + 2 * rest) == pytest.approx(whole / 2)
    assert timing._durations(0.0, 5, 6) == (0.015, 0.02)


def test_the_seconds_of_timing_are_those_of_its_regions_and_rests():
    """Of five repeats, and a region and a half per size to find how many steps fill one."""
    assert timing.timing_seconds(0.0, 5, 1) == pytest.approx(5 * (2 * 0.015 + 2 * 0.02) + 0.0225)
    longest = 5 * (7 * 0.12 + 2 * 0.06) + 6 * 0.18
    assert timing.timing_seconds(math.inf, 5, 6) == pytest.approx(longest)


def test_durations_that_are_shorter_already_stay(monkeypatch):
    monkeypatch.setattr(timing, "REGION_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "REST_SECONDS", 1e-4)
    assert timing._durations(0.0, 5, 1) == (1e-4, 1e-4)
