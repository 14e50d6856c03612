"""What all runs do before their first pass and after the last one, with the records of both."""

import time
from dataclasses import asdict
from typing import Literal

from streamtrain.base.budget import peak_rss_bytes
from streamtrain.records import (
    BatchStage,
    DataInfo,
    Emit,
    MemoryInfo,
    Record,
    RunEnded,
    RunStarted,
    stages_text,
)
from streamtrain.run.prepare import Prepared
from streamtrain.run.warm_up import warm_up
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.types import Json


class RunLifetime:
    """A run from its start to its last record.

    Construct it before the data are opened, since its clock starts then. Call `open` before the
    other methods.

    Args:
        verb: What the run does.
        emit: Takes the last record.
        run_metadata: Fields of the first record that only the caller knows.
        checkpointer: Saves the run, which may be the rest of an interrupted one.
    """

    def __init__(
        self,
        verb: Literal["sweep", "train"],
        emit: Emit,
        run_metadata: Json,
        checkpointer: Checkpointer | None,
    ):
        self._started = time.perf_counter()
        self._verb: Literal["sweep", "train"] = verb
        self._emit = emit
        self._metadata = run_metadata
        self._checkpointer = checkpointer

    @property
    def window_rows(self) -> int | None:
        """The default window of the interrupted run; None for a new one."""
        return None if self._checkpointer is None else self._checkpointer.window_rows()

    @property
    def seconds(self) -> float:
        """The seconds since the start, without those of an interrupted run."""
        return time.perf_counter() - self._started

    def open(
        self,
        prepared: Prepared,
        sizes: tuple[int, ...],
        rates: tuple[float, ...],
        stages: tuple[BatchStage, ...] | None = None,
    ) -> list[Record]:
        """Compile the kernels for `sizes` and `rates`, and open the checkpoints.

        `stages`: the minibatch sizes of a run that chose them itself.
        Returns the records of the interrupted run, of which the first is its `run` record; none for
        a new run.
        """
        self._prepared, self._stages = prepared, stages
        self._compile_seconds, self._resident_bytes = warm_up(prepared, sizes, rates)
        if self._checkpointer is None:
            return []
        chosen = {} if stages is None else {"batch sizes": stages_text(stages)}
        return self._checkpointer.begin(prepared.fingerprint(verb=self._verb, **chosen))

    def first_record(
        self, *, sizes: tuple[int, ...], rates: tuple[float, ...], trials: int
    ) -> RunStarted:
        """Return the first record of a run: everything that is needed to read the others.

        `rates`: the learning rates of each batch size in `sizes`.
        """
        prepared = self._prepared
        return RunStarted(
            verb=self._verb,
            batch_sizes=sizes,
            lrs=(rates,) * len(sizes),
            trials=trials,
            train_rows=prepared.end_row,
            until_flat=prepared.until_flat,
            epoch_rows=prepared.epoch_rows,
            integrity=prepared.source.dataset.integrity_text,
            target_loss=_target_losses(prepared),
            config=prepared.config.model_dump(mode="json"),
            data=_data_info(prepared),
            standard=dict(prepared.standard.to_json()),
            target_sd=prepared.target_sd,
            engine=prepared.engine,
            engine_reason=prepared.engine_reason,
            engine_rates=prepared.engine_rates,
            stages=self._stages,
            compile_seconds=self._compile_seconds,
            memory=MemoryInfo(
                budget_bytes=prepared.budget.limit_bytes,
                projected_bytes=prepared.budget.projected_bytes,
            ),
            **self._metadata,
        )

    def peak_bytes(self) -> int:
        """Return the peak of resident memory beyond the memory of imports and warm-up."""
        return max(0, peak_rss_bytes() - self._resident_bytes)

    def end(
        self,
        *,
        rows_read: int,
        passes: int,
        saved: int,
        peak_bytes: int,
        projected_bytes: int | None = None,
    ) -> None:
        """Emit the last record of the run.

        `saved`: rows that were not read because learners shared a pass. `peak_bytes`: those of the
        passes. `projected_bytes`: of passes at once; None where they took turns.
        """
        seconds_before = 0 if self._checkpointer is None else self._checkpointer.seconds
        self._emit(
            RunEnded(
                seconds=self.seconds + seconds_before,
                rows_read=rows_read,
                passes=passes,
                rows_saved=saved,
                projected_bytes=projected_bytes or self._prepared.budget.projected_bytes,
                peak_rss_bytes=peak_bytes,
            )
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
        notices=dataset.notices,
    )
