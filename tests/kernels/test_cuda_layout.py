"""Where a replica's arrays lie in shared memory."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.kernels.cuda_layout import (
    PART_ROWS,
    TILES,
    choose_layout,
    choose_slots,
    make_layout,
    parameter_places,
)

widths = st.tuples(
    st.integers(1, 9), st.lists(st.integers(1, 70), max_size=4), st.sampled_from(TILES)
)


@given(widths, st.booleans(), st.integers(1, 256), st.sampled_from([1, 2, 8, 32]))
def test_nothing_overlaps_and_accesses_of_16_bytes_are_aligned(given_widths, keeps, threads, most):
    features, hidden, (tile, patch) = given_widths
    layout = make_layout((features, *hidden, 1), keeps, tile, patch, threads, most)
    pieces = [(0, layout.num_parameters), (layout.moments, 2 * layout.num_parameters)]
    pieces += [(each.sums, each.splits * each.size) for each in layout.layers]
    pieces += [(layout.scalars, 4), (layout.targets, tile), (layout.residuals, tile)]
    steps = list(zip(layout.values, layout.steps, strict=True))
    steps += list(zip(layout.sources, layout.steps, strict=True))[1:] if keeps else []
    pieces += [(at, tile * step) for at, step in steps]
    pieces.sort()
    assert all(at + size <= then for (at, size), (then, _) in pairwise(pieces))
    assert pieces[-1][0] + pieces[-1][1] == layout.floats
    assert all(at % 4 == 0 for at, _ in pieces)
    places = parameter_places(layout, (features, *hidden, 1))
    assert len(set(places.tolist())) == sum(
        (i + 1) * o for i, o in pairwise((features, *hidden, 1))
    )
    assert places.max() < layout.num_parameters


def test_places_follow_the_layers():
    layout = make_layout((3, 5, 2, 1), False, 32, 2, 8, 2)
    first, inner, last = layout.layers
    assert (first.inputs, first.outputs, first.stride) == (4, 8, 8)
    assert (inner.inputs, inner.outputs, inner.stride) == (8, 4, 8)
    places = parameter_places(layout, (3, 5, 2, 1)).tolist()
    assert places[:6] == [0, 1, 2, 3, 4, 8]
    assert places[15:20] == [first.bias + i for i in range(5)]
    assert places[20:23] == [inner.begin, inner.begin + 1, inner.begin + 8]
    assert places[-3:] == [last.begin, last.begin + 1, last.begin + last.inputs]


@pytest.mark.parametrize(
    ("hidden", "batch_size", "kilobytes", "tile"),
    [
        pytest.param((32, 32), 1024, 227, 256, id="large minibatches"),
        pytest.param((32, 32), 200, 227, 128, id="smaller ones"),
        pytest.param((32, 32), 1, 227, 64, id="one row"),
        pytest.param((32, 32), 1024, 100, 128, id="less memory"),
        pytest.param((64, 64, 64), 1024, 227, 64, id="9,000 parameters"),
        pytest.param((64, 64, 64), 1024, 163, None, id="9,000 parameters on an A100"),
        pytest.param((128, 128), 1024, 227, None, id="17,000 parameters"),
    ],
)
def test_the_largest_tile_that_suits_and_fits(hidden, batch_size, kilobytes, tile):
    layout = choose_layout((4, *hidden, 1), False, batch_size, 256, kilobytes * 1024)
    assert (layout and layout.tile) == tile
    if layout is not None:
        assert layout.shared_bytes <= kilobytes * 1024
        assert np.all(np.array([each.splits for each in layout.layers]) >= 1)


@pytest.mark.parametrize(
    ("batch_size", "parameters", "slots"),
    [
        pytest.param(16_383, 1_249, 1, id="one block"),
        pytest.param(16_384, 1_249, 32, id="a part per slot"),
        pytest.param(2**20, 1_249, 128, id="many parts per slot"),
        pytest.param(2**20, 9_000, 58, id="a large model"),
        pytest.param(2**20, 2**20, 1, id="a larger one than any"),
    ],
)
def test_slots_depend_on_the_run_and_each_has_a_part(batch_size, parameters, slots):
    assert choose_slots(batch_size, parameters) == slots
    assert slots * PART_ROWS <= batch_size
