"""Measurements of trained models on real rows: `--measure noise,curvature,sharpness,shuffle`.

See docs/science.md §2, §4, §5 and §6. `measure_costs` says what each will take before it runs, and
`measure` gives the `measures` of summary.json. All read one pool of rows, taken from up to 16
windows as the stream delivers them. Training is not affected: models are measured at frozen
weights. These are the weights that training continues from and not their average
(`train.average`), since noise and curvature say what the next step meets.
"""

import time
from collections.abc import Collection, Sequence

import numpy as np

from streamtrain.base.units import format_bytes
from streamtrain.records import Emit, Measured, MeasuringStarted
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.run.sweep_plan import for_trial
from streamtrain.science.cells import Cell
from streamtrain.science.intervals import log_estimate
from streamtrain.science.judge import arm_cells, judge
from streamtrain.science.run_log import Run
from streamtrain.science.sharpness import EPSILONS, FACTORS
from streamtrain.stream.fetch import FetchStats
from streamtrain.training import model_measures
from streamtrain.training.engine import Engine
from streamtrain.training.learner import Learner, is_divergent
from streamtrain.training.model_measures import TrainedModel
from streamtrain.training.probes import Probe, one_torch_thread, probe_model
from streamtrain.types import Json

__all__ = [
    "TrainedModel",
    "equal_cells",
    "measure",
    "measure_at_target",
    "measure_costs",
    "measure_sweep",
]

#: Rows of the pool, of which each of at most `MOST_WINDOWS` windows gives an equal part.
POOL_ROWS = 65_536
MOST_WINDOWS = 16

#: The most trials in which models are trained to the target for their sharpness.
MOST_TRIALS = 3

#: What torch and the pool of rows need while models are measured and nothing trains (130 to 240 MiB
#: were observed).
MEASURING_BYTES = 256 * 2**20

#: Loss evaluations of one search for sharpness: 8 restarts of about 14 each.
_EVALUATIONS = 8 * 14

#: The cost of a Hessian-vector product, in gradients of the same rows.
_HESSIAN_PRODUCT_COST = 4.0


def measure_sweep(prepared: Prepared, run: Run, learners: list[Learner], emit: Emit) -> None:
    """Measure the models that the last pass of a sweep left, and emit the `measures` record.

    A `measuring` record with the expected costs, or with the reason why nothing is measured, comes
    first. Of the replicas of a batch size, the one at the judged learning rate is measured, or the
    first one where the last pass did not have that rate.
    """
    judgement, names, budget = judge(run), prepared.config.sweep.measure, prepared.budget
    if budget.projected_bytes + MEASURING_BYTES > budget.limit_bytes:
        text = (
            f"not measured: --memory {format_bytes(budget.limit_bytes)} does not leave"
            f" {format_bytes(MEASURING_BYTES)} for it in addition to the stream"
        )
        emit(MeasuringStarted(skipped=text))
        return
    judged_rates = {cell.batch_size: cell.lr for cell in judgement.cells}
    models = [
        _trained_model(learner.engine, judged_rates[learner.engine.batch_size])
        for learner in learners
    ]
    targets = [judgement.target, *run.header.target_loss[1:]]
    cells_per_target = [
        (target, arm_cells(run, run.rules[0], target, index))
        for index, target in enumerate(targets)
        if target is not None
    ]
    at_target = 0
    for _, cells in cells_per_target:
        reached, trials = equal_cells(cells)
        at_target += len(reached) * len(trials)
    costs = measure_costs(prepared, models, names, at_target=at_target)
    emit(MeasuringStarted(costs=tuple(costs)))
    measures = measure(
        prepared, models, names, reference=judgement.choice.batch_size, trial=run.passes[-1].trial
    )
    if "sharpness" in measures:
        lasting = for_trial(prepared, run, run.passes[-1].trial)
        at_targets = [
            measure_at_target(lasting, cells, target) for target, cells in cells_per_target
        ]
        measures["sharpness"]["at_targets"] = [
            measured for measured in at_targets if measured is not None
        ]
    emit(Measured(measures=measures))


def _trained_model(engine: Engine, judged_rate: float) -> TrainedModel:
    """Return the replica at the judged learning rate, or the first one if there is none."""
    rates = engine.learning_rates
    replica = rates.index(judged_rate) if judged_rate in rates else 0
    return TrainedModel(
        batch_size=engine.batch_size,
        lr=rates[replica],
        parameters=engine.parameters()[replica],
    )


