"""Measurements of trained models on real rows: `--measure noise,curvature,sharpness,shuffle`
(docs/science.md §2, §4, §5, §6).

`measure_costs` says what each will take, before it runs; `measure` gives the `measures` of
summary.json. All read one pool of rows, the first of up to 16 windows as the stream delivers them,
and leave training alone: models are measured at frozen weights.
"""

import time
from collections.abc import Collection, Sequence

import numpy as np

from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.science.cells import Cell
from streamtrain.science.intervals import log_estimate
from streamtrain.science.sharpness import EPSILONS, FACTORS
from streamtrain.stream.fetch import FetchStats
from streamtrain.training import model_measures as of
from streamtrain.training.learner import is_divergent
from streamtrain.training.model_measures import TrainedModel
from streamtrain.training.probes import Probe, one_torch_thread, probe_model
from streamtrain.types import Json

__all__ = ["TrainedModel", "equal_cells", "measure", "measure_at_target", "measure_costs"]

#: Of each of so many windows at most, an equal part of the pool is taken.
MOST_WINDOWS, POOL_ROWS = 16, 65_536

#: Trials in which models are trained to the target for their sharpness.
MOST_TRIALS = 3

#: Evaluations of one sharpness search: restarts of about this many each.
_EVALUATIONS = 8 * 14

_HVP = 2.5  # gradients of the same rows


@one_torch_thread()
def measure_costs(
    prepared: Prepared, models: Sequence[TrainedModel], what: Collection[str], *, at_target: int = 0
) -> list[Json]:
    """For each measurement asked for: `{measure, rows, row_gradients, seconds}`: rows it looks at,
    gradients of a row it takes, and how long that will be, from one gradient timed here. `models`
    as for `measure`; `at_target`: how many `measure_at_target` will train.
    """
    if not models or not what:
        return []
    probe, rows, timed = (
        _probe(prepared, 0),
        np.zeros((of.SHARPNESS_ROWS, prepared.source.num_columns), dtype=np.float32),
        [],
    )
    for _ in range(5):  # the first ones warm up
        started = time.perf_counter()
        probe.grad(models[0].parameters, rows)
        timed.append((time.perf_counter() - started) / len(rows))
    seconds, adam = float(np.median(timed)), of.is_adam(prepared.config.train)
    many, noise_rows = len(models), of.REPLICATES * of.REPLICATE_ROWS
    searches = (
        many * (3 * len(EPSILONS))
        + 2 * (1 + len(FACTORS)) * of.can_rescale(prepared.model)
        + 2 * at_target
    )
    gradients = {
        "noise": (
            noise_rows * 3
            + of.REPLICATES * of.MICRO_BATCHES * of.HESSIAN_ROWS * _HVP
            + 2 * POOL_ROWS
        ),
        "curvature": (
            many
            * (2 if adam else 1)
            * _HVP
            * (of.LANCZOS_STEPS * of.CURVATURE_ROWS + of.RAYLEIGH_BLOCKS * of.RAYLEIGH_ROWS)
        ),
        "sharpness": (
            (searches * _EVALUATIONS + at_target * _HVP * of.LANCZOS_STEPS) * of.SHARPNESS_ROWS
            + many * of.GAP_ROWS
        ),
        "shuffle": 2 * POOL_ROWS,
    }
    looked_at = {
        "noise": POOL_ROWS,
        "curvature": of.CURVATURE_ROWS + of.RAYLEIGH_BLOCKS * of.RAYLEIGH_ROWS,
        "sharpness": of.SHARPNESS_ROWS + of.GAP_ROWS,
        "shuffle": POOL_ROWS,
    }
    return [
        {
            "measure": name,
            "rows": looked_at[name],
            "row_gradients": int(gradients[name]),
            "seconds": gradients[name] * seconds,
        }
        for name in gradients
        if name in what
    ]


@one_torch_thread()
def measure(
    prepared: Prepared,
    models: Sequence[TrainedModel],
    what: Collection[str],
    *,
    reference: int | None = None,
    trial: int = 0,
) -> Json:
    """`{noise_scale, sqrt_m_slope, curvature, sharpness, shuffle: {deff, …}}`, as far as asked for
    by `what`.

    Each is `{value, lo, hi, n, kind, …}` of the model of batch size `reference` (the smallest when
    None); curvature and sharpness have every model under `by_batch_size`. Reads the first windows
    of `trial`. Models that have diverged are left out: their gradients overflow, and what is
    measured of them is of nothing.
    """
    if not models or not what:
        return {}
    pool, windows, all_read = _read_pool(prepared, trial)
    probe, train, result = _probe(prepared, trial), prepared.config.train, {}
    models = sorted(
        (model for model in models if not _has_diverged(prepared, probe, model, pool)),
        key=lambda model: model.batch_size,
    )
    if not models:
        return {}
    chosen = next((model for model in models if model.batch_size == reference), models[0])
    if "noise" in what:
        result["noise_scale"] = of.measure_noise(probe, chosen, pool, adam=of.is_adam(train))
        result["sqrt_m_slope"] = of.measure_sqrt_m(probe, chosen, pool)
    if "curvature" in what:
        each = {
            str(model.batch_size): of.measure_curvature(probe, model, pool, train)
            for model in models
        }
        result["curvature"] = {**each[str(chosen.batch_size)], "by_batch_size": each}
    if "sharpness" in what:
        each = {
            str(model.batch_size): of.measure_sharpness(probe, model, pool, prepared.evaluation)
            for model in models
        }
        result["sharpness"] = {
            **each[str(chosen.batch_size)],
            "by_batch_size": each,
            "target_sd": prepared.target_sd,
            "invariance_audit": of.audit_invariance(probe, chosen, pool, prepared.model),
            "parametric_line": of.measure_line(probe, models, pool),
        }
    if "shuffle" in what:
        result["shuffle"] = of.measure_shuffle(
            probe, models, chosen, pool, None if all_read else windows, prepared.window_rows
        )
    return result


