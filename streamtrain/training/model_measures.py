"""Measurements of one trained model on a pool of rows.

They combine the probes of `probes.py` with the formulas of `science/`. A pool is float32
(N, features + 1) in model units, in the order in which the stream delivers its rows. Nothing here
reads or trains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import numpy as np

from streamtrain.config import TrainConfig
from streamtrain.science import curvature, noise_scale, sharpness, shuffle_quality
from streamtrain.science.intervals import Estimate
from streamtrain.science.sharpness import generalization_gap
from streamtrain.training.model import Model, Shape
from streamtrain.training.probes import Probe, rescale
from streamtrain.types import Json

#: The noise scale: replicates at frozen weights, rows per replicate, the micro-batches into which
#: these are cut where gradients of several rows are needed, and rows of its Hessian.
REPLICATES, REPLICATE_ROWS, MICRO_BATCHES, HESSIAN_ROWS = 16, 2048, 8, 1024

#: The √m law: independent sets, groups of rows per set, and how many groups are left at the largest
#: m, where groups are merged.
SETS, GROUPS, LARGEST_M_GROUPS = 8, 512, 16

#: Rows per minibatch in the measurement of shuffle quality.
SHUFFLE_ROWS = 256

#: Curvature: Lanczos steps and their rows, and the number and rows of the blocks of other rows for
#: the Rayleigh quotient.
LANCZOS_STEPS, CURVATURE_ROWS, RAYLEIGH_BLOCKS, RAYLEIGH_ROWS = 30, 4096, 8, 4096

#: Rows on which the sharpness of every model is measured, and the rows of either side of the
#: generalisation gap.
SHARPNESS_ROWS, GAP_ROWS = 2048, 16_384

#: float64 values of gradients, or of a basis, in memory at once. A model too large for that gets
#: fewer groups, and no random subspace.
_MAX_VALUES = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedModel:
    """One replica at the end of its training: batch size, learning rate, parameters float32 (P,).

    `second_moment` is Adam's v̂ (P,) if it is available; otherwise it is estimated at the frozen
    weights.
    """

    batch_size: int
    lr: float
    parameters: np.ndarray
    second_moment: np.ndarray | None = None


def measure_noise(probe: Probe, model: TrainedModel, pool: np.ndarray, *, adam: bool) -> Json:
    """Measure the gradient noise scale B_simple.

    `weighted` is B_noise, which weights the noise by the Hessian. For Adam there is also
    `preconditioned`: B_simple in the coordinates in which Adam steps.
    """
    spacing = len(pool) // REPLICATES
    rows = min(REPLICATE_ROWS, spacing) // MICRO_BATCHES * MICRO_BATCHES
    if rows < 2 * MICRO_BATCHES:
        return {**_nothing("too few rows"), "batch_size": model.batch_size, "lr": model.lr}
    micro, x = rows // MICRO_BATCHES, model.parameters
    scale = noise_scale.adam_scale(_second_moment(probe, model, pool)) if adam else None
    simple, weighted, scaled = [], [], []
    for start in range(0, spacing * REPLICATES, spacing):
        replicate = pool[start : start + rows]
        groups = probe.group_gradients(x, replicate, micro)
        squares = probe.squared_norms(x, replicate)
        simple.append(noise_scale.variance_and_signal_from_norms(groups.mean(axis=0), squares))
        # The next replicate's rows, so that the Hessian is independent of the gradient.
        offsets = start + spacing + np.arange(min(rows, HESSIAN_ROWS))
        other = pool[offsets % (spacing * REPLICATES)]
        weighted.append(
            noise_scale.weighted_variance_and_signal(groups, partial(probe.hvp, x, other), micro)
        )
        if scale is not None:
            scaled.append(noise_scale.variance_and_signal(groups * scale, micro))
    result = {
        **noise_scale.noise_scale(*np.array(simple).T).to_json(),
        "weighted": noise_scale.noise_scale(*np.array(weighted).T).to_json(),
    }
    if scaled:
        result["preconditioned"] = noise_scale.noise_scale(*np.array(scaled).T).to_json()
    variance, signal = np.mean(simple, axis=0)
    return {
        **result,
        "batch_size": model.batch_size,
        "lr": model.lr,
        "rows_a_replicate": rows,
        "gradient_variance": float(variance),
        "squared_gradient": float(signal),
    }


def measure_sqrt_m(probe: Probe, model: TrainedModel, pool: np.ndarray) -> Json:
    """Measure how the standard deviation of the gradient falls with the minibatch size m.

    Returns the slope on log axes, and the standard deviation at each m.
    """
    most_groups = max(min(GROUPS, _MAX_VALUES // probe.num_parameters, len(pool) // SETS), 1)
    groups = 2 ** int(np.log2(most_groups))
    levels = int(np.log2(groups)) - int(np.log2(LARGEST_M_GROUPS))
    if levels < 1:
        return {**_nothing("too few rows for so many parameters"), "sizes": [], "sd": []}
    rows = len(pool) // SETS
    group = rows // groups
    sets = [pool[i * rows : i * rows + groups * group] for i in range(SETS)]
    gradients = (probe.group_gradients(model.parameters, subset, group) for subset in sets)
    variances = np.array([noise_scale.group_variances(g, levels) for g in gradients])
    sizes = group * 2 ** np.arange(levels + 1)
    return {
        **noise_scale.sqrt_m_slope(sizes, variances).to_json(),
        "sizes": sizes.tolist(),
        "sd": np.sqrt(variances.mean(axis=0)).tolist(),
        "batch_size": model.batch_size,
    }


def measure_curvature(
    probe: Probe, model: TrainedModel, pool: np.ndarray, train: TrainConfig
) -> Json:
    """Measure λ_max on a sample of rows, and compare it with the stability limit of the optimizer.

    The result has a bracket of λ_max, the Rayleigh quotient of its eigenvector on other rows, and
    the largest curvature that is stable at this learning rate. For Adam that limit applies to
    `preconditioned`, λ_max of D^-½HD^-½ with D = √v̂ + ε. With a cosine schedule there is no
    `share_of_stability_line`: the final learning rate is 0, at which no curvature is unstable.
    """
    x = model.parameters
    rows = pool[: min(CURVATURE_ROWS, len(pool) // 2)]
    size = min(RAYLEIGH_ROWS, (len(pool) - len(rows)) // RAYLEIGH_BLOCKS)
    starts = [len(rows) + block * size for block in range(RAYLEIGH_BLOCKS)] if size else []
    others = [pool[start : start + size] for start in starts]
    line = curvature.stable_curvature(
        train.optimizer,
        model.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        beta1=train.beta1,
    )

    def spectrum(scale: np.ndarray | float) -> Json:
        def product(block: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            return lambda v: scale * probe.hvp(x, block, scale * v)

        largest = curvature.largest_eigenvalue(
            product(rows), probe.num_parameters, steps=LANCZOS_STEPS
        )
        rayleigh = None
        if others:
            rayleigh = curvature.rayleigh_on_independent_rows(
                [product(block) for block in others], largest.vector
            ).to_json()
        return {
            **largest.to_estimate().to_json(),
            "rayleigh": rayleigh,
            "smallest": largest.smallest,
        }

    result = {**spectrum(1.0), "lr": model.lr, "stability_line": line, "rows": len(rows)}
    if is_adam(train):
        scale = noise_scale.adam_scale(_second_moment(probe, model, pool)) ** 0.5
        result["preconditioned"] = spectrum(scale)
    value = result.get("preconditioned", result)["value"]
    share = None
    if value is not None and train.schedule != "cosine":
        share = value / line
    return {**result, "share_of_stability_line": share}


def measure_sharpness(
    probe: Probe, model: TrainedModel, pool: np.ndarray, holdout: np.ndarray | None
) -> Json:
    """Measure Keskar's sharpness φ, and the generalisation gap.

    φ is measured in full space at both ε (the value is that at ε = 1e-3), in a random subspace, and
    in its adaptive form.
    """
    x, rows = model.parameters, pool[:SHARPNESS_ROWS]
    search = partial(sharpness.sharpness, partial(_value_and_grad, probe, rows), x)
    small = probe.num_parameters * sharpness.SUBSPACE_DIMENSIONS <= _MAX_VALUES
    basis = sharpness.random_basis(probe.num_parameters) if small else None
    gap = None
    if holdout is not None:
        gap = generalization_gap(
            probe.row_losses(x, pool[:GAP_ROWS]), probe.row_losses(x, holdout[:GAP_ROWS])
        ).to_json()

    def at_each_epsilon(**options: Any) -> Json:
        return {
            f"{epsilon:g}": search(epsilon, **options).to_json() for epsilon in sharpness.EPSILONS
        }

    full = at_each_epsilon()
    return {
        **next(iter(full.values())),
        "full": full,
        "subspace": None if basis is None else at_each_epsilon(basis_PD=basis),
        "adaptive": at_each_epsilon(adaptive=True),
        "generalization_gap": gap,
        "lr": model.lr,
        "rows": len(rows),
    }


def measure_at_weights(
    probe: Probe, parameters_P: np.ndarray, rows: np.ndarray
) -> dict[str, float]:
    """Measure sharpness and loss for comparing models of equal loss, all on the same rows.

    Returns `{phi, adaptive, curvature, loss}`: both φ at ε = 1e-3, λ_max, and the mean of r².
    """
    search = partial(
        sharpness.sharpness,
        partial(_value_and_grad, probe, rows),
        parameters_P,
        sharpness.EPSILONS[0],
    )
    spectrum = curvature.largest_eigenvalue(
        partial(probe.hvp, parameters_P, rows), probe.num_parameters, steps=LANCZOS_STEPS
    )
    return {
        "phi": _finite(search()),
        "adaptive": _finite(search(adaptive=True)),
        "curvature": spectrum.ritz,
        "loss": 2 * probe.loss(parameters_P, rows),
    }


def audit_invariance(
    probe: Probe, model: TrainedModel, pool: np.ndarray, shape: Model
) -> Json | None:
    """Measure how far each φ changes under rescalings that leave the function unchanged.

    Returns None when the activation allows no exact rescaling.
    """
    if not can_rescale(shape):
        return None
    rows = pool[:SHARPNESS_ROWS]
    audits: Json = {}
    for name, adaptive in (("keskar", False), ("adaptive", True)):

        def phi(x: np.ndarray, adaptive: bool = adaptive) -> float:
            value_and_grad = partial(_value_and_grad, probe, rows)
            epsilon = sharpness.EPSILONS[0]
            return _finite(sharpness.sharpness(value_and_grad, x, epsilon, adaptive=adaptive))

        audits[name] = sharpness.invariance_audit(
            phi, partial(rescale, shape), model.parameters.astype(float)
        )
    return audits


def measure_line(probe: Probe, models: Sequence[TrainedModel], pool: np.ndarray) -> Json | None:
    """Measure the training loss on the line between two models.

    The line goes from the model of the smallest batch size (0) to the model of the largest (1).
    """
    if len(models) < 2:
        return None
    small, large = models[0], models[-1]
    rows = pool[:SHARPNESS_ROWS]
    line = sharpness.parametric_line(
        lambda x: probe.loss(x, rows),
        small.parameters.astype(float),
        large.parameters.astype(float),
    )
    line["loss"] = [loss if np.isfinite(loss) else None for loss in line["loss"]]
    return {**line, "small_batch_size": small.batch_size, "large_batch_size": large.batch_size}


def measure_shuffle(
    probe: Probe,
    models: Sequence[TrainedModel],
    model: TrainedModel,
    pool: np.ndarray,
    windows: np.ndarray | None,
    window_rows: int,
) -> Json:
    """Measure the design effect (DEFF) of minibatches as the stream cuts them.

    `windows` (N,) is the window of each row; None when the pool has every window of the epoch. Rows
    of a minibatch are correlated only within a window, so a minibatch larger than a window has the
    DEFF of a window.
    """
    rows = min(SHUFFLE_ROWS, len(pool) // 8)
    if rows < 2:
        return {
            "deff": _nothing("too few rows"),
            "rho": None,
            "by_batch_size": {},
            "is_bad": False,
        }
    whole = len(pool) // rows
    count = min(whole, max(_MAX_VALUES // probe.num_parameters, 8))
    chosen = np.linspace(0, whole - 1, count).round().astype(int)
    used = pool[: whole * rows].reshape(whole, rows, -1)[chosen].reshape(count * rows, -1)
    means = probe.group_gradients(model.parameters, used, rows)
    squares = probe.squared_norms(model.parameters, used).reshape(count, rows).mean(axis=1)
    rho = shuffle_quality.intraclass_correlation(
        means, squares, rows, None if windows is None else windows[chosen * rows]
    )
    effects = {
        trained.batch_size: shuffle_quality.design_effect(rho, min(trained.batch_size, window_rows))
        for trained in models
    }
    deff = effects[model.batch_size]
    return {
        "deff": deff.to_json(),
        "rho": rho.to_json(),
        "rows_a_minibatch": rows,
        "minibatches": count,
        "by_batch_size": {str(size): effect.to_json() for size, effect in effects.items()},
        "is_bad": shuffle_quality.is_bad_shuffle(deff),
    }


def is_adam(train: TrainConfig) -> bool:
    """Return True if steps are scaled by 1/(√v̂ + ε)."""
    return train.optimizer in ("adam", "adamw")


def can_rescale(model: Model) -> TypeGuard[Shape]:
    """Return True if other weights can express exactly the same function.

    That takes a hidden layer with relu or identity.
    """
    if not isinstance(model, Shape):
        return False
    return model.activation in ("relu", "identity") and len(model.layers) > 1


def _finite(estimate: Estimate) -> float:
    """The value of an estimate; raises FloatingPointError where it is not finite."""
    if estimate.value is None:
        raise FloatingPointError(f"the value of {estimate} is not finite")
    return estimate.value


def _nothing(why: str) -> Json:
    """The estimate of what could not be measured."""
    return Estimate(value=None, kind=why).to_json()


def _second_moment(probe: Probe, model: TrainedModel, pool: np.ndarray) -> np.ndarray:
    """Return Adam's v̂, or an estimate of it at the frozen weights.

    The estimate is E g_B² of a minibatch, which is |G|² + diag Σ/B, coordinate by coordinate.
    """
    if model.second_moment is not None:
        return np.asarray(model.second_moment, dtype=float)
    groups = max(8, min(GROUPS, _MAX_VALUES // probe.num_parameters))
    group = max(1, min(16, len(pool) // groups))
    g = probe.group_gradients(model.parameters, pool[: groups * group], group)
    variance = g.var(axis=0, ddof=1)
    squared_mean = np.maximum(g.mean(axis=0) ** 2 - variance / len(g), 0.0)
    return squared_mean + variance * group / model.batch_size


def _value_and_grad(probe: Probe, rows: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    return probe.value_and_grad(x, rows)
