"""Progress: the lines of a run, their contents, and how they are shown."""

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamtrain.cli import progress as progress_module
from streamtrain.cli.follow import Line, ProgressTracker
from streamtrain.cli.progress import progress
from streamtrain.records import (
    DeliveryTimed,
    Evaluation,
    LadderInfo,
    PassEnded,
    PassPlanned,
    Record,
    ReplicaEnded,
    RunEnded,
    RunStarted,
    StepsTimed,
    UntilFlat,
)
from streamtrain.training.learner import evaluation_rows

SIZES, RATES, ROWS = (64, 1024), (0.001, 0.01), 10_000


def points() -> list[int]:
    return list(evaluation_rows(16, ROWS))


def evaluation(trial: int, size: int, lr: float, rows: int, **other: float | None) -> Evaluation:
    loss = 1 / (1 + rows * lr / size)
    record = Evaluation(
        trial=trial,
        batch_size=size,
        lr=lr,
        rows=rows,
        steps=rows // size,
        holdout_loss=loss,
        holdout_rmse=loss**0.5,
        train_loss=loss / 2 if rows else None,
        seconds=rows / 1e6 + 0.001,
        wait_seconds=rows / 4e6 + 0.001,
    )
    return replace(record, **other)


def started(
    train_rows: int | None, *, verb: str = "sweep", lrs: list | None = None, trials: int = 1
) -> RunStarted:
    lrs = [(0.1,), (0.1,)] if lrs is None else lrs
    return RunStarted(verb=verb, lrs=tuple(lrs), trials=trials, train_rows=train_rows)


def records(trials: int = 2, verb: str = "sweep", train_rows: int | None = ROWS) -> list[Record]:
    """Return the records of a run, learner by learner.

    A pass emits them block by block, which interleaves the learners.
    """
    emitted: list[Record] = [
        started(train_rows, verb=verb, lrs=[RATES] * len(SIZES), trials=trials)
    ]
    replicas = [(size, lr) for size in SIZES for lr in RATES]
    for trial in range(trials):
        emitted += [evaluation(trial, size, lr, rows) for size, lr in replicas for rows in points()]
        emitted += [
            ReplicaEnded(trial=trial, batch_size=size, lr=lr, outcome="finished")
            for size, lr in replicas
        ]
        emitted.append(PassEnded(trial=trial))
    timed = DeliveryTimed(repeat=0, rows=1, seconds=1.0)
    steps = StepsTimed(batch_size=64, repeat=0, rows=1, seconds=1.0)
    return [*emitted, timed, steps, RunEnded()]


def lines_of(records: list[Record], **options: bool) -> list[Line]:
    tracker = ProgressTracker(**options)
    return [line for record in records for line in tracker.update(record)]


def test_a_line_at_row_0_at_every_doubling_and_at_the_end_of_each_trial():
    lines = lines_of(records())
    assert [line.rows for line in lines if line.trial == 0] == [
        line.rows for line in lines if line.trial == 1
    ]
    rows = [line.rows for line in lines if line.trial == 0]
    assert rows == [0, *(16 * 2**k for k in range(10)), ROWS]


def test_every_gives_each_evaluation_point_once_in_order():
    assert [(line.trial, line.rows) for line in lines_of(records(), every=True)] == [
        (t, rows) for t in (0, 1) for rows in points()
    ]


@given(st.randoms(use_true_random=False))
def test_lines_do_not_depend_on_the_order_of_learners(random):
    head, *rest = records(trials=1)
    evaluations = [record for record in rest if isinstance(record, Evaluation)]
    tail = rest[len(evaluations) :]
    queues = {
        (size, lr): [
            record for record in evaluations if (record.batch_size, record.lr) == (size, lr)
        ]
        for size in SIZES
        for lr in RATES
    }
    mixed = []
    while queues:  # the order within a learner stays the same
        learner = random.choice(sorted(queues))
        mixed.append(queues[learner].pop(0))
        queues = {key: queue for key, queue in queues.items() if queue}
    in_turn, interleaved = lines_of([head, *rest]), lines_of([head, *mixed, *tail])
    assert [replace(line, rows_per_second=0, left_seconds=0) for line in interleaved] == [
        replace(line, rows_per_second=0, left_seconds=0) for line in in_turn
    ]


