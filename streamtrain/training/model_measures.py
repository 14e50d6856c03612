"""What is measured of one trained model on a pool of rows, with the probes of `probes.py` and the
formulas of `science/`.

A pool is float32 (N, features + 1), model units, in the order in which the stream delivers its
rows. Nothing here reads or trains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from streamtrain.config import TrainConfig
from streamtrain.science import curvature as lanczos
from streamtrain.science import noise_scale, sharpness, shuffle_quality
from streamtrain.science import noise_scale as sqrt_law
from streamtrain.science.curvature import stable_curvature
from streamtrain.science.intervals import Estimate
from streamtrain.science.sharpness import generalization_gap
from streamtrain.training.model import Model, Shape
from streamtrain.training.probes import Probe, rescale
from streamtrain.types import Json

#: Frozen-weight replicates of the noise scale, rows of each, its micro-batches where whole
#: gradients are needed, rows of its Hessian.
REPLICATES, REPLICATE_ROWS, MICRO_BATCHES, HESSIAN_ROWS = 16, 2048, 8, 1024

#: Independent sets of the √m law, groups of each, and what the largest m leaves of them.
SETS, GROUPS, LARGEST_M_GROUPS = 8, 512, 16

#: Rows of a minibatch by which shuffling is judged.
SHUFFLE_ROWS = 256

#: Lanczos steps, the rows they see, and blocks of other rows for the Rayleigh quotient.
LANCZOS_STEPS, CURVATURE_ROWS, RAYLEIGH_BLOCKS, RAYLEIGH_ROWS = 30, 4096, 8, 4096

#: The one subset on which every model's sharpness is measured, and rows of the generalisation gap
#: on either side.
SHARPNESS_ROWS, GAP_ROWS = 2048, 16_384

#: float64 values of gradients or of a basis held at once; a model too large for that gets fewer
#: groups, and no subspace.
_MOST_VALUES = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedModel:
    """One replica at the end of its training: its size, its learning rate and its parameters,
    float32 (P,).

    `second_moment`: Adam's v̂ (P,), when it is at hand; else it is estimated at the frozen weights.
    """

    batch_size: int
    lr: float
    parameters: np.ndarray
    second_moment: np.ndarray | None = None


def measure_noise(probe: Probe, model: TrainedModel, pool: np.ndarray, *, adam: bool) -> Json:
    """B_simple.

    `weighted`: B_noise; for Adam also `preconditioned`: B_simple in the coordinates in which Adam
    steps.
    """
    each = len(pool) // REPLICATES
    rows = min(REPLICATE_ROWS, each) // MICRO_BATCHES * MICRO_BATCHES
    if rows < 2 * MICRO_BATCHES:
        return {**_nothing("too few rows"), "batch_size": model.batch_size, "lr": model.lr}
    micro, x = rows // MICRO_BATCHES, model.parameters
    scale = noise_scale.adam_scale(_second_moment(probe, model, pool)) if adam else None
    simple, weighted, scaled = [], [], []
    for start in range(0, each * REPLICATES, each):
        part = pool[start : start + rows]
        groups = probe.group_gradients(x, part, micro)
        simple.append(
            noise_scale.variance_and_signal_from_norms(
                groups.mean(axis=0), probe.squared_norms(x, part)
            )
        )
        # the next replicate's rows: H is independent of g
        other = pool[(start + each + np.arange(min(rows, HESSIAN_ROWS))) % (each * REPLICATES)]
        weighted.append(
            noise_scale.weighted_variance_and_signal(groups, partial(probe.hvp, x, other), micro)
        )
        if scale is not None:
            scaled.append(noise_scale.variance_and_signal(groups * scale, micro))
    made = {
        name: noise_scale.noise_scale(*np.array(parts).T).to_json()
        for name, parts in (("simple", simple), ("weighted", weighted))
    }
    if scaled:
        made["preconditioned"] = noise_scale.noise_scale(*np.array(scaled).T).to_json()
    variance, signal = np.mean(simple, axis=0)
    return {
        **made.pop("simple"),
        **made,
        "batch_size": model.batch_size,
        "lr": model.lr,
        "rows_a_replicate": rows,
        "gradient_variance": float(variance),
        "squared_gradient": float(signal),
    }


def measure_sqrt_m(probe: Probe, model: TrainedModel, pool: np.ndarray) -> Json:
    """The slope, and the standard deviation of the gradient at each m."""
    groups = 2 ** int(
        np.log2(max(min(GROUPS, _MOST_VALUES // probe.num_parameters, len(pool) // SETS), 1))
    )
    levels = int(np.log2(groups)) - int(np.log2(LARGEST_M_GROUPS))
    if levels < 1:
        return {**_nothing("too few rows for so many parameters"), "sizes": [], "sd": []}
    rows = len(pool) // SETS
    group = rows // groups
    sets = [pool[i * rows : i * rows + groups * group] for i in range(SETS)]
    variances = np.array(
        [
            sqrt_law.group_variances(probe.group_gradients(model.parameters, part, group), levels)
            for part in sets
        ]
    )
    sizes = group * 2 ** np.arange(levels + 1)
    return {
        **sqrt_law.sqrt_m_slope(sizes, variances).to_json(),
        "sizes": sizes.tolist(),
        "sd": np.sqrt(variances.mean(axis=0)).tolist(),
        "batch_size": model.batch_size,
    }


def measure_curvature(
    probe: Probe, model: TrainedModel, pool: np.ndarray, train: TrainConfig
) -> Json:
    """λ_max's bracket on a sample, its eigenvector on other rows, and the stability line of the
    optimizer at this learning rate.

    For Adam the line holds for `preconditioned`, λ_max of D^-½HD^-½, D = √v̂ + ε. A cosine ends at
    a rate of 0, which no curvature makes unstable: no share then.
    """
    x = model.parameters
    rows = pool[: min(CURVATURE_ROWS, len(pool) // 2)]
    size = min(RAYLEIGH_ROWS, (len(pool) - len(rows)) // RAYLEIGH_BLOCKS)
    others = (
        [pool[len(rows) + i * size : len(rows) + (i + 1) * size] for i in range(RAYLEIGH_BLOCKS)]
        if size
        else []
    )
    line = stable_curvature(
        train.optimizer,
        model.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        beta1=train.beta1,
    )

    def spectrum(scale: np.ndarray | float) -> Json:
        def product(part: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            return lambda v: scale * probe.hvp(x, part, scale * v)

        found = lanczos.largest_eigenvalue(product(rows), probe.num_parameters, steps=LANCZOS_STEPS)
        rayleigh = (
            lanczos.rayleigh_on_independent_rows(
                [product(part) for part in others], found.vector
            ).to_json()
            if others
            else None
        )
        return {**found.record().to_json(), "rayleigh": rayleigh, "smallest": found.smallest}

    made = {**spectrum(1.0), "lr": model.lr, "stability_line": line, "rows": len(rows)}
    if is_adam(train):
        made["preconditioned"] = spectrum(
            noise_scale.adam_scale(_second_moment(probe, model, pool)) ** 0.5
        )
    judged = made.get("preconditioned", made)["value"]
    return {
        **made,
        "share_of_stability_line": (
            None if judged is None or train.schedule == "cosine" else judged / line
        ),
    }


def measure_sharpness(
    probe: Probe, model: TrainedModel, pool: np.ndarray, holdout: np.ndarray | None
) -> Json:
    """Keskar's φ in full space (the value: ε = 1e-3), at both ε, in a random subspace, the adaptive
    φ, and the generalisation gap.
    """
    x, rows = model.parameters, pool[:SHARPNESS_ROWS]
    search = partial(sharpness.sharpness, partial(_value_and_grad, probe, rows), x)
    small = probe.num_parameters * sharpness.SUBSPACE_DIMENSIONS <= _MOST_VALUES
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
    """What of one model is compared at equal loss, all on the same rows.

    `{phi, adaptive, curvature, loss}`, both φ at ε = 1e-3, λ_max, mean r².
    """
    search = partial(
        sharpness.sharpness,
        partial(_value_and_grad, probe, rows),
        parameters_P,
        sharpness.EPSILONS[0],
    )
    spectrum = lanczos.largest_eigenvalue(
        partial(probe.hvp, parameters_P, rows), probe.num_parameters, steps=LANCZOS_STEPS
    )
    return {
        "phi": search().value,
        "adaptive": search(adaptive=True).value,
        "curvature": spectrum.ritz,
        "loss": 2 * probe.loss(parameters_P, rows),
    }


def audit_invariance(
    probe: Probe, model: TrainedModel, pool: np.ndarray, shape: Model
) -> Json | None:
    """How far each measure is from being one of the function.

    None where the activation allows no exact rescaling.
    """
    if not can_rescale(shape):
        return None
    rows, found = pool[:SHARPNESS_ROWS], {}
    for name, adaptive in (("keskar", False), ("adaptive", True)):

        def phi(x: np.ndarray, adaptive: bool = adaptive) -> float:
            return sharpness.sharpness(
                partial(_value_and_grad, probe, rows), x, sharpness.EPSILONS[0], adaptive=adaptive
            ).value

        found[name] = sharpness.invariance_audit(
            phi, partial(rescale, shape), model.parameters.astype(float)
        )
    return found


def measure_line(probe: Probe, models: Sequence[TrainedModel], pool: np.ndarray) -> Json | None:
    """Training loss on the line from the smallest batch's model (0) to the largest's (1)."""
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
    """DEFF of minibatches as the stream cuts them.

    `windows` (N,): the window of each row; None when the pool has every window of the epoch.

    Rows of a minibatch share at most a window, so a larger one than that has the DEFF of a window.
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
    count = min(whole, max(_MOST_VALUES // probe.num_parameters, 8))
    kept = np.linspace(0, whole - 1, count).round().astype(int)
    used = pool[: whole * rows].reshape(whole, rows, -1)[kept].reshape(count * rows, -1)
    means = probe.group_gradients(model.parameters, used, rows)
    squares = probe.squared_norms(model.parameters, used).reshape(count, rows).mean(axis=1)
    rho = shuffle_quality.intraclass_correlation(
        means, squares, rows, None if windows is None else windows[kept * rows]
    )
    effects = {
        one.batch_size: shuffle_quality.design_effect(rho, min(one.batch_size, window_rows))
        for one in models
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
    """True where a step is scaled by 1/(√v̂ + ε)."""
    return train.optimizer in ("adam", "adamw")


def can_rescale(model: Model) -> bool:
    """True where other weights can write the very same function: a hidden layer of relu or
    identity.
    """
    return (
        isinstance(model, Shape)
        and model.activation in ("relu", "identity")
        and len(model.layers) > 1
    )


def _nothing(why: str) -> Json:
    """The estimate of what could not be measured."""
    return Estimate(value=None, kind=why).to_json()


def _second_moment(probe: Probe, model: TrainedModel, pool: np.ndarray) -> np.ndarray:
    """Adam's v̂; where it is not at hand, E g_B² of a minibatch at the frozen weights: |G|² + diag
    Σ/B, coordinate by coordinate.
    """
    if model.second_moment is not None:
        return np.asarray(model.second_moment, dtype=float)
    groups = max(8, min(GROUPS, _MOST_VALUES // probe.num_parameters))
    group = max(1, min(16, len(pool) // groups))
    g = probe.group_gradients(model.parameters, pool[: groups * group], group)
    variance = g.var(axis=0, ddof=1)
    return (
        np.maximum(g.mean(axis=0) ** 2 - variance / len(g), 0.0)
        + variance * group / model.batch_size
    )


def _value_and_grad(probe: Probe, rows: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    return probe.value_and_grad(x, rows)
