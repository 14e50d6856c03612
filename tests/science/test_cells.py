"""Steps, rows and targets of a cell where the obvious answer would be wrong."""

from dataclasses import replace

import pytest

from streamtrain.records import (
    BatchStage,
    DeliveryTimed,
    Evaluation,
    Record,
    RunStarted,
    StepsTimed,
    parse_record,
)
from streamtrain.report.change import samples
from streamtrain.report.summary import summarize
from streamtrain.science.cells import (
    Cell,
    rows_of_steps,
    seconds_of_rows,
    seconds_per_row,
    throughput,
)
from streamtrain.science.intervals import measure
from streamtrain.science.run_log import Curve, Run
from streamtrain.types import Json
from tests.report.synthetic import make_records


@pytest.mark.parametrize(
    ("steps", "rows"),
    [(0, 0), (1, 100_000), (1.5, 130_000), (2, 160_000), (3, 260_000), (40, 3_200_000)],
    ids=str,
)
def test_rows_of_steps_know_the_short_minibatch(steps, rows):
    """An epoch of 160,000 rows is a step of 100,000 and one of 60,000."""
    assert rows_of_steps(steps, 100_000, 160_000) == rows


def typed(record: Record | Json) -> Record:
    return record if isinstance(record, Record) else parse_record(record)


def test_a_target_no_better_than_the_best_constant_is_no_target():
    """On noise every loss stays near its start: nothing is reached, and nothing is concluded."""
    records: list[Record] = []
    for record in map(typed, make_records(truth=None)):
        if isinstance(record, Evaluation) and record.holdout_loss is not None:
            record = replace(record, holdout_loss=2.0 + 0.1 / (1 + record.rows))
        records.append(record)
    summary = summarize(records)
    assert summary["target_loss"] is None
    assert summary["recommendation"]["batch_size"] is None
    assert not summary["recommendation"]["settled"]
    assert any("nothing was learned" in warning["text"] for warning in summary["warnings"])


@pytest.mark.parametrize(("share", "is_said"), [(0.995, True), (0.95, False)])
def test_a_loss_hardly_below_that_of_the_mean_is_warned_about(share: float, is_said: bool):
    """A table whose features say little gets an answer, and the reader must know its worth."""
    records: list[Record] = []
    for record in map(typed, make_records(truth=None)):
        if isinstance(record, Evaluation) and record.holdout_loss is not None:
            # the best constant of these records has 1.0003
            record = replace(record, holdout_loss=share + 0.1 / (1 + record.rows))
        records.append(record)
    texts = [warning["text"] for warning in summarize(records)["warnings"]]
    assert any("hardly below" in text for text in texts) == is_said
    assert not any("nothing was learned" in text for text in texts)


def test_an_interval_of_times_is_never_negative():
    figure = measure([0.0, 0.07, 0.14], log=True)
    assert 0 <= figure.lo <= figure.value <= figure.hi


def timed(
    steps: dict[int, float],
    *,
    delivery: float,
    step_cores: float = 0.0,
    delivery_cores: float = 0.0,
    cores: int = 2,
) -> Run:
    """A run of size 64, timed: `steps` has the seconds of steps over 1,000 rows in each repeat,
    `delivery` those of delivering 2,000 rows; `step_cores` and `delivery_cores` are processor time.
    """
    run = Run(header=RunStarted(batch_sizes=(64,)))
    for repeat, seconds in steps.items():
        run.add(
            StepsTimed(
                batch_size=64,
                repeat=repeat,
                rows=1000,
                seconds=seconds,
                core_seconds=step_cores,
            )
        )
        run.add(
            DeliveryTimed(
                repeat=repeat,
                rows=2000,
                seconds=delivery,
                core_seconds=delivery_cores,
                cores=cores,
            )
        )
    return run


