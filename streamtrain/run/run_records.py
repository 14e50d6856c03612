"""The first and the last record of a run."""

from dataclasses import asdict
from typing import Literal

from streamtrain.records import DataInfo, MemoryInfo, RunEnded, RunStarted
from streamtrain.run.prepare import Prepared
from streamtrain.types import Json


def run_record(
    prepared: Prepared,
    run_metadata: Json,
    *,
    verb: Literal["sweep", "train"],
    compile_seconds: float,
    sizes: tuple[int, ...],
    rates: list[tuple[float, ...]],
    trials: int,
) -> RunStarted:
    """Return the first record of a run: everything that is needed to read the others.

    `rates`: the learning rates of each batch size in `sizes`. `run_metadata` is added to the record
    unchanged.
    """
    config = prepared.config
    return RunStarted(
        verb=verb,
        batch_sizes=sizes,
        lrs=tuple(rates),
        trials=trials,
        train_rows=prepared.end_row,
        until_flat=prepared.until_flat,
        epoch_rows=prepared.epoch_rows,
        integrity=prepared.source.dataset.integrity_text,
        target_loss=_target_losses(prepared),
        config=config.model_dump(mode="json"),
        data=_data_info(prepared),
        standard=dict(prepared.standard.to_json()),
        target_sd=prepared.target_sd,
        engine=prepared.engine,
        engine_reason=prepared.engine_reason,
        engine_rates=prepared.engine_rates,
        compile_seconds=compile_seconds,
        memory=MemoryInfo(
            budget_bytes=prepared.budget.limit_bytes,
            projected_bytes=prepared.budget.projected_bytes,
        ),
        **run_metadata,
    )


def _target_losses(prepared: Prepared) -> tuple[float, ...]:
    """The losses to reach, in standardised target units; none where the sweep chooses one."""
    sweep = prepared.config.sweep
    if sweep.target_rmse is None:
        return tuple(sweep.target_loss)
    return ((sweep.target_rmse / prepared.target_sd) ** 2,)


def _data_info(prepared: Prepared) -> DataInfo:
    source, evaluation = prepared.source, prepared.evaluation
    dataset = source.dataset
    if evaluation is None:
        holdout_source = "none"
    elif prepared.config.data.eval_data is not None:
        holdout_source = "eval_data"
    else:
        holdout_source = "rows"
    imputed = None
    if source.fill is not None:
        imputed = dict(zip(dataset.features, source.fill.tolist(), strict=True))
    return DataInfo(
        url=dataset.url,
        fingerprint=dataset.fingerprint,
        num_rows=dataset.num_rows,
        num_shards=len(dataset.shards),
        num_spans=len(source.spans),
        features=dataset.features,
        target=dataset.target,
        holdout_rows=0 if evaluation is None else len(evaluation),
        holdout_source=holdout_source,
        integrity=dataset.integrity,
        truth=None if dataset.truth is None else asdict(dataset.truth),
        on_null=source.on_null,
        transform=None if source.transform is None else source.transform.record(),
        imputed=imputed,
    )


def end_record(
    prepared: Prepared, *, seconds: float, rows_read: int, passes: int, saved: int, peak: int
) -> RunEnded:
    """Return the last record of a run.

    `saved`: rows that were not read because learners shared a pass. `peak`: the peak resident
    memory of the passes, in bytes, beyond the memory of imports and warm-up.
    """
    return RunEnded(
        seconds=seconds,
        rows_read=rows_read,
        passes=passes,
        rows_saved=saved,
        projected_bytes=prepared.budget.projected_bytes,
        peak_rss_bytes=peak,
    )
