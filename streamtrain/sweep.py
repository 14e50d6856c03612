"""The sweep: trials x batch sizes x learning rates. One pass over the data per trial feeds every one of them, on the same rows."""

import time
from dataclasses import asdict

from streamtrain.budget import peak_rss_bytes
from streamtrain.config import Config
from streamtrain.passes import NO_LAST_ROW, Prepared, prepare, run_pass, warm_up
from streamtrain.timing import measure_throughput
from streamtrain.types import Emit, Record


def learning_rates(config: Config) -> tuple[float, ...]:
    """The rates tried at every batch size: a list as given, or a number of them, half a decade apart, around `train.lr`."""
    grid = config.sweep.lr_grid
    if not isinstance(grid, int):
        return tuple(sorted(set(grid)))
    center = config.train.rate
    return tuple(float(f"{center * 10 ** ((k - (grid - 1) / 2) / 2):.3g}") for k in range(grid))


def sweep(config: Config, emit: Emit, describe: Record) -> None:
    """Run a sweep and emit its Records. `describe`: what the `run` record says beside what the sweep itself knows."""
    started = time.perf_counter()
    sizes, rates, trials = config.sweep.batch_sizes, learning_rates(config), config.sweep.trials
    prepared = prepare(config, learners=len(sizes), rates=len(rates))
    compile_seconds, before = warm_up(prepared)
    emit(run_record(prepared, describe, verb="sweep", compile_seconds=compile_seconds, sizes=sizes, rates=[rates] * len(sizes), trials=trials))
    emit({"event": "baseline", **prepared.baselines})
    share = None if config.train.max_time is None else config.train.max_time / trials
    passes = []
    for trial in range(trials):
        learners = [prepared.learner(size, rates, trial) for size in sizes]
        passes.append(run_pass(prepared, learners, trial, emit, max_seconds=share))
    measure_throughput(prepared, sizes, emit)
    rows_read = sum(record["rows_read"] for record in passes)
    apart = sum(record["rows_read"] * record["replicas"] for record in passes)
    emit(end_record(prepared, seconds=time.perf_counter() - started, rows_read=rows_read, passes=trials, saved=apart - rows_read, before=before))


def run_record(
    prepared: Prepared, describe: Record, *, verb: str, compile_seconds: float, sizes: tuple[int, ...], rates: list[tuple[float, ...]], trials: int
) -> Record:
    """The first record: everything needed to read the others."""
    source, config = prepared.source, prepared.config
    dataset = source.dataset
    other = config.data.eval_data is not None
    return {
        "event": "run", "schema_version": 1, "verb": verb, "batch_sizes": list(sizes), "lrs": [list(r) for r in rates], "trials": trials,
        "train_rows": prepared.last_row if prepared.last_row < NO_LAST_ROW else None, "epoch_rows": prepared.epoch_rows,
        "target_loss": list(config.sweep.target_loss), "config": config.model_dump(mode="json"),
        "data": {
            "url": dataset.url, "fingerprint": dataset.fingerprint, "num_rows": dataset.num_rows, "num_shards": len(dataset.shards),
            "num_spans": len(source.spans), "features": list(dataset.features), "target": dataset.target,
            "holdout_rows": 0 if prepared.evaluation is None else len(prepared.evaluation),
            "holdout_source": "none" if prepared.evaluation is None else "eval_data" if other else "rows",
            "integrity": dataset.integrity, "truth": None if dataset.truth is None else asdict(dataset.truth),
            "on_null": source.on_null, "transform": None if source.transform is None else source.transform.record(),
            "imputed": None if source.fill is None else dict(zip(dataset.features, source.fill.tolist(), strict=True)),
        },
        "standard": prepared.standard.to_json(), "target_sd": prepared.target_sd,
        "engine": prepared.engine, "compile_seconds": compile_seconds,
        "memory": {"budget_bytes": prepared.budget.limit_bytes, "projected_bytes": prepared.budget.projected_bytes},
        **describe,
    }  # fmt: skip


def end_record(prepared: Prepared, *, seconds: float, rows_read: int, passes: int, saved: int, before: int) -> Record:
    """The last record. `before`: resident bytes after imports and warm-up, `saved`: rows not read because learners shared a pass."""
    return {
        "event": "end", "seconds": seconds, "rows_read": rows_read, "passes": passes, "rows_saved": saved,
        "projected_bytes": prepared.budget.projected_bytes, "peak_rss_bytes": max(0, peak_rss_bytes() - before),
    }  # fmt: skip