def test_the_line_is_of_the_best_learner_with_its_mean_training_loss():
    tracker = ProgressTracker(every=True)
    tracker.update(started(300))
    for rows, since in ((0, None), (100, 4.0), (300, 1.0)):
        diverged = evaluation(0, 64, 0.1, rows, holdout_loss=None, train_loss=None)
        best = evaluation(0, 8, 0.1, rows, holdout_loss=0.5, train_loss=since, seconds=rows / 50)
        lines = tracker.update(diverged) + tracker.update(best)
    (line,) = lines
    assert (line.batch_size, line.loss_since, line.holdout_loss) == (8, 1.0, 0.5)
    assert line.rows_per_second == pytest.approx(50, rel=1e-3)
    assert line.left_seconds == 0
    assert line.loss == pytest.approx((100 * 4 + 200 * 1) / 300)


def test_the_pace_and_the_waiting_are_those_after_the_first_row():
    """Opening and the first window took 10 s, of which 9 s were spent waiting.

    Since then there were 100 rows/s, and a quarter of the time was spent waiting.
    """
    tracker = ProgressTracker()
    tracker.update(started(1000, verb="train", lrs=[(0.1,)]))
    (first,) = tracker.update(evaluation(0, 64, 0.1, 0, seconds=10, wait_seconds=9))
    (line,) = tracker.update(evaluation(0, 64, 0.1, 400, seconds=14, wait_seconds=10))
    assert (first.rows_per_second, first.waiting, first.left_seconds) == (None, None, None)
    assert (line.rows_per_second, line.waiting, line.left_seconds) == (100, 0.25, 6)
    (line,) = tracker.update(evaluation(0, 64, 0.1, 1000, seconds=20, wait_seconds=None))
    assert line.waiting is None  # as in logs of older versions


def test_a_learner_that_fails_does_not_hold_the_lines_back():
    tracker = ProgressTracker()
    tracker.update(started(100))
    assert tracker.update(evaluation(0, 64, 0.1, 0)) == []
    failed = ReplicaEnded(trial=0, batch_size=8, lr=0.1, outcome="out_of_memory")
    assert [line.rows for line in tracker.update(failed)] == [0]
    assert [line.rows for line in tracker.update(evaluation(0, 64, 0.1, 16))] == [16]


def test_until_flat_the_limits_come_first_and_the_last_evaluation_has_a_line(capsys):
    limits = UntilFlat(first_row=25, least_rows=100, most_rows=900, fall=0.01)
    with progress("lines") as on_record:
        on_record(replace(started(None, verb="train", lrs=[(0.1,)]), until_flat=limits))
        for rows in (0, 100, 141, 200, 283):
            on_record(evaluation(0, 64, 0.1, rows))
        on_record(ReplicaEnded(trial=0, batch_size=64, lr=0.1, outcome="finished"))
        on_record(PassEnded(trial=0))
    first, _, *lines = capsys.readouterr().err.splitlines()
    assert first == (
        "trains until twice the rows improve the held-out loss by less than 1 %: 100 to 900 rows"
    )
    assert [line.split()[0] for line in lines] == ["0", "100", "200", "283"]
    assert all(line.endswith("B" + " " * 9) for line in lines), "no time left is claimed"


