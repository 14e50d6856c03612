"""What a sweep tries, from its flags and its data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen import generate
from streamtrain.config import DEFAULT_BUDGET, make_config
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.batch_sizes import FIXED_SIZES, first_sizes, largest_size
from streamtrain.records import LadderInfo
from streamtrain.run.prepare import prepare
from streamtrain.run.sweep_plan import (
    ladder_of,
    sizes_of,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "data"
    generate(folder, kind="linear", rows=20_000)
    return folder


def plan(data, *, data_keys=(), train=(), **sweep):
    config = make_config(
        {"data": {"path": str(data), **dict(data_keys)}, "sweep": sweep, "train": dict(train)}
    )
    prepared = prepare(config, learners=2, rates=2)
    ladder = ladder_of(prepared)
    return sizes_of(prepared, ladder), ladder


@given(st.integers(1, 10**12))
def test_sizes_are_at_most_an_eighth_of_the_rows_and_three_where_the_rows_allow_it(rows):
    sizes = first_sizes(largest_size(rows))
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] == 1 or sizes[-1] * 8 <= rows
    assert len(sizes) >= 3 or rows < 8 * 16
    assert len(sizes) <= 5


def test_the_default_is_a_minute_at_sizes_that_may_grow(data):
    sizes, ladder = plan(data)
    assert sizes == (16, 64, 256, 1024)
    assert ladder.budget_seconds == DEFAULT_BUDGET
    assert ladder.largest_size == 1024


def test_a_budget_too_small_for_what_is_always_done_is_announced_as_longer():
    assert LadderInfo(budget_seconds=60.0, reserved_seconds=7.0).announced_seconds == 60.0
    assert LadderInfo(budget_seconds=2.0, reserved_seconds=7.0).announced_seconds == 14.0
    spent = LadderInfo(budget_seconds=2.0, reserved_seconds=7.0, before_seconds=3.0)
    assert spent.announced_seconds == 17.0
    assert LadderInfo(budget_rows=10, reserved_seconds=7.0).announced_seconds is None


def test_given_sizes_stay_and_do_not_grow(data):
    sizes, ladder = plan(data, batch_sizes="32,100000")
    assert sizes == (32, 100_000)
    assert ladder.largest_size is None


def test_max_time_shortens_the_budget_and_holds_with_a_budget_of_rows(data):
    assert plan(data, train={"max_time": 5})[1].budget_seconds == 5
    _, ladder = plan(data, budget="100M", train={"max_time": 5})
    assert (ladder.budget_seconds, ladder.budget_rows) == (5, 100_000_000)


@pytest.mark.parametrize(
    ("flag", "keys"),
    [
        ("--trials", {"trials": 3}),
        ("--lr-rule", {"lr_rule": "linear"}),
        ("--halving off", {"halving": False}),
        ("--extend-grid off", {"extend_grid": False}),
        ("--rerun off", {"rerun": False}),
        ("several --target-loss", {"target_loss": [0.2, 0.3]}),
        ("--holdout 0", {"data_keys": {"holdout": 0}}),
    ],
)
def test_what_only_a_fixed_plan_can_do_asks_for_one_and_is_refused_with_a_budget(data, flag, keys):
    sizes, ladder = plan(data, **keys)
    assert ladder is None
    assert sizes == FIXED_SIZES[:3]
    with pytest.raises(ConfigError, match=f"--budget cannot be combined with {flag}"):
        plan(data, budget="60s", **keys)


@pytest.mark.parametrize("keys", [{"budget": "60s"}, {"goal": "loss-at-rows"}, {"trials": 2}])
def test_a_table_too_small_to_hold_rows_out_is_named_as_the_reason(tmp_path, keys):
    tiny = tmp_path / "t.csv"
    tiny.write_text("a,y\n1,2\n2,1\n3,4\n")
    with pytest.raises(DataError, match=r"3 rows: a fifth is held out, .* with --eval-data"):
        plan(tiny, **keys)


def test_words_for_null_that_shards_do_not_have_are_not_ignored_silently(data, recwarn):
    plan(data, data_keys={"na_values": ["9831.3"]})
    (warning,) = recwarn
    assert "--na-values 9831.3 has no effect on Parquet or Zarr" in str(warning.message)
