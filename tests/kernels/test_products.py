"""Small products equal NumPy's in float64, for all block sizes, finishes and both orientations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.kernels.products import (
    ADD,
    LANES,
    MASK,
    SET,
    SHIFT,
    SHIFT_RELU,
    multiply,
    transpose,
)

FINISHES = {"set": SET, "add": ADD, "shift": SHIFT, "shift and ReLU": SHIFT_RELU, "mask": MASK}


def call(a, b, c, e, finish, *, transposed=False):
    """Multiply matrices with a margin of NaN after each array, which reveals stray accesses."""
    rows, inner = a.shape
    lines = [
        np.append(np.ascontiguousarray(array).reshape(-1), np.full(64, np.nan, dtype=np.float32))
        for array in (a.T if transposed else a, b, c, e)
    ]
    steps = (1, rows) if transposed else (inner, 1)
    multiply(lines[0], *steps, lines[1], lines[2], rows, b.shape[1], inner, lines[3], finish)
    assert np.isnan(lines[2][c.size :]).all()
    return lines[2][: c.size].reshape(c.shape)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 75),
    inner=st.integers(0, 40),
    transposed=st.booleans(),
    name=st.sampled_from(list(FINISHES)),
    seed=st.integers(0, 99),
)
def test_equals_numpy(rows, columns, inner, transposed, name, seed):
    check(rows, columns, inner, transposed, name, seed)


def check(rows, columns, inner, transposed, name, seed):
    """Compare a product of random matrices with NumPy's in float64."""
    random = np.random.default_rng(seed)
    a, b, c, e = (
        random.standard_normal(shape).astype(np.float32)
        for shape in ((rows, inner), (inner, columns), (rows, columns), (rows, columns))
    )
    product = a.astype(np.float64) @ b
    expected = {
        "set": product,
        "add": c + product,
        "shift": product + e[0],
        "shift and ReLU": np.maximum(product + e[0], 0),
        "mask": np.where(e > 0, product, 0),
    }[name]
    np.testing.assert_allclose(
        call(a, b, c, e, FINISHES[name], transposed=transposed), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", FINISHES)
@pytest.mark.parametrize("transposed", [False, True], ids=["as stored", "transposed"])
@pytest.mark.parametrize("rows", [11, 9])
def test_every_block_equals_numpy(rows, transposed, name):
    """11 rows are blocks of 6, 4 and 1 rows, 9 rows of 6, 2 and 1.

    The columns are a block of two vectors, one of a vector, one of four floats, and one float.
    """
    check(rows, 3 * LANES + 5, 19, transposed, name, seed=rows)


def test_one_number_stands_for_a_row_of_ones():
    """With steps of 0, one number is used for all elements; bias gradients are such products."""
    d = np.arange(12, dtype=np.float32).reshape(4, 3)
    total = np.zeros(3, dtype=np.float32)
    multiply(np.ones(1, dtype=np.float32), 0, 0, d.reshape(-1), total, 1, 3, 4, total, ADD)
    assert total.tolist() == d.sum(axis=0).tolist()


@pytest.mark.parametrize(("columns", "rows"), [(32, 7), (16, 1), (5, 6), (1, 1)])
def test_relu_lets_a_nan_through_and_the_mask_stops_it(columns, rows):
    """As in torch, ReLU of NaN is NaN, and its derivative there is 0."""
    a = np.ones((rows, 2), dtype=np.float32)
    b = np.ones((2, columns), dtype=np.float32)
    nans = np.full((rows, columns), np.nan, dtype=np.float32)
    c = np.zeros_like(nans)
    assert np.isnan(call(a, b, c, nans, SHIFT_RELU)).all()
    assert (call(a, b, c, nans, MASK) == 0).all()
    assert (call(a, -b, c, np.zeros_like(c), SHIFT_RELU) == 0).all()


@given(rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_transpose(rows, columns):
    a, out = np.arange(rows * columns, dtype=np.float32), np.zeros(rows * columns, dtype=np.float32)
    transpose(a, rows, columns, out)
    assert (out.reshape(columns, rows) == a.reshape(rows, columns).T).all()