@one_torch_thread()
def measure_costs(
    prepared: Prepared, models: Sequence[TrainedModel], what: Collection[str], *, at_target: int = 0
) -> list[Json]:
    """Return the expected cost of each measurement in `what`, from one gradient timed here.

    A cost is `{measure, rows, row_gradients, seconds}`: the rows that are read, the gradients of
    single rows, and their time. `models`: as for `measure`. `at_target`: how many models
    `measure_at_target` will train.
    """
    if not models or not what:
        return []
    seconds = _seconds_per_row_gradient(prepared, models[0])
    num_models = len(models)
    adam = model_measures.is_adam(prepared.config.train)
    noise_rows = model_measures.REPLICATES * model_measures.REPLICATE_ROWS
    hessian_rows = (
        model_measures.REPLICATES * model_measures.MICRO_BATCHES * model_measures.HESSIAN_ROWS
    )
    rayleigh_rows = model_measures.RAYLEIGH_BLOCKS * model_measures.RAYLEIGH_ROWS
    lanczos_rows = model_measures.LANCZOS_STEPS * model_measures.CURVATURE_ROWS
    searches = (
        num_models * (3 * len(EPSILONS))
        + 2 * (1 + len(FACTORS)) * model_measures.can_rescale(prepared.model)
        + 2 * at_target
    )
    sharpness_passes = (
        searches * _EVALUATIONS + at_target * _HESSIAN_PRODUCT_COST * model_measures.LANCZOS_STEPS
    )
    gradients = {
        "noise": noise_rows * 3 + hessian_rows * _HESSIAN_PRODUCT_COST + 2 * POOL_ROWS,
        "curvature": (
            num_models * (2 if adam else 1) * _HESSIAN_PRODUCT_COST * (lanczos_rows + rayleigh_rows)
        ),
        "sharpness": (
            sharpness_passes * model_measures.SHARPNESS_ROWS + num_models * model_measures.GAP_ROWS
        ),
        "shuffle": 2 * POOL_ROWS,
    }
    rows = {
        "noise": POOL_ROWS,
        "curvature": model_measures.CURVATURE_ROWS + rayleigh_rows,
        "sharpness": model_measures.SHARPNESS_ROWS + model_measures.GAP_ROWS,
        "shuffle": POOL_ROWS,
    }
    return [
        {
            "measure": name,
            "rows": rows[name],
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
    """Return the measurements named in `what`.

    The keys are `noise_scale` and `sqrt_m_slope` for "noise", `curvature`, `sharpness`, and
    `shuffle`. Each value is `{value, lo, hi, n, kind, …}` for the model of batch size `reference`
    (the smallest when None), `shuffle` has one of these per figure (`deff`, …); `curvature` and
    `sharpness` have every model under `by_batch_size`.

    Reads the first windows of `trial`. Models that have diverged are left out: their gradients
    overflow, so their measurements would mean nothing.
    """
    if not models or not what:
        return {}
    pool, windows, all_read = _read_pool(prepared, trial)
    probe, train = _probe(prepared, trial), prepared.config.train
    models = sorted(
        (model for model in models if not _has_diverged(prepared, probe, model, pool)),
        key=lambda model: model.batch_size,
    )
    if not models:
        return {}
    chosen = next((model for model in models if model.batch_size == reference), models[0])
    result: Json = {}
    if "noise" in what:
        adam = model_measures.is_adam(train)
        result["noise_scale"] = model_measures.measure_noise(probe, chosen, pool, adam=adam)
        result["sqrt_m_slope"] = model_measures.measure_sqrt_m(probe, chosen, pool)
    if "curvature" in what:
        curvature = {
            str(model.batch_size): model_measures.measure_curvature(probe, model, pool, train)
            for model in models
        }
        result["curvature"] = {**curvature[str(chosen.batch_size)], "by_batch_size": curvature}
    if "sharpness" in what:
        evaluation = prepared.evaluation
        sharpness = {
            str(model.batch_size): model_measures.measure_sharpness(probe, model, pool, evaluation)
            for model in models
        }
        result["sharpness"] = {
            **sharpness[str(chosen.batch_size)],
            "by_batch_size": sharpness,
            "target_sd": prepared.target_sd,
            "invariance_audit": model_measures.audit_invariance(
                probe, chosen, pool, prepared.model
            ),
            "parametric_line": model_measures.measure_line(probe, models, pool),
        }
    if "shuffle" in what:
        result["shuffle"] = model_measures.measure_shuffle(
            probe, models, chosen, pool, None if all_read else windows, prepared.source.window_rows
        )
    return result


@one_torch_thread()
def measure_at_target(prepared: Prepared, cells: Sequence[Cell], target: float) -> Json | None:
    """Return the sharpness of all sizes at the same loss; None with fewer than two sizes.

    `{target_loss, trials, by_batch_size: {size: {lr, phi, adaptive, curvature, loss}},
    largest_over_smallest}`, with intervals over trials.

    Minima of different loss differ in sharpness at any batch size (Keskar et al. 2017 train all
    models to the same accuracy), and after the same rows a large minibatch is at a much higher loss
    than a small one. So each size is trained again to the step at which it reached the target, all
    sizes of a trial in one pass, and all are measured on the same rows.
    """
    cells, trials = equal_cells(cells)
    if len(cells) < 2:
        return None
    rows = _read_pool(prepared, trials[0])[0][: model_measures.SHARPNESS_ROWS]
    per_trial: dict[int, list[dict[str, float]]] = {cell.batch_size: [] for cell in cells}
    for trial in trials:
        learners = [
            prepared.learner(
                cell.batch_size,
                (cell.lr,),
                trial,
                stop_row=cell.row_at_target(trial),
                watched=False,
            )
            for cell in cells
        ]
        run_pass(prepared, learners, trial, lambda record: None, kind="measuring")
        for learner in learners:
            weights = learner.engine.parameters()[0].astype(float)
            measured = model_measures.measure_at_weights(_probe(prepared, trial), weights, rows)
            per_trial[learner.engine.batch_size].append(measured)

    smallest, largest = per_trial[cells[0].batch_size], per_trial[cells[-1].batch_size]
    names = list(smallest[0])
    by_size = {}
    for cell in cells:
        measured_trials = per_trial[cell.batch_size]
        estimates = {
            name: _estimate_over_trials([measured[name] for measured in measured_trials])
            for name in names
        }
        by_size[str(cell.batch_size)] = {"lr": cell.lr, **estimates}
    ratios = {
        name: _estimate_over_trials(
            [large[name] / small[name] for small, large in zip(smallest, largest, strict=True)]
        )
        for name in names
    }
    return {
        "target_loss": target,
        "trials": len(trials),
        "by_batch_size": by_size,
        "largest_over_smallest": ratios,
    }


def equal_cells(cells: Sequence[Cell]) -> tuple[list[Cell], list[int]]:
    """Return the sizes and the trials that `measure_at_target` trains.

    These are the sizes that reached the target, ascending, and trials in which all of them did.
    """
    reached = sorted(
        (cell for cell in cells if cell.status == "reached"), key=lambda cell: cell.batch_size
    )
    if not reached:
        return [], []
    trials = set.intersection(*(set(cell.steps_to_target) for cell in reached))
    return reached, sorted(trials)[:MOST_TRIALS]


def _seconds_per_row_gradient(prepared: Prepared, model: TrainedModel) -> float:
    probe = _probe(prepared, 0)
    shape = (model_measures.SHARPNESS_ROWS, prepared.source.num_columns)
    rows = np.zeros(shape, dtype=np.float32)
    timed = []
    for _ in range(5):  # the fastest leaves out warm-up and what other processes took
        started = time.perf_counter()
        probe.grad(model.parameters, rows)
        timed.append((time.perf_counter() - started) / len(rows))
    return min(timed)


def _estimate_over_trials(values: Sequence[float]) -> Json:
    return log_estimate(float(np.exp(np.mean(np.log(values)))), values).to_json()


def _read_pool(prepared: Prepared, trial: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Read rows as the stream delivers them, equally many of each window.

    Returns the rows, float32 (rows, features + 1); the window of each row, (rows,); and whether
    these are all windows of the epoch.
    """
    total = len(prepared.plan(trial, 0))
    num_windows = min(MOST_WINDOWS, total)
    minibatch = model_measures.SHUFFLE_ROWS
    # whole minibatches per window, so that no minibatch of the pool spans two windows
    rows_per_window = POOL_ROWS // (num_windows * minibatch) * minibatch
    parts: list[np.ndarray] = []
    blocks = prepared.blocks(trial, FetchStats())
    try:
        for block in blocks:
            if block.epoch or block.index >= num_windows:
                break
            rows = min(rows_per_window, len(block.rows))
            parts.append(block.rows[: rows // minibatch * minibatch or rows].copy())
            if block.index == num_windows - 1:
                break
    finally:
        blocks.close()
    windows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.concatenate(parts), windows, num_windows == total


def _has_diverged(prepared: Prepared, probe: Probe, model: TrainedModel, pool: np.ndarray) -> bool:
    """Decide as a learner does: weights may be finite while the loss is beyond all bounds."""
    rows = pool[: model_measures.SHARPNESS_ROWS]
    with np.errstate(over="ignore", invalid="ignore"):
        half_square = float(np.mean(probe.row_losses(model.parameters, rows)))
        loss = half_square * 2 * prepared.loss_scale
    return is_divergent(loss)


def _probe(prepared: Prepared, trial: int) -> Probe:
    train = prepared.config.train
    return probe_model(
        prepared.model.for_trial(prepared.config.order.seed, trial),
        train.huber_delta if train.loss == "huber" else 0.0,
    )
