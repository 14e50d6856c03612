"""The trainer against the exact oracle: short real runs of SGD on a linear model.

Their mean loss is compared with the loss curve that theory predicts (docs/science.md).
"""

import time

import numpy as np

from streamtrain.config import TrainConfig
from streamtrain.science.oracle import GaussianLinear
from streamtrain.training.fused_engine import FusedEngine, one_blas_thread
from streamtrain.training.model import Shape
from streamtrain.types import Json

#: The check fails when a measured mean is further than this from the predicted one.
ALLOWED_STANDARD_ERRORS = 4.0

#: Variances of four independent Gaussian features and the bias, and the weights of the target.
_EIGENVALUES = np.array([1.6, 1.2, 0.8, 0.4, 1.0])
_NOISE_VARIANCE = 0.1
_TRUTH = np.array([0.5, -0.4, 0.3, 0.6, 0.4])
_ORACLE = GaussianLinear(
    eigenvalues=_EIGENVALUES,
    noise_variance=_NOISE_VARIANCE,
    start=_TRUTH**2,
    kurtosis=np.array([3.0, 3.0, 3.0, 3.0, 1.0]),
)


#: What is trained: this many runs of this many steps at each batch size.
_BATCH_SIZES, _RUNS, _STEPS = (8, 64, 1024), 100, 30


def check_oracle() -> Json:
    """Train linear models at three batch sizes and compare their mean excess loss with the oracle.

    The comparison is made at ten step counts. Returns `{event: "oracle", passed,
    worst_standard_errors, runs, seconds, curves: [{batch_size, lr, steps, predicted, measured,
    standard_error}], text}`. `seconds` does not include compilation. Takes about a second, on one
    thread.
    """
    points = np.unique(np.round(np.geomspace(1, _STEPS, 10)).astype(int))
    with one_blas_thread():
        _excess(np.random.default_rng(0), _BATCH_SIZES[0], 0.01, np.array([1]))
        started = time.perf_counter()
        curves = [_curve(size, points) for size in _BATCH_SIZES]
    worst = max(curve.pop("worst") for curve in curves)
    passed = bool(worst <= ALLOWED_STANDARD_ERRORS)
    sizes = ", ".join(f"{size:,}" for size in _BATCH_SIZES)
    verdict = "follows" if passed else "does not follow"
    text = (
        f"the trainer {verdict} the exact loss curve of SGD at B = {sizes}: at worst {worst:.1f}"
        f" standard errors apart ({_RUNS} runs per size, {ALLOWED_STANDARD_ERRORS:g} allowed)"
    )
    return {
        "event": "oracle",
        "passed": passed,
        "worst_standard_errors": worst,
        "runs": _RUNS,
        "seconds": time.perf_counter() - started,
        "curves": curves,
        "text": text,
    }


def _curve(batch_size: int, points: np.ndarray) -> Json:
    lr = 0.4 * _ORACLE.largest_stable_lr(batch_size)
    measured = np.array(
        [
            _excess(np.random.default_rng([0, batch_size, run]), batch_size, lr, points)
            for run in range(_RUNS)
        ]
    )
    predicted = _ORACLE.excess(points, batch_size, lr)
    mean = measured.mean(axis=0)
    error = measured.std(axis=0, ddof=1) / _RUNS**0.5
    deviations = np.abs(mean - predicted) / error
    return {
        "batch_size": batch_size,
        "lr": lr,
        "steps": points.tolist(),
        "predicted": predicted.tolist(),
        "measured": mean.tolist(),
        "standard_error": error.tolist(),
        "worst": float(deviations.max()) if np.isfinite(deviations).all() else float("inf"),
    }


def _excess(
    random: np.random.Generator, batch_size: int, lr: float, points: np.ndarray
) -> np.ndarray:
    """Return the exact excess loss of one run after each number of steps in `points`.

    It follows from the weights, so no evaluation adds noise.
    """
    engine = FusedEngine(
        Shape(widths=(4, 1), activation="identity"),
        np.zeros(5, np.float32),
        batch_size,
        (lr,),
        TrainConfig(optimizer="sgd", momentum=0.0),
    )
    curve = []
    for steps in np.diff(points, prepend=0):
        rows = random.standard_normal((int(steps) * batch_size, 5), dtype=np.float32)
        rows[:, :4] *= np.sqrt(_EIGENVALUES[:4])
        rows[:, 4] = rows[:, :4] @ _TRUTH[:4] + _TRUTH[4] + _NOISE_VARIANCE**0.5 * rows[:, 4]
        engine.advance(rows, 0, len(rows))
        curve.append(0.5 * (engine.parameters()[0].astype(float) - _TRUTH) ** 2 @ _EIGENVALUES)
    return np.array(curve)
