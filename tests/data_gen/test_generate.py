"""Generated rows: the same for any number of workers and in both formats, other for another seed."""

from pathlib import Path

import numpy as np
import pytest

from data_gen import KINDS, generate
from streamtrain.errors import ConfigError
from streamtrain.storage.readers import Readers
from streamtrain.types import Dataset


def _rows(dataset: Dataset) -> np.ndarray:
    readers = Readers(dataset)
    return np.concatenate([np.stack(readers.read(i, 0, shard.num_rows), axis=1) for i, shard in enumerate(dataset.shards)])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_workers_or_format(kind: str, tmp_path: Path) -> None:
    one = generate(tmp_path / "1", kind=kind, rows=3000, span_rows=100, workers=1)
    many = generate(tmp_path / "4", kind=kind, rows=3000, span_rows=100, workers=4)
    array = generate(tmp_path / "z", kind=kind, rows=3000, span_rows=100, format="zarr")
    assert one.columns == ("x0", "x1", "x2", "x3", "y") and one.decoded_type == "float32"
    assert one.fingerprint == many.fingerprint
    assert _rows(one).tobytes() == _rows(many).tobytes() == _rows(array).tobytes()
    assert np.isfinite(_rows(one)).all()
    assert one.truth == many.truth == array.truth and one.truth is not None and one.truth.kind == kind


def test_seeds_spans_and_noise_are_kept_apart(tmp_path: Path) -> None:
    zero, one = (_rows(generate(tmp_path / str(seed), rows=200, span_rows=100, seed=seed)) for seed in (0, 1))
    assert len(np.unique(np.concatenate([zero, one])[:, 0])) > 395
    quiet = _rows(generate(tmp_path / "quiet", rows=200, span_rows=100, noise=0))
    np.testing.assert_array_equal(quiet[:, :4], zero[:, :4])
    u = quiet[:, 1] * quiet[:, 2] - 1 / (quiet[:, 1] * quiet[:, 3])
    np.testing.assert_allclose(quiet[:, 4], np.hypot(quiet[:, 0], u), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"kind": "friedman"}, "Did you mean friedman", id="unknown kind"),
        pytest.param({"rows": 0}, "rows=0", id="no rows"),
        pytest.param({"noise": -1.0}, "noise", id="negative noise"),
        pytest.param({"seed": 2**64}, "seed", id="seed too large"),
        pytest.param({"format": "csv"}, "parquet or zarr", id="unknown format"),
        pytest.param({"span_rows": 0}, "at least 1 row", id="empty spans"),
    ],
)
def test_what_cannot_be_made_is_refused(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        generate(tmp_path / "out", **({"rows": 10} | options))
    assert not list(tmp_path.iterdir())
