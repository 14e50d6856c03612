"""The survey: what the spread spans say, with and without the rows that are held out."""

import numpy as np
import pytest

from streamtrain.storage.dataset import open_shards
from streamtrain.stream.open_source import open_source
from streamtrain.stream.survey import linear_model, take_survey
from tests.stream.conftest import id_rows


def held_out(source) -> np.ndarray:
    """The ids of the held-out rows, ascending."""
    return np.concatenate(
        [
            source.spans[span].first_id + positions
            for span, positions in sorted(source.holdout.positions.items())
        ]
    )


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_held_out_rows_have_no_say_in_the_statistics(write_data, format):
    """They are a million here, so that one of them would show."""
    layout, rows = [[64, 64, 10], [64, 64]], id_rows(266).astype(np.float64)
    flags = {"seed": 0, "span_rows": 64, "window_rows": 128, "holdout": 0.2, "eval_rows": 1}
    ids = held_out(open_source(open_shards(str(write_data(layout, format=format))), **flags)[0])
    assert len(ids) == 53
    rows[ids] = 1e6
    source, _ = open_source(
        open_shards(str(write_data(layout, format=format, rows=rows.astype(np.float32)))), **flags
    )
    assert np.array_equal(held_out(source), ids)
    survey, kept = take_survey(source), np.delete(rows, ids, axis=0)
    assert survey.count == len(kept) == 213
    assert (survey.holdout == 1e6).all()
    assert len(survey.holdout) == 53
    np.testing.assert_allclose(survey.mean, kept.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(survey.sd, kept.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        survey.comoment / survey.count, np.cov(kept.T, bias=True), rtol=1e-9, atol=1e-9
    )
    design = np.column_stack([kept[:, 1:-1], np.ones(len(kept))])  # the first column is constant
    np.testing.assert_allclose(
        linear_model(survey)[1:], np.linalg.lstsq(design, kept[:, -1], rcond=None)[0], rtol=1e-6
    )
