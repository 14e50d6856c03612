"""Generated rows do not depend on workers or format; they differ between seeds and spans."""

from pathlib import Path

import numpy as np
import pytest

from data_gen import KINDS, generate
from streamtrain.errors import ConfigError
from streamtrain.science.shuffle_quality import design_effect, intraclass_correlation
from streamtrain.storage.readers import Readers
from streamtrain.types import Dataset


def _rows(dataset: Dataset) -> np.ndarray:
    readers = Readers(dataset)
    return np.concatenate(
        [
            np.stack(readers.read(i, 0, shard.num_rows), axis=1)
            for i, shard in enumerate(dataset.shards)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_workers_or_format(kind: str, tmp_path: Path) -> None:
    one = generate(tmp_path / "1", kind=kind, rows=3000, span_rows=100, workers=1)
    many = generate(tmp_path / "4", kind=kind, rows=3000, span_rows=100, workers=4)
    array = generate(tmp_path / "z", kind=kind, rows=3000, span_rows=100, format="zarr")
    assert one.columns == ("x0", "x1", "x2", "x3", "y")
    assert one.decoded_type == "float32"
    assert one.fingerprint == many.fingerprint
    assert _rows(one).tobytes() == _rows(many).tobytes() == _rows(array).tobytes()
    assert np.isfinite(_rows(one)).all()
    assert one.truth == many.truth == array.truth
    assert one.truth is not None
    assert one.truth.kind == kind


def test_seeds_spans_and_noise_are_kept_apart(tmp_path: Path) -> None:
    zero, one = (
        _rows(generate(tmp_path / str(seed), rows=200, span_rows=100, seed=seed)) for seed in (0, 1)
    )
    assert len(np.unique(np.concatenate([zero, one])[:, 0])) > 395
    quiet = _rows(generate(tmp_path / "quiet", rows=200, span_rows=100, noise=0))
    np.testing.assert_array_equal(quiet[:, :4], zero[:, :4])
    u = quiet[:, 1] * quiet[:, 2] - 1 / (quiet[:, 1] * quiet[:, 3])
    np.testing.assert_allclose(quiet[:, 4], np.hypot(quiet[:, 0], u), rtol=1e-5)


def test_rows_of_a_span_share_a_shift_of_known_variance(tmp_path: Path) -> None:
    plain, shifted = (
        generate(
            tmp_path / str(s), kind="linear", rows=40_000, span_rows=100, noise=0.5, cluster_shift=s
        )
        for s in (0.0, 0.4)
    )
    before, after = _rows(plain).astype(float), _rows(shifted).astype(float)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    moved = (after - before)[:, 4].reshape(400, 100)
    np.testing.assert_allclose(moved, moved[:, :1] + np.zeros((1, 100)), atol=1e-5)
    sd = 7.5**0.5
    assert moved[:, 0].std() / sd == pytest.approx(0.4, rel=0.12)
    assert abs(moved[:, 0].mean() / sd) < 0.07
    noise = (after[:, 4] - 3 - after[:, :4] @ [1, -2, 0.5, 1.5]) / sd
    assert shifted.truth is not None
    assert noise.var() == pytest.approx(0.25 + 0.16, rel=0.06)
    assert shifted.truth.noise_variance == pytest.approx(7.5 * 0.41)
    assert shifted.truth.best_loss == pytest.approx(0.41 / 1.41) == shifted.truth.best_linear_loss
    rho = intraclass_correlation(
        noise.reshape(400, 100).mean(axis=1)[:, None],
        (noise.reshape(400, 100) ** 2).mean(axis=1),
        100,
    )
    assert rho.lo <= 0.16 / 0.41 <= rho.hi
    assert design_effect(rho, 100).lo > 1.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"kind": "friedman"}, "Did you mean friedman", id="unknown kind"),
        pytest.param({"rows": 0}, "rows=0", id="no rows"),
        pytest.param({"noise": -1.0}, "noise", id="negative noise"),
        pytest.param({"cluster_shift": -1.0}, "cluster_shift", id="negative shift"),
        pytest.param({"seed": 2**64}, "seed", id="seed too large"),
        pytest.param({"format": "csv"}, "parquet or zarr", id="unknown format"),
        pytest.param({"span_rows": 0}, "at least 1 row", id="empty spans"),
    ],
)
def test_what_cannot_be_made_is_refused(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        generate(tmp_path / "out", **({"rows": 10} | options))
    assert not list(tmp_path.iterdir())
