"""Sums of spans are those of NumPy."""

import numpy as np
import pytest

from streamtrain.kernels.span_sums import TILE_ROWS, sum_span
from streamtrain.stream.nulls import as_uniform_views


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 7])
def test_equals_numpy(width, strided, dtype):
    rng = np.random.default_rng(width)
    for num_rows in (1, 2, TILE_ROWS - 1, TILE_ROWS, 2 * TILE_ROWS + 5):
        rows = (rng.normal(size=(num_rows, width)) * 10.0 + 3.0).astype(dtype)
        columns = tuple(rows.T if strided else np.ascontiguousarray(rows.T))
        center = rng.normal(size=width) + 3.0
        left_out = rng.choice(num_rows, size=num_rows // 3, replace=False)
        for skip in (np.empty(0, dtype=np.int64), np.sort(left_out)):
            rows[skip] = rng.choice([np.nan, np.inf, -np.inf, 1e30], size=(len(skip), width))
            if not strided:
                columns = tuple(np.ascontiguousarray(rows.T))
            sums, products, low, high = sum_span(as_uniform_views(columns), center, skip)
            deviations = np.delete(rows.astype(np.float64), skip, axis=0) - center
            np.testing.assert_allclose(sums, deviations.sum(axis=0), rtol=1e-12, atol=1e-10)
            np.testing.assert_allclose(products, deviations.T @ deviations, rtol=1e-12, atol=1e-10)
            np.testing.assert_array_equal(products, products.T)
            np.testing.assert_array_equal(low, deviations.min(axis=0, initial=0.0))
            np.testing.assert_array_equal(high, deviations.max(axis=0, initial=0.0))
