"""`analyze` computes the analysis of a run; `summarize` returns it as `summary.json`."""

import math
from collections.abc import Iterable

from streamtrain.plan.batch_sizes import used_sizes
from streamtrain.records import DataInfo, ReferenceLoss, RunEnded, stages_text
from streamtrain.report.analysis import Analysis, Summary, strict
from streamtrain.report.cell_figures import ComparedAt, cell_figures, confirmations, target_figures
from streamtrain.report.summary_parts import (
    NOT_MEASURED,
    FlatEnd,
    Frontier,
    Growing,
    ModelLoss,
    MoreRows,
    OtherTarget,
    TargetCell,
    TrialReceipt,
)
from streamtrain.report.text.advice import warn
from streamtrain.report.text.explanation import explain
from streamtrain.report.text.recommendation import describe, rmse_of_loss
from streamtrain.report.text.sentence import sentence
from streamtrain.report.workers import summarize_workers
from streamtrain.science.cells import rows_in_common
from streamtrain.science.drift import drift
from streamtrain.science.equal_budget import equal_seconds, equal_steps
from streamtrain.science.flatness import is_flat
from streamtrain.science.frontier import FrontierPoint, frontier
from streamtrain.science.growing import faster_by
from streamtrain.science.judge import Judgement, arm_cells, judge, judged_trials
from streamtrain.science.landmarks import Landmarks, landmarks
from streamtrain.science.run_log import Run, collect
from streamtrain.types import Json


def summarize(records: Iterable[Json]) -> Json:
    """Return the summary of a run, ready for strict JSON (no NaN); a pure function of its records.

    Raises DataError when the records contain no run.
    """
    return analyze(collect(records)).to_json()


def analyze(run: Run) -> Analysis:
    """Return the analysis of a run, finished or not.

    The texts are written last, in this order, because each reads the ones before it.
    """
    judgement = judge(run)
    marks = landmarks(run, judgement)
    summary = _summary(run, judgement, marks)
    analysis = Analysis(run=run, judgement=judgement, landmarks=marks, summary=summary)
    analysis = analysis.revise(recommendation=describe(analysis))
    analysis = analysis.revise(sentence=sentence(analysis))
    analysis = analysis.revise(why=tuple(explain(analysis.summary)))
    return analysis.revise(warnings=tuple(warn(analysis)))


def _summary(run: Run, judgement: Judgement, marks: Landmarks) -> Summary:
    """Return the figures of a run; its texts are still empty."""
    cells = judgement.cells
    compared_at = ComparedAt(
        rows=rows_in_common(cells),
        steps=equal_steps(cells) if run.has_holdout else None,
        seconds=equal_seconds(run, cells) if run.has_holdout else None,
    )
    header, end = run.header, run.end or RunEnded()
    rows_read = sum(record.rows_read for record in run.passes)
    projected_bytes = header.memory.projected_bytes
    quarantined = [record.quarantined for record in run.passes if record.quarantined]
    points = frontier(run, cells, judgement.choice.batch_size, judgement.target)
    # the frontier ends above a target that sizes missed
    at_target = points[-1].seconds if points and points[-1].loss == judgement.target else {}
    figures = tuple(
        cell_figures(
            run,
            cell,
            compared_at,
            judgement.choice.slower_by.get(cell.batch_size, NOT_MEASURED),
            at_target.get(cell.batch_size),
        )
        for cell in cells
    )
    return Summary(
        verb=header.verb,
        command=header.command or None,
        trials=len(judged_trials(run, run.rules[0])),
        epoch_rows=header.epoch_rows,
        version=header.version or header.env.get("streamtrain"),
        train_rows=run.train_rows,
        until_flat=_flat_end(run),
        target_loss=judgement.target,
        target_loss_chosen=judgement.chosen,
        lr_rules=tuple(run.rules),
        fresh_seeds=judgement.fresh,
        holdout_loss_at_rows=compared_at.rows,
        holdout_loss_at_steps=compared_at.steps,
        holdout_loss_at_seconds=compared_at.seconds,
        sizes_used=used_sizes(run.stages, run.rows_reached),
        cells=figures,
        frontier=tuple(_frontier(run, point) for point in points),
        goal=run.goal,
        growing=_growing(run, judgement.target),
        more_rows=_more_rows(run, judgement),
        best_constant_loss=_model_loss(run.baseline.best_constant_loss),
        best_linear_loss=_model_loss(run.baseline.best_linear_loss),
        best_possible_loss=_best_possible(header.data),
        landmarks=strict(marks.to_json()),
        confirmation=confirmations(run, cells, figures),
        measures=strict(run.measures),
        arms={
            rule: tuple(
                cell_figures(run, cell, compared_at)
                for cell in arm_cells(run, rule, judgement.target)
            )
            for rule in run.rules[1:]
        },
        workers=summarize_workers(run),
        other_targets=tuple(
            _other_target(run, target, position)
            for position, target in enumerate(header.target_loss[1:], 1)
        ),
        rows_read=rows_read if end.rows_read is None else end.rows_read,
        passes=len(run.passes) if end.passes is None else end.passes,
        rows_saved=end.rows_saved,
        seconds=end.seconds,
        projected_bytes=projected_bytes if end.projected_bytes is None else end.projected_bytes,
        budget_bytes=header.memory.budget_bytes,
        peak_rss_bytes=end.peak_rss_bytes,
        receipts=_receipts(run),
        stream_seconds=_stream_seconds(run),
        read_bytes=sum(int(record.stats.get("read_bytes", 0)) for record in run.passes),
        integrity=header.integrity or header.data.integrity,
        quarantined=quarantined[-1] if quarantined else None,
        data=header.data,
        standard=header.standard,
        target_sd=header.target_sd,
        env=header.env,
        config=header.config,
    )


