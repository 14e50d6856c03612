"""Properties of rounds: every row of every epoch exactly once.

They hold for any number of shares, any windows per round, and any end of the run.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.cluster.local_sgd.rounds import Rounds, count_shares
from streamtrain.plan.holdout import draw_holdout
from streamtrain.plan.plan import make_plan
from streamtrain.plan.spans import cut_spans
from streamtrain.types import Shard


def plans(num_rows: int, span_rows: int, window_rows: int, held: int):
    shard = Shard(
        url="x",
        format="parquet",
        num_rows=num_rows,
        num_bytes=0,
        boundaries=np.unique([*range(0, num_rows, span_rows), num_rows]),
        columns=(),
        source="",
    )
    spans = cut_spans([shard], span_rows=span_rows, window_rows=window_rows)
    holdout = draw_holdout(spans, held, 0)
    return lambda epoch: make_plan(
        spans, holdout, seed=1, trial=0, epoch=epoch, window_rows=window_rows
    )


setups = st.tuples(
    st.integers(50, 3000), st.integers(5, 60), st.integers(60, 400), st.integers(0, 40)
)


@given(setup=setups, shares=st.integers(1, 7), windows=st.integers(1, 4), epochs=st.integers(1, 3))
@settings(max_examples=60)
def test_each_window_of_an_epoch_is_dealt_once_and_in_turn(setup, shares, windows, epochs):
    plan_of = plans(*setup)
    rounds = Rounds(
        plan_of, shares=shares, windows_per_share=windows, last_row=None, last_epoch=epochs
    )
    seen = []
    while not rounds.done:
        dealt = rounds.deal()
        assert [share.number for share in dealt] == list(range(shares))
        assert [share.rows for share in dealt] == [share.rows for share in rounds.deal()]
        assert max(len(share.windows) for share in dealt) <= windows
        assert len({share.ends_epoch for share in dealt}) == 1
        seen += [(window.epoch, window.index) for share in dealt for window in share.windows]
        rounds.commit(sum(share.rows for share in dealt))
    assert sorted(seen) == [
        (epoch, index) for epoch in range(epochs) for index in range(len(plan_of(epoch)))
    ]
    assert rounds.rows == sum(plan_of(epoch).num_rows for epoch in range(epochs))


@given(setup=setups, shares=st.integers(1, 7), windows=st.integers(1, 4), part=st.floats(0.01, 3))
@settings(max_examples=60)
def test_a_run_ends_at_its_last_row_and_an_interrupted_one_goes_on(setup, shares, windows, part):
    plan_of = plans(*setup)
    last_row = max(1, round(part * plan_of(0).num_rows))

    def rows_of(rounds):
        while not rounds.done:
            dealt = rounds.deal()
            yield [
                (share.rows, [(w.epoch, w.index) for w in share.windows], share.ends_epoch)
                for share in dealt
            ]
            through = sum(plan_of(epoch).num_rows for epoch in range(rounds.epoch + 1))
            # A short minibatch makes a step where the epoch ends, but not where only the run ends.
            assert {share.ends_epoch for share in dealt} == {
                rounds.rows + sum(share.rows for share in dealt) == through
            }
            rounds.commit(sum(share.rows for share in dealt))
        assert rounds.rows == last_row

    def new_rounds():
        return Rounds(
            plan_of, shares=shares, windows_per_share=windows, last_row=last_row, last_epoch=None
        )

    whole = list(rows_of(new_rounds()))
    first = new_rounds()
    dealt = first.deal()
    first.commit(sum(share.rows for share in dealt))
    resumed = new_rounds()
    resumed.resume(number=first.number, epoch=first.epoch, window=first.window, rows=first.rows)
    assert list(rows_of(resumed)) == whole[1:]


@given(batch_size=st.integers(1, 10**6), workers=st.integers(1, 64))
def test_shares_divide_a_minibatch(batch_size, workers):
    assert 1 <= count_shares(batch_size, workers) <= workers
    assert batch_size % count_shares(batch_size, workers) == 0