def test_nothing_but_lines_off_a_terminal(capsys):
    with progress("auto") as on_record:
        for record in records():
            on_record(record)
    said = capsys.readouterr()
    assert said.out == ""
    assert "\r" not in said.err
    assert "\x1b" not in said.err
    header, *lines = said.err.splitlines()
    assert header.split() == [
        "trial",
        "rows",
        "loss",
        "loss",
        "since",
        "held-out",
        "at",
        "batch",
        "rows/s",
        "waiting",
        "rss",
        "left",
    ]
    assert len({len(line) for line in lines} | {len(header)}) == 1
    assert re.fullmatch(
        r" +1 +8,192 +0\.\d{4} +0\.\d{4} +0\.\d{4} +64 +[\d.]+ M +25 % +\d.*iB +\d s", lines[10]
    )
    mean, since, held_out = map(float, lines[10].replace(",", "").split()[2:5])
    assert since == held_out < mean  # twice a training loss is shown, which is the mean of ½r²


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.05, "0.0500"), (6.2e-5, "0.0000620"), (1.23e-9, "1.23e-09"), (0.0, "0"), (2e4, "2e+04")],
)
def test_a_loss_keeps_its_digits_where_four_decimals_have_none(capsys, loss, text):
    with progress("lines") as on_record:
        on_record(started(ROWS, verb="train", lrs=[(0.1,)]))
        on_record(evaluation(0, 64, 0.1, ROWS, holdout_loss=loss, train_loss=None))
        on_record(ReplicaEnded(trial=0, batch_size=64, lr=0.1, outcome="finished"))
        on_record(PassEnded(trial=0))
    header, line = capsys.readouterr().err.splitlines()
    assert line.split()[3] == text
    assert len(line) == len(header)


def test_train_has_no_columns_of_a_sweep(capsys):
    with progress("lines") as on_record:
        for record in records(verb="train", trials=1):
            on_record(record)
    assert capsys.readouterr().err.split("\n")[0].split() == [
        "rows",
        "loss",
        "loss",
        "since",
        "held-out",
        "rows/s",
        "waiting",
        "rss",
        "left",
    ]


@pytest.mark.parametrize("mode", ["lines", "live"])
def test_a_run_that_only_a_clock_ends_has_lines_and_nothing_left_to_tell(monkeypatch, capsys, mode):
    """`--max-time` sets no last row."""
    screen = io.StringIO()
    monkeypatch.setattr(
        progress_module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100)
    )
    with progress(mode) as on_record:
        for record in records(trials=2, train_rows=None):
            on_record(record)
    text = (
        capsys.readouterr().err
        if mode == "lines"
        else re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    )
    assert re.search(r" +1 +8,192 +0\.\d{4} .*iB *[\r\n]", text)


def test_none_says_nothing(capsys):
    with progress("none") as on_record:
        for record in records():
            on_record(record)
    assert capsys.readouterr() == ("", "")


def test_live_writes_the_same_lines_above_a_bar_that_goes_away(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress_module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100)
    )
    with progress("live") as on_record:
        for record in records():
            on_record(record)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r" +1 +8,192 +0\.\d{4} +0", text)
    assert "timing the step alone" in text


def test_a_slow_opening_says_what_may_take_long(monkeypatch):
    monkeypatch.setattr(progress_module, "_SLOW_OPENING", (-1.0, "compiles kernels"))
    screen = io.StringIO()
    monkeypatch.setattr(
        progress_module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100)
    )
    with progress("live") as on_record:
        on_record(started(ROWS))
    opening, training = re.split(r"(?=training )", screen.getvalue(), maxsplit=1)
    assert "compiles kernels" in opening
    assert "compiles kernels" not in training


def test_a_budget_is_counted_down_through_its_passes():
    tracker = ProgressTracker(every=True)
    header = started(None, lrs=[(0.1,)])
    tracker.update(replace(header, ladder=LadderInfo(budget_seconds=60.0)))
    plan = PassPlanned(kind="tuning", trial=0, batch_sizes=1, replicas=1, passes_left=1, rows=ROWS)
    tracker.update(plan)
    [line] = tracker.update(evaluation(0, 64, 0.1, 0, seconds=2.0))
    assert line.left_seconds == tracker.budget_left == 58.0
    tracker.update(replace(plan, trial=1, seconds_left=30.0))
    [line] = tracker.update(evaluation(1, 64, 0.1, 0, seconds=40.0))
    assert line.left_seconds == 0.0