@pytest.mark.parametrize(
    ("clock", "speed", "wait"),
    [
        ({"delivery": 1.0}, 1000, 0.0),
        ({"delivery": 4.0}, 500, 0.5),
        ({"delivery": 1.0, "step_cores": 1.5, "delivery_cores": 2.0}, 800, 0.2),
        ({"delivery": 1.0, "step_cores": 9.0}, 1000, 0.0),
    ],
    ids=["steps", "delivery", "processors", "delivery not clocked"],
)
def test_a_repeat_takes_as_long_as_its_scarcest_part(clock, speed, wait):
    """1,000 rows take one second of steps, half the delivery time of 2,000 rows, or the processor
    time of both over two cores, whichever is longest.
    """
    assert throughput(timed({0: 1.0}, **clock), 64) == ([speed], [pytest.approx(wait)])


def test_repeats_are_dealt_to_trials_in_turn():
    run = timed({0: 1.0, 1: 2.0, 2: 4.0, 3: 3.0}, delivery=0.1)
    curves = {trial: Curve(batch_size=64, lr=0.1, trial=trial) for trial in (5, 6, 7)}
    cell = Cell(batch_size=64, lr=0.1, status="reached", curves=curves, steps_to_target={})
    speeds = 1000 / 1.0, 1000 / 2.0, 1000 / 4.0, 1000 / 3.0
    assert seconds_per_row(run, cell) == pytest.approx(
        {5: 2 / (speeds[0] + speeds[3]), 6: 1 / speeds[1], 7: 1 / speeds[2]}
    )


#: Seconds of a row by size, for a training of 100 rows at size 8, then at 32.
COSTS = {8: 0.5, 32: 0.125}


def grown(sizes: tuple[int, ...], *, rows: int, chosen: bool) -> Run:
    """A training to `rows` rows whose `sizes` were timed in three repeats, without delivery."""
    pairs = [(8, 0), (32, 100)]
    stages = tuple(BatchStage(first_row=row, batch_size=size) for size, row in pairs)
    run = Run(
        header=RunStarted(
            verb="train",
            batch_sizes=(8,),
            stages=stages if chosen else None,
            config={} if chosen else {"train": {"batch_schedule": pairs}},
        )
    )
    run.add(
        Evaluation(
            batch_size=8,
            lr=0.1,
            trial=0,
            rows=rows,
            steps=1,
            holdout_loss=0.5,
            holdout_rmse=0.5,
            train_loss=0.5,
        )
    )
    for size in sizes:
        for repeat in range(3):
            seconds = 1000 * COSTS[size] * 2**repeat
            run.add(StepsTimed(batch_size=size, repeat=repeat, rows=1000, seconds=seconds))
    return run


@pytest.mark.parametrize("chosen", [True, False], ids=["auto", "schedule"])
def test_the_seconds_of_a_size_that_changes_are_the_sum_over_its_sizes(chosen: bool):
    run = grown((8, 32), rows=300, chosen=chosen)
    whole = 100 * COSTS[8] + 200 * COSTS[32]
    assert throughput(run, 8)[0] == pytest.approx([300 / whole / 2**k for k in range(3)])
    training = dict(samples(run, cell_of(run), 300))["training_seconds"]
    assert training.values == pytest.approx({k: whole * 2**k for k in range(3)})
    for rows, seconds in ((60, 30.0), (100, 50.0), (140, 55.0)):
        expected = pytest.approx({0: 2 * seconds})  # the middle repeat takes twice as long
        assert seconds_of_rows(run, cell_of(run), {0: rows}) == expected


def test_the_first_size_stands_for_one_that_was_not_timed():
    run = grown((8,), rows=300, chosen=True)
    assert seconds_of_rows(run, cell_of(run), {0: 300}) == {0: pytest.approx(300.0)}


def cell_of(run: Run) -> Cell:
    [curves] = run.curves.values()
    return Cell(batch_size=8, lr=0.1, status="not_reached", curves=curves, steps_to_target={})
