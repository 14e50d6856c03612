"""Warnings: what to know before relying on a figure, each with the flag that helps."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from streamtrain.base.units import format_bytes, format_percent, two_digits
from streamtrain.base.words import plural
from streamtrain.records import PassEnded
from streamtrain.report.analysis import Analysis, Summary, is_trained
from streamtrain.report.number_format import (
    loss_text,
    rate_text,
    size_text,
    sizes_in_turn,
    sizes_text,
    target_word,
)
from streamtrain.report.summary_parts import CellFigures, ReportWarning
from streamtrain.report.text.more_rows import far_prediction
from streamtrain.report.text.outlier import cure, outlier_advice, outlier_flags, outlier_text
from streamtrain.report.text.overtrained import overtrained_text
from streamtrain.report.text.simple_models import of_simple_models, smallest_loss
from streamtrain.science.cells import Cell
from streamtrain.science.crossing import round_up
from streamtrain.science.judge import is_correlated
from streamtrain.science.run_log import Run
from streamtrain.science.span_variation import is_unlike, unlike_text
from streamtrain.science.tuning import rounded_rate

#: A size is input-bound when it waits for rows for more than this fraction of the time, and for at
#: least so many seconds of a training; choices of this project, as are `_FEW_STEPS` and
#: `_EASY_TARGET`. Below a second, more readers could save less than the command takes to start.
INPUT_BOUND, LEAST_WAIT_SECONDS = 0.2, 1.0
#: A size that took fewer steps than this is warned about.
_FEW_STEPS = 30
#: An automatic target more than this many times the smallest loss is called easy.
_EASY_TARGET = 1.5
#: The relative standard error of a loss on n rows is about √(2/n): one seventh for 100 rows.
_FEW_HELD_OUT = 100
#: Dropped rows are too many from this fraction of all rows on; a choice of this project.
_MOST_ROWS = 0.5
#: A confirmation whose interval excludes the predicted seconds is warned about when it is off by
#: more than this factor, and by more seconds than a start takes.
MOST_OFF, LEAST_OFF_SECONDS = 1.25, 0.1

Warnings = Iterator[tuple[str, str | None]]


def warn(analysis: Analysis) -> list[ReportWarning]:
    """Return the warnings of a run, the most serious first."""
    # Under a budget, sizes that lag behind are dropped on purpose: that needs no warning.
    has_plan = analysis.run.header.ladder is None
    pairs = [
        *_of_quarantine(analysis.summary),
        *_of_run(analysis),
        *_of_outlier(analysis),
        *filter(None, [overtrained_text(analysis.run)]),
        *of_simple_models(analysis),
        *_of_more_rows(analysis.summary),
        *_of_outcomes(analysis),
        *_of_nulls(analysis.run),
        *_of_confirmations(analysis.summary),
        *(_of_target(analysis) if has_plan else ()),
        *_of_guesses(analysis),
        *(_of_steps(analysis) if has_plan else ()),
        *_of_easy_target(analysis.summary),
        *(_of_few_steps(analysis) if has_plan else ()),
        *_of_rates(analysis),
        *_of_memory(analysis.summary),
        *_of_speed(analysis.summary),
        *_of_integrity(analysis.run.header.data.integrity),
    ]
    return [ReportWarning(text=text, flag=flag) for text, flag in pairs]


def _of_quarantine(summary: Summary) -> Warnings:
    lost, total = summary.quarantined or {}, summary.data.num_rows
    if rows := lost.get("rows"):
        share = f" of {total:,} rows ({two_digits(100 * rows / total)} %)" if total else " rows"
        cause = lost["first"][0]["cause"].rstrip(".")
        text = f"{rows:,}{share} could not be read and were left out. The first: {cause}."
        yield text, "streamtrain verify"
    if files := lost.get("left_out"):
        url, cause = files[0]["url"], files[0]["cause"].rstrip(".")
        first = cause if url in cause else f"{url}: {cause}"
        text = (
            f"Left out: {plural(len(files), 'file')} that could not be opened. The first: {first}."
        )
        yield text, "streamtrain verify"


def _of_run(analysis: Analysis) -> Warnings:
    run, data = analysis.run, analysis.run.header.data
    if not run.end:
        yield (
            "The run did not end: these figures cover only what it had read when it stopped.",
            None,
        )
    if not run.has_holdout:
        yield "No rows were held out: there is no held-out loss and no recommendation.", "--holdout"
    elif data.holdout_rows and data.holdout_rows < _FEW_HELD_OUT:
        rows = f"{data.holdout_rows:,} {'row was' if data.holdout_rows == 1 else 'rows were'}"
        yield f"Only {rows} held out: a loss on so few rows says little.", "--eval-data"
    correlated = [cell for cell in analysis.cells if is_correlated(run, cell.batch_size)]
    if correlated:
        text = (
            f"Rows of a minibatch are similar to one another at {_sizes(correlated)}: these"
            " statistics describe your shuffle as much as the batch size. Shuffle the rows once."
        )
        yield text, "streamtrain ingest --shuffle"
    elif (variation := run.baseline.span_variation) is not None and is_unlike(variation):
        yield f"{unlike_text(variation)} Shuffle them once.", "streamtrain ingest --shuffle"


def _of_outlier(analysis: Analysis) -> Warnings:
    flags = outlier_flags(analysis.run)
    # without a recommendation the answer says it
    if flags is None or outlier_advice(analysis.run) in analysis.summary.recommendation.reason:
        return
    text = f"{outlier_text(analysis.run)} Losses measure this row more than the model."
    yield f"{text} If it is wrong, {cure(flags)}.", flags


def _of_more_rows(summary: Summary) -> Warnings:
    if text := far_prediction(summary):
        yield text, "--budget 10m"


def _of_integrity(integrity: str | None) -> Warnings:
    if integrity == "unverified":
        text = (
            "Integrity unverified: without a manifest, a flipped bit is noticed only where a file"
            " has checksums of its own."
        )
        yield text, "streamtrain ingest"


def _of_nulls(run: Run) -> Warnings:
    for counts, is_dropped in (
        ([record.dropped for record in run.passes if record.dropped], True),
        ([record.imputed for record in run.passes if record.imputed], False),
    ):
        total = sum(count.total for count in counts)
        rows_read = sum(map(_rows_counted, run.passes))
        if not total or not rows_read:
            continue
        flag, columns = "--on-null", Counter[str]()
        for count in counts:
            columns += Counter(count.columns)
        rows, found = _bad_per_epoch(run, total / rows_read, is_dropped=is_dropped)
        part = found / total
        where = ", ".join(
            f"{name}: {max(1, round(part * number)):,}" for name, number in columns.most_common(8)
        )
        is_estimate = abs(found - round(found)) > max(0.01, 0.001 * found)
        found = max(1, round(found))
        if is_dropped:
            verb = "has" if found == 1 else "have"
            text = (
                f"{found:,} of {rows:,} rows {verb} a null, NaN or infinite value, and"
                f" {'is' if found == 1 else 'are'} left out ({where})."
            )
            if sparse := _sparse_feature(run, columns, share=found / rows):
                text += f" {sparse} has none in most of them: leave that feature out."
                flag = "--features"
        else:
            text = (
                f"{plural(found, 'value')} of {rows:,} rows {'is' if found == 1 else 'are'} null,"
                f" NaN or infinite, and imputed ({where})."
            )
        yield f"{'About ' if is_estimate else ''}{text}", flag


def _sparse_feature(run: Run, columns: Counter[str], *, share: float) -> str:
    """Return the feature that is counted for most of the dropped rows; "" where none is.

    `share`: of all rows, those that were dropped; a feature is named where it is most of them.
    """
    (name, count), *_ = columns.most_common(1)
    is_most = share > _MOST_ROWS and count > _MOST_ROWS * columns.total()
    return name if is_most and name in run.header.data.features else ""


def _rows_counted(record: PassEnded) -> int:
    """Return the rows beside which a pass counted bad ones.

    On workers each learner reads alone: `rows_read` is of all of them, the counts are of one.
    """
    if record.workers is None or record.receipt is None:
        return record.rows_read
    return record.receipt.count


def _bad_per_epoch(run: Run, per_row_read: float, *, is_dropped: bool) -> tuple[int, float]:
    """Return the rows of an epoch, and how many of them, or of their values, are bad.

    Passes count bad rows as often as they read them. Dropped rows include held-out ones, and are
    not among the rows that were read.
    """
    trained = run.header.epoch_rows or sum(record.rows_read for record in run.passes)
    if not is_dropped:
        return trained, per_row_read * trained
    rows = run.header.data.num_rows or trained
    found = per_row_read * trained
    return rows, found / (1 + found / rows)


def _of_memory(summary: Summary) -> Warnings:
    projected, peak = summary.projected_bytes, summary.peak_rss_bytes
    if projected and peak and peak > projected:
        text = f"Peak memory was {format_bytes(peak)}, above the projected"
        yield f"{text} {format_bytes(projected)}.", "--memory"


def _of_outcomes(analysis: Analysis) -> Warnings:
    run, is_sweep = analysis.run, analysis.run.header.verb == "sweep"
    rate_flag = "--lr-grid" if is_sweep and run.rules[0] == "tuned" else "--lr"
    diverged = "diverged in every trial at every learning rate" if is_sweep else "diverged"
    outcomes = (
        ("diverged", diverged, rate_flag),
        ("out_of_memory", "ran out of memory", "--memory"),
        ("failed", "failed", None),
    )
    for status, text, flag in outcomes:
        if sizes := _sizes(cell for cell in analysis.cells if cell.status == status):
            yield f"{sizes} {text}.", flag


def _of_target(analysis: Analysis) -> Warnings:
    cells = analysis.cells
    missed = [cell for cell in cells if cell.status == "not_reached"]
    if missed and analysis.summary.target_loss is not None:
        text = f"{_sizes(missed)} did not reach the target in every trial with this many rows."
        yield text, "--max-rows"


def _of_guesses(analysis: Analysis) -> Warnings:
    cells = analysis.cells
    early = [cell for cell in cells if cell.is_guessed]
    if early:
        whose = "its" if len(early) == 1 else "their"
        text = (
            f"{_sizes(early)} reached the target before the first evaluation: {whose} steps and"
            " rows are guesses, and may be several times too large."
        )
        yield text, f"--set eval.first_row={min(cell.batch_size for cell in cells)}"


def _of_steps(analysis: Analysis) -> Warnings:
    cells, rows = analysis.cells, analysis.summary.epoch_rows
    if rows and len(cells) > 1:
        larger = [cell for cell in cells if cell.batch_size > rows and _steps(cell) > 0]
        if larger:
            text = (
                f"{_sizes(larger)}: more than the {rows:,} rows that there are to train on, so"
                " every step uses all of them."
            )
            yield text, "--batch-sizes"
    untrained = [
        cell for cell in cells if cell.curves and _steps(cell) == 0 and is_trained(cell.status)
    ]
    if untrained:
        text = (
            f"{_sizes(untrained)} took no step: there were fewer rows than one minibatch, so its"
            " weights are still the initial ones."
        )
        yield text, "--batch-size"


def _of_easy_target(summary: Summary) -> Warnings:
    target, smallest = summary.target_loss, smallest_loss(summary)
    is_chosen = len(summary.cells) > 1 and summary.target_loss_chosen == "automatic"
    if target is None or smallest is None or not is_chosen:
        return
    if target > _EASY_TARGET * smallest:
        text = (
            f"The target, {target_word(target)}, was chosen so that at least half of the sizes"
            f" reach it; the smallest loss is {loss_text(smallest)}, and a size may reach"
            " one fast and the other slowly."
        )
        yield text, f"--target-loss {round_up(1.05 * smallest, 2):g}"


def _of_few_steps(analysis: Analysis) -> Warnings:
    few = [cell for cell in analysis.cells if 0 < _steps(cell) < _FEW_STEPS]
    if few:
        text = (
            f"{_sizes(few)} took fewer than {_FEW_STEPS} steps: a budget of rows favours small"
            " minibatches; look at the loss against steps too."
        )
        yield text, "--max-rows"


def _of_rates(analysis: Analysis) -> Warnings:
    run, cells = analysis.run, analysis.cells
    is_tuned = run.rules[0] == "tuned"
    tuned = [cell for cell in cells if is_tuned and len(run.learning_rates(cell.batch_size)) > 1]
    if tuned and not analysis.summary.fresh_seeds:
        text = (
            "Learning rates were chosen on the same trials that judge them (the winner's curse):"
            " the figures are slightly optimistic."
        )
        yield text, "--set sweep.rerun=on"
    # The rate of a size that is certainly slower is in no question.
    slower = set(analysis.judgement.choice.dropped)
    learned = [
        cell
        for cell in tuned
        if is_trained(cell.status) and _steps(cell) > 0 and cell.batch_size not in slower
    ]
    for name, pick in (("smallest", min), ("largest", max)):
        at_edge = [cell for cell in learned if cell.lr == pick(run.learning_rates(cell.batch_size))]
        if at_edge:
            tried = ", ".join(sorted({rate_text(cell.lr) for cell in at_edge}, key=float))
            text = (
                f"At {_sizes(at_edge)} the best learning rate is the {name} that was tried"
                f" ({tried}): the best may be beyond it."
            )
            yield text, f"--lr-grid {','.join(_rates_beyond(run, at_edge, pick))}"
    if len(cells) > 1 and analysis.summary.trials == 1:
        yield "One run per size: no interval, and no conclusion.", "--trials"


def _rates_beyond(
    run: Run, at_edge: Sequence[Cell], pick: Callable[[Iterable[float]], float]
) -> list[str]:
    """Return five rates, half a decade apart, that continue the grid beyond its edge."""
    edge = pick([cell.lr for cell in at_edge])
    first = -1 if pick is max else -3
    return [rate_text(rounded_rate(edge * 10 ** (k / 2))) for k in range(first, first + 5)]


def _of_confirmations(summary: Summary) -> Warnings:
    for confirmation in summary.confirmation:
        ratio = confirmation.ratio.value
        if ratio is None or not confirmation.is_off:
            continue
        is_far = not 1 / MOST_OFF <= ratio <= MOST_OFF
        if is_far and confirmation.seconds_off > LEAST_OFF_SECONDS:
            text = (
                f"{size_text(confirmation.batch_size)} took {two_digits(ratio)} times the seconds"
            )
            yield f"{text} predicted: trust the ranking less than usual.", None


def is_input_bound(summary: Summary, cell: CellFigures) -> bool:
    """Return whether a size waits for rows noticeably: see `INPUT_BOUND`.

    The training is the longer one of the run's own and of the command that it recommends.
    """
    waits, speed = cell.wait_fraction.value or 0.0, cell.rows_per_second.value
    if not is_trained(cell.status) or waits <= INPUT_BOUND or not speed:
        return False
    rows = max(summary.train_rows or 0, summary.recommendation.rows or 0)
    return waits * rows / speed >= LEAST_WAIT_SECONDS


def _of_speed(summary: Summary) -> Warnings:
    bound = [
        cell.batch_size
        for cell in summary.cells
        if cell.batch_size in summary.recommendation.equivalent and is_input_bound(summary, cell)
    ]
    if bound:
        sizes = sizes_in_turn(summary.sizes_used) or sizes_text(bound)
        text = (
            f"{sizes}: input-bound, since steps wait for rows more than"
            f" {format_percent(INPUT_BOUND)} of the time; reading uses the same cores."
        )
        # in a local run the cores are the limit
        yield text, "--readers" if "://" in summary.data.url else None


def _steps(cell: Cell) -> int:
    """Return the steps of the longest finished curve."""
    finished = [curve for curve in cell.curves.values() if curve.finished and curve.steps]
    return max((curve.steps[-1] for curve in finished), default=0)


def _sizes(cells: Iterable[Cell]) -> str:
    return sizes_text([cell.batch_size for cell in cells])
