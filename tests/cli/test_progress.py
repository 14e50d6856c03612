import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamtrain.cli import progress as progress_module
from streamtrain.cli.follow import ProgressTracker
from streamtrain.cli.progress import progress

SIZES, RATES, ROWS = (64, 1024), (0.001, 0.01), 10_000


def points(rows: int = ROWS, first: int = 16) -> list[int]:
    found = [0]
    while round(first * 2 ** (len(found) / 2 - 0.5)) < rows:
        found.append(round(first * 2 ** (len(found) / 2 - 0.5)))
    return [*found, rows]


def evaluation(trial: int, size: int, lr: float, rows: int, **other: float | None) -> dict:
    loss = 1 / (1 + rows * lr / size)
    return {
        "event": "evaluation",
        "trial": trial,
        "batch_size": size,
        "lr": lr,
        "rows": rows,
        "steps": rows // size,
        "holdout_loss": loss,
        "holdout_rmse": loss**0.5,
        "train_loss": loss / 2 if rows else None,
        "seconds": rows / 1e6 + 0.001,
        "wait_seconds": rows / 4e6 + 0.001,
    } | other


def records(trials: int = 2, verb: str = "sweep") -> list[dict]:
    """Learner by learner, as a pass emits them: block after block would only interleave them more
    finely.
    """
    said = [
        {
            "event": "run",
            "verb": verb,
            "lrs": [list(RATES)] * len(SIZES),
            "trials": trials,
            "train_rows": ROWS,
        }
    ]
    for trial in range(trials):
        said += [
            evaluation(trial, size, lr, rows) for size in SIZES for lr in RATES for rows in points()
        ]
        said += [
            {"event": "outcome", "trial": trial, "outcome": "finished"}
            for size in SIZES
            for lr in RATES
        ]
        said.append({"event": "pass", "trial": trial})
    return [*said, {"event": "delivery"}, {"event": "timing"}, {"event": "end"}]


def lines_of(records: list[dict], **options: bool) -> list:
    follow = ProgressTracker(**options)
    return [line for record in records for line in follow.feed(record)]


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
    said = records(trials=1)
    head, evaluations, tail = (
        said[:1],
        said[1 : 1 + 4 * len(points())],
        said[1 + 4 * len(points()) :],
    )
    queues = {
        (size, lr): [r for r in evaluations if (r["batch_size"], r["lr"]) == (size, lr)]
        for size in SIZES
        for lr in RATES
    }
    mixed = []
    while queues:  # each learner keeps its own order
        learner = random.choice(sorted(queues))
        mixed.append(queues[learner].pop(0))
        queues = {key: queue for key, queue in queues.items() if queue}
    in_turn, interleaved = lines_of(said), lines_of([*head, *mixed, *tail])
    assert [replace(line, rows_per_second=0, left_seconds=0) for line in interleaved] == [
        replace(line, rows_per_second=0, left_seconds=0) for line in in_turn
    ]


def test_the_line_is_of_the_best_learner_with_its_mean_training_loss():
    follow = ProgressTracker(every=True)
    follow.feed(
        {"event": "run", "verb": "sweep", "lrs": [[0.1], [0.1]], "trials": 1, "train_rows": 300}
    )
    for rows, since in ((0, None), (100, 4.0), (300, 1.0)):
        lines = follow.feed(
            evaluation(0, 64, 0.1, rows, holdout_loss=None, train_loss=None)
        ) + follow.feed(
            evaluation(0, 8, 0.1, rows, holdout_loss=0.5, train_loss=since, seconds=rows / 50)
        )
    (line,) = lines
    assert (
        line.batch_size,
        line.loss_since,
        line.holdout_loss,
        line.rows_per_second,
        line.left_seconds,
    ) == (8, 1.0, 0.5, pytest.approx(50, rel=1e-3), 0)
    assert line.loss == pytest.approx((100 * 4 + 200 * 1) / 300)


def test_the_pace_and_the_waiting_are_those_after_the_first_row():
    """Opening and the first window took 10 s, most of it waiting; since then rows came at 100 a
    second, a quarter of it waiting.
    """
    follow = ProgressTracker()
    follow.feed({"event": "run", "verb": "train", "lrs": [[0.1]], "trials": 1, "train_rows": 1000})
    (first,) = follow.feed(evaluation(0, 64, 0.1, 0, seconds=10, wait_seconds=9))
    (line,) = follow.feed(evaluation(0, 64, 0.1, 400, seconds=14, wait_seconds=10))
    assert (first.rows_per_second, first.waiting, first.left_seconds) == (None, None, None)
    assert (line.rows_per_second, line.waiting, line.left_seconds) == (100, 0.25, 6)
    (old,) = follow.feed(
        {
            name: value
            for name, value in evaluation(0, 64, 0.1, 1000, seconds=20).items()
            if name != "wait_seconds"
        }
    )
    assert old.waiting is None


def test_a_learner_that_fails_does_not_hold_the_lines_back():
    follow = ProgressTracker()
    follow.feed(
        {"event": "run", "verb": "sweep", "lrs": [[0.1], [0.1]], "trials": 1, "train_rows": 100}
    )
    assert follow.feed(evaluation(0, 64, 0.1, 0)) == []
    assert [
        line.rows for line in follow.feed({"event": "outcome", "outcome": "out_of_memory"})
    ] == [0]
    assert [line.rows for line in follow.feed(evaluation(0, 64, 0.1, 16))] == [16]


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
    assert since == held_out < mean  # a training loss is ½r²: twice that is shown


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
        for record in records(trials=2):
            on_record(record | {"train_rows": None} if record["event"] == "run" else record)
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