def test_a_sweep_with_a_budget_has_one_line_per_pass_and_counts_down_within_it():
    tracker = ProgressTracker()
    tracker.update(replace(started(None, lrs=[(0.1,)]), ladder=LadderInfo(budget_seconds=60.0)))
    plan = PassPlanned(kind="tuning", trial=0, batch_sizes=1, replicas=1, passes_left=1, rows=ROWS)
    names = []
    for kind, trial in (("tuning", 0), ("tuning", 1), ("extension", 1), ("fresh", 2), ("fresh", 3)):
        tracker.update(replace(plan, kind=kind, trial=trial))
        assert tracker.update(evaluation(trial, 64, 0.1, 0, seconds=1.0)) == []
        assert tracker.budget_left == 59.0
        assert tracker.update(evaluation(trial, 64, 0.1, ROWS // 2, seconds=2.0)) == []
        [line] = tracker.update(evaluation(trial, 64, 0.1, ROWS, seconds=3.0))
        assert (line.rows, line.left_seconds) == (ROWS, 57.0)
        names.append(f"{tracker.plan.kind} {tracker.number}")
    assert names == ["tuning 1", "tuning 2", "extension 1", "fresh 1", "fresh 2"]


@pytest.mark.parametrize("mode", ["lines", "live"])
@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("budget", [{"budget_seconds": 60.0}, {"budget_rows": 10 * ROWS}])
def test_what_is_left_of_a_budget_is_called_so(monkeypatch, capsys, mode, verbose, budget):
    """It is not how long the sweep will take. Of a budget of rows, no seconds are left."""
    screen = io.StringIO()
    monkeypatch.setattr(
        progress_module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120)
    )
    plan = PassPlanned(kind="tuning", trial=0, batch_sizes=1, replicas=1, passes_left=1, rows=ROWS)
    with progress(mode, verbose=verbose) as on_record:
        on_record(replace(started(None, lrs=[(0.1,)]), ladder=LadderInfo(**budget)))
        on_record(plan)
        on_record(evaluation(0, 64, 0.1, 0, seconds=1.0))
        on_record(evaluation(0, 64, 0.1, ROWS, seconds=3.0))
        on_record(evaluation(0, 64, 0.1, ROWS, seconds=3.0))
    written = capsys.readouterr().err if mode == "lines" else screen.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    header, line = (
        next(found for found in re.split(r"[\r\n]", text) if start in found)
        for start in ("at batch", f"{ROWS:,}")
    )
    in_seconds = "budget_seconds" in budget
    assert header.split("  ")[-1].strip() == (
        "budget left" if in_seconds or not verbose else "left"
    )
    assert len(header.rstrip()) == len(line.rstrip()) or not in_seconds
    assert line.endswith(" 57 s") == in_seconds
    assert ("57 s of the budget left" in text) == (in_seconds and mode == "live")
    assert "0 s left" not in text


def test_the_time_left_counts_the_evaluations_to_come_and_not_those_before():
    """Half a second each, and a millisecond per row: at row 512 they took two thirds of the time.

    There are 18 more until row 2^18.
    """
    tracker, last_row, left = ProgressTracker(every=True), 2**18, {}
    tracker.update(started(last_row, verb="train", lrs=[(0.01,)]))
    for look, rows in enumerate(evaluation_rows(16, last_row)):
        seconds = rows * 1e-3 + look * 0.5
        for line in tracker.update(evaluation(0, 64, 0.01, rows, seconds=seconds)):
            left[line.rows] = line.left_seconds
    assert left[512] == pytest.approx((last_row - 512) * 1e-3 + 18 * 0.5, rel=0.02)
    assert left[last_row] == 0


def test_no_time_left_is_announced_from_the_first_milliseconds():
    tracker, left = ProgressTracker(every=True), {}
    tracker.update(started(2**18, verb="train", lrs=[(0.01,)]))
    for rows, seconds in ((0, 0.0), (1024, 0.02), (2048, 0.2)):
        for line in tracker.update(evaluation(0, 64, 0.01, rows, seconds=seconds)):
            left[line.rows] = line.left_seconds
    assert left == {0: None, 1024: None, 2048: pytest.approx(0.2 * (2**18 - 2048) / 2048)}