@one_torch_thread()
def measure_at_target(prepared: Prepared, cells: Sequence[Cell], target: float) -> Json | None:
    """Sharpness where sizes are equally deep: `{target_loss, trials, by_batch_size: {size: {lr,
    phi, adaptive, curvature, loss}}, largest_over_smallest}`.

    Minima of unlike loss have unlike sharpness whatever the batch (Keskar et al. 2017 train all to
    the same accuracy), and a large minibatch ends a budget of rows far above a small one. So each
    size is trained once more to where it reached the target: all sizes of a trial in one pass. All
    are measured on the same rows. Intervals are over trials; None with fewer than two sizes.
    """
    cells, trials = equal_cells(cells)
    if len(cells) < 2:
        return None
    rows = _read_pool(prepared, trials[0])[0][: of.SHARPNESS_ROWS]
    found: dict[int, list[dict[str, float]]] = {cell.batch_size: [] for cell in cells}
    for trial in trials:
        learners = [
            prepared.learner(
                cell.batch_size, (cell.lr,), trial, stop_row=cell.arrival_row(trial), watched=False
            )
            for cell in cells
        ]
        run_pass(prepared, learners, trial, lambda record: None, kind="measuring")
        for learner in learners:
            weights = learner.engine.parameters()[0].astype(float)
            found[learner.engine.batch_size].append(
                of.measure_at_weights(_probe(prepared, trial), weights, rows)
            )

    def over_trials(values: Sequence[float]) -> Json:
        return log_estimate(float(np.exp(np.mean(np.log(values)))), values).to_json()

    names = list(found[cells[0].batch_size][0])
    by_size = {
        str(cell.batch_size): (
            {"lr": cell.lr}
            | {name: over_trials([one[name] for one in found[cell.batch_size]]) for name in names}
        )
        for cell in cells
    }
    small, large = found[cells[0].batch_size], found[cells[-1].batch_size]
    ratios = {
        name: over_trials([b[name] / a[name] for a, b in zip(small, large, strict=True)])
        for name in names
    }
    return {
        "target_loss": target,
        "trials": len(trials),
        "by_batch_size": by_size,
        "largest_over_smallest": ratios,
    }


def equal_cells(cells: Sequence[Cell]) -> tuple[list[Cell], list[int]]:
    """The sizes that reached the target, ascending, and the trials in which `measure_at_target`
    trains them.
    """
    reached = sorted(
        (cell for cell in cells if cell.status == "reached"), key=lambda cell: cell.batch_size
    )
    return reached, (
        sorted(set.intersection(*(set(cell.steps_to_target) for cell in reached)))[:MOST_TRIALS]
        if reached
        else []
    )


def _read_pool(prepared: Prepared, trial: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Rows as the stream delivers them, equally many of each window; their windows; whether these
    are all windows of the epoch.
    """
    total = len(prepared.plan(trial, 0))
    windows, parts, blocks = min(MOST_WINDOWS, total), [], prepared.blocks(trial, FetchStats())
    # so that no minibatch of the pool lies in two windows
    share = -(-POOL_ROWS // (windows * of.SHUFFLE_ROWS)) * of.SHUFFLE_ROWS
    try:
        for block in blocks:
            if block.epoch or block.index >= windows:
                break
            rows = min(share, len(block.rows))
            parts.append(block.rows[: rows // of.SHUFFLE_ROWS * of.SHUFFLE_ROWS or rows].copy())
            if block.index == windows - 1:
                break
    finally:
        blocks.close()
    return (
        np.concatenate(parts),
        np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        windows == total,
    )


def _has_diverged(prepared: Prepared, probe: Probe, model: TrainedModel, pool: np.ndarray) -> bool:
    """As a learner judges it; weights may be finite, and the loss beyond all bounds."""
    with np.errstate(over="ignore", invalid="ignore"):
        loss = (
            float(np.mean(probe.row_losses(model.parameters, pool[: of.SHARPNESS_ROWS])))
            * 2
            * prepared.loss_scale
        )
    return is_divergent(loss)


def _probe(prepared: Prepared, trial: int) -> Probe:
    train = prepared.config.train
    return probe_model(
        prepared.model.of_trial(prepared.config.order.seed, trial),
        train.huber_delta if train.loss == "huber" else 0.0,
    )