def _frontier(run: Run, point: FrontierPoint) -> Frontier:
    """Return a point of the frontier, with its loss in the target's units too."""
    return Frontier(
        loss=point.loss,
        rmse=rmse_of_loss(run, point.loss),
        batch_size=point.batch_size,
        seconds=point.seconds[point.batch_size],
        by_batch_size={str(size): value for size, value in point.seconds.items()},
    )


def _receipts(run: Run) -> tuple[TrialReceipt, ...]:
    """Return the receipts of the passes that have one, in their order."""
    return tuple(
        TrialReceipt(
            trial=record.trial,
            count=record.receipt.count,
            digest=f"{record.receipt.digest:016x}",
            dropped=record.receipt.dropped,
            quarantined=record.receipt.quarantined,
        )
        for record in run.passes
        if record.receipt is not None
    )


def _other_target(run: Run, target: float, position: int) -> OtherTarget:
    """Return each size at its best learning rate for a further target.

    `position` is the place of the target among all given targets.
    """
    return OtherTarget(
        target_loss=target,
        cells=tuple(
            TargetCell(
                batch_size=cell.batch_size,
                lr=cell.lr,
                status=cell.status,
                **target_figures(run, cell),
            )
            for cell in arm_cells(run, run.rules[0], target, position)
        ),
    )


def _growing(run: Run, target: float | None) -> Growing | None:
    if not run.growth:
        return None
    tried, estimate = run.growth[0], faster_by(run, target)
    return Growing(
        batch_schedule=stages_text(tried.stages),
        learning_rate=tried.lr,
        slower_by=estimate,
        wins=estimate.hi is not None and estimate.hi < 0,
    )


def _more_rows(run: Run, judgement: Judgement) -> MoreRows | None:
    found = drift(run, judgement)
    if found is None:
        return None
    return MoreRows(
        fastest={str(rows): size for rows, size in found.fastest.items()},
        per_doubling=found.per_doubling,
        expected=found.expected,
        is_confirmed=found.is_confirmed,
        epoch_rows=found.epoch_rows,
        predicted=found.predicted,
    )


def _model_loss(loss: ReferenceLoss | None) -> ModelLoss | None:
    if loss is None:
        return None
    return ModelLoss(value=loss.value, rmse=loss.rmse, scored_on=loss.scored_on)


def _flat_end(run: Run) -> FlatEnd | None:
    limits = run.header.until_flat
    if limits is None:
        return None
    curves = [curve for trials in run.curves.values() for curve in trials.values()]
    fall = next((curve.fall_per_doubling for curve in curves), None)
    return FlatEnd(
        least_rows=limits.least_rows,
        most_rows=limits.most_rows,
        fall_per_doubling=fall,
        is_flat=is_flat(fall),
    )


def _best_possible(data: DataInfo) -> ModelLoss | None:
    """Return the smallest loss that any model can have, which is known for generated data only."""
    if not data.truth:
        return None
    return ModelLoss(
        value=data.truth["best_loss"],
        rmse=math.sqrt(data.truth["noise_variance"]),
        scored_on="population",
    )


def _stream_seconds(run: Run) -> dict[str, float]:
    """Return the seconds that each part of the stream took, summed over all passes."""
    seconds_by_part: dict[str, float] = {}
    for record in run.passes:
        for name, seconds in record.stats.items():
            if name.endswith("_seconds"):
                seconds_by_part[name] = seconds_by_part.get(name, 0.0) + seconds
    return seconds_by_part
