"""Passes of a sweep at once: the records, choices and states are those of passes in turn.

They share a GPU, which is faked here: the engines are those of the CPU.
"""

import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.records import PassEnded
from streamtrain.report.run_files import read_records
from streamtrain.run import at_once, passes_ahead
from streamtrain.run import sweep as sweep_module
from streamtrain.run.passes_ahead import PassesAhead, with_shared_seconds
from streamtrain.run.prepare import prepare
from streamtrain.science.tuning import PassPlan
from streamtrain.training.checkpoint import list_checkpoints, read_checkpoint
from streamtrain.training.cuda_fit import GpuRoom
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.learner import Learner
from tests.faults.run_output import timeless_records
from tests.run.whole_runs import run_sweep

SIZES = (32, 250)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "data"
    generate(folder, kind="friedman2", rows=3000, span_rows=512)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time nothing and draw nothing."""
    monkeypatch.setattr(sweep_module, "measure_throughput", lambda *_, **__: None)
    monkeypatch.setattr("streamtrain.api.write_report", lambda *_, **__: {})


def make_room(monkeypatch, multiprocessors=1000, free_bytes=2**34):
    """Fake a GPU for the passes."""
    found = GpuRoom(multiprocessors=multiprocessors, free_bytes=free_bytes)
    monkeypatch.setattr(at_once, "room_of", lambda _engine, _train: found)


@pytest.fixture
def started(monkeypatch):
    """Return the passes that are started before their turn, as (kind, trial), by group."""
    groups, genuine = list[list[tuple[str, int]]](), PassesAhead.start

    def start(self, prepared, plans):
        groups.append([(plan.kind, plan.trial) for plan in plans])
        return genuine(self, prepared, plans)

    monkeypatch.setattr(PassesAhead, "start", start)
    return groups


def make(data, **sweep):
    values = {
        "batch_sizes": list(SIZES),
        "lr_grid": 2,
        "extend_grid": False,
        "trials": 3,
        "measure": [],
        "confirm": False,
    }
    return make_config(
        {
            "data": {"path": str(data), "holdout": 500},
            "order": {"window_rows": 1024},
            "model": {"hidden": [4]},
            "fetch": {"memory": "128MiB", "readers": 3},
            "train": {"device": "cpu", "engine": "fused", "lr": 0.02},
            "sweep": values | sweep,
        }
    )


def passes_of(out) -> list[tuple[str, int]]:
    found = [r for r in read_records(out / "events.jsonl") if isinstance(r, PassEnded)]
    return [(record.kind, record.trial) for record in found]


@pytest.mark.parametrize(
    ("sweep", "groups"),
    [
        pytest.param(
            {},
            [[("tuning", 1), ("tuning", 2)], [("fresh", 4), ("fresh", 5)]],
            id="two rates",
        ),
        pytest.param(
            {"lr_grid": 3, "extend_grid": True},
            [[("fresh", 4), ("fresh", 5)]],
            id="rates that drop out",
        ),
        pytest.param(
            {"extend_grid": True, "halving": False},
            [[("tuning", 2)], [("fresh", 4), ("fresh", 5)]],
            id="a grid that may be extended",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"lr_rule": "linear,sqrt"},
            [[("tuning", 1), ("tuning", 2)]],
            id="rules without tuning",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"trials": None, "extend_grid": True, "budget": 300_000, "lr_grid": 3},
            [[("fresh", 2), ("fresh", 3)]],
            id="a budget of rows",
        ),
    ],
)
def test_a_sweep_has_the_records_of_passes_in_turn(
    data, tmp_path, monkeypatch, started, sweep, groups
):
    run_sweep(make(data, **sweep), tmp_path / "in turn")
    assert started == []
    make_room(monkeypatch)
    run_sweep(make(data, **sweep), tmp_path / "at once")
    assert [group for group in started if group] == groups
    assert timeless_records(tmp_path / "at once") == timeless_records(tmp_path / "in turn")


@pytest.fixture(scope="module")
def in_turn(data, tmp_path_factory):
    """Return the records of a sweep whose passes took turns, without times."""
    out = tmp_path_factory.mktemp("in turn") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "measure_throughput", lambda *_, **__: None)
        patch.setattr("streamtrain.api.write_report", lambda *_, **__: {})
        run_sweep(make(data), out)
    return timeless_records(out)


def on_first_rows(monkeypatch, act):
    """Call `act` with each learner of the smaller size before its first rows."""
    genuine = Learner.consume

    def consume(self, *arguments, **options):
        if self.rows == 0 and self.batch_size == SIZES[0]:
            act(self)
        yield from genuine(self, *arguments, **options)

    monkeypatch.setattr(Learner, "consume", consume)


def threads_left() -> list[str]:
    """Return the threads of passes that still run."""
    return [thread.name for thread in threading.enumerate() if "streamtrain-" in thread.name]


def test_they_train_at_the_same_time(data, tmp_path, monkeypatch, in_turn):
    """Each of the three fresh trials waits for the others before its first row."""
    make_room(monkeypatch)
    together, met = threading.Barrier(3, timeout=60), set()

    def meet(learner):
        if learner.trial >= 3:
            together.wait()
            met.add(learner.trial)

    on_first_rows(monkeypatch, meet)
    run_sweep(make(data), tmp_path / "out")
    assert met == {3, 4, 5}
    assert timeless_records(tmp_path / "out") == in_turn
    assert threads_left() == []


@pytest.mark.parametrize(
    ("multiprocessors", "free_bytes", "groups"),
    [
        pytest.param(1000, 2**34, [2, 2], id="room for all", marks=pytest.mark.slow),
        pytest.param(7, 2**34, [0, 2], id="tuning fills it", marks=pytest.mark.slow),
        pytest.param(4, 2**34, [0, 1, 0], id="two fresh trials fill it"),
        pytest.param(2, 2**34, [], id="each fills it", marks=pytest.mark.slow),
        pytest.param(1000, 2**20, [], id="no memory on the GPU"),
    ],
)
def test_as_many_start_as_there_is_room_for(
    data, tmp_path, monkeypatch, started, multiprocessors, free_bytes, groups
):
    """A tuning trial has two rates of two sizes, and a fresh one a rate of each."""
    make_room(monkeypatch, multiprocessors, free_bytes)
    with (
        pytest.warns(UserWarning, match="the GPU does not hold")
        if free_bytes < 2**30
        else nullcontext()
    ):
        run_sweep(make(data), tmp_path / "out")
    assert [len(group) for group in started if group] == [n for n in groups if n]


def test_what_the_records_do_not_ask_for_leaves_no_trace(data, tmp_path, monkeypatch, in_turn):
    """Also where it has another rate, or would come after the last trial."""
    make_room(monkeypatch)

    def guess(run, plan):
        lrs = {size: tuple(rate * 2 for rate in rates) for size, rates in plan.lrs.items()}
        wrong = replace(plan, lrs=lrs, trial=plan.trial + 1)
        return [wrong, replace(plan, trial=plan.trial + 2)]

    monkeypatch.setattr(sweep_module, "passes_after", guess)
    run_sweep(make(data), tmp_path / "out")
    assert timeless_records(tmp_path / "out") == in_turn
    assert threads_left() == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        pytest.param(RuntimeError("launch"), marks=pytest.mark.slow),
        OSError("lost"),
    ],
    ids=str,
)
def test_one_that_fails_is_repeated_alone(data, tmp_path, monkeypatch, started, in_turn, error):
    """And no other is started: what failed may be memory that passes at once take."""
    make_room(monkeypatch)
    failed = []

    def fail(learner):
        if learner.trial == 1 and not failed:
            failed.append(learner)
            raise error

    on_first_rows(monkeypatch, fail)
    run_sweep(make(data), tmp_path / "out")
    assert started == [[("tuning", 1), ("tuning", 2)]]
    assert failed
    assert timeless_records(tmp_path / "out") == in_turn


def test_learners_for_which_there_is_no_memory_start_in_their_turn(
    data, tmp_path, monkeypatch, started, in_turn
):
    make_room(monkeypatch)
    genuine = passes_ahead.make_learners

    def refuse(prepared, plan):
        if plan.trial == 2:
            raise RuntimeError("CUDA error: out of memory")
        return genuine(prepared, plan)

    monkeypatch.setattr(passes_ahead, "make_learners", refuse)
    run_sweep(make(data), tmp_path / "out")
    assert started == [[("tuning", 1), ("tuning", 2)]]
    assert timeless_records(tmp_path / "out") == in_turn


@pytest.mark.parametrize("size", [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.slow)])
def test_a_size_that_fails_in_each_pass_has_the_outcome_of_passes_in_turn(
    data, tmp_path, monkeypatch, size
):
    genuine = FusedEngine.advance

    def advance(self, *arguments):
        if self.batch_size == size:
            raise RuntimeError("CUDA error: out of memory")
        return genuine(self, *arguments)

    monkeypatch.setattr(FusedEngine, "advance", advance)
    run_sweep(make(data), tmp_path / "in turn")
    make_room(monkeypatch)
    run_sweep(make(data), tmp_path / "at once")
    assert timeless_records(tmp_path / "at once") == timeless_records(tmp_path / "in turn")


def test_an_error_of_a_pass_ahead_ends_the_sweep_in_its_turn(data, tmp_path, monkeypatch, in_turn):
    """With the records before it, and it can be resumed."""
    make_room(monkeypatch)

    def fail(learner):
        if learner.trial == 4:
            raise DataError("shard 3 is gone")

    with monkeypatch.context() as patch:
        on_first_rows(patch, fail)
        with pytest.raises(DataError, match="shard 3 is gone"):
            run_sweep(make(data), tmp_path / "out")
    assert passes_of(tmp_path / "out") == [
        *[("tuning", trial) for trial in range(3)],
        ("fresh", 3),
    ]
    assert threads_left() == []
    run_sweep(make(data), tmp_path / "out", resume=True)
    assert timeless_records(tmp_path / "out") == in_turn


def test_what_is_stopped_ends_long_before_its_last_row(data, monkeypatch):
    prepared = prepare(make(data), learners=1, rates=1).with_rows(10**7)
    plan = PassPlan(kind="fresh", trial=0, lrs={SIZES[0]: (0.01,)}, rows=10**7)
    begun = threading.Event()
    on_first_rows(monkeypatch, lambda _learner: begun.set())
    made, genuine = [], passes_ahead.make_learners
    monkeypatch.setattr(
        passes_ahead, "make_learners", lambda *of: made.extend(genuine(*of)) or made
    )
    with PassesAhead() as ahead:
        ahead.start(prepared, [plan])
        assert begun.wait(30)
    assert 0 <= made[0].rows < 10**7
    assert threads_left() == []


@pytest.mark.parametrize("trial", [3, 4])
def test_ctrl_c_stops_all_of_them_and_the_sweep_goes_on(
    data, tmp_path, monkeypatch, in_turn, trial
):
    """While the first pass trains, and while the sweep waits for the second."""
    make_room(monkeypatch)

    def interrupt(learner):
        if learner.trial == trial:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with monkeypatch.context() as patch:
        on_first_rows(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(make(data), tmp_path / "out")
    assert threads_left() == []
    assert len(passes_of(tmp_path / "out")) < 6
    run_sweep(make(data), tmp_path / "out", resume=True)
    assert timeless_records(tmp_path / "out") == in_turn


def test_the_last_checkpoint_is_that_of_passes_in_turn(data, tmp_path, monkeypatch):
    """From it, the trained models are measured when the sweep is resumed after its last pass."""
    states = []
    for name in ("in turn", "at once"):
        run_sweep(make(data), tmp_path / name)
        folder = tmp_path / name / "checkpoints"
        states.append(read_checkpoint(folder, list_checkpoints(folder)[-1]))
        make_room(monkeypatch)
    in_turn, at_once = (state.document["state"] for state in states)
    assert at_once["name"] == in_turn["name"]
    assert at_once["record"]["trial"] == 5
    assert at_once["receipt"] == in_turn["receipt"]
    arrays = [{name: a.tobytes() for name, a in state.arrays.items()} for state in states]
    assert arrays[0] == arrays[1]


def test_passes_at_once_share_their_time():
    record = PassEnded(kind="fresh", trial=3, seconds=6.0, fill_seconds=1.5, training_seconds=3.0)
    shared = with_shared_seconds(record, 3)
    assert (shared.seconds, shared.fill_seconds, shared.training_seconds) == (2.0, 0.5, 1.0)
    assert with_shared_seconds(record, 1) == record
    assert with_shared_seconds(shared, 3).trial == 3


def test_the_projection_counts_all_of_them(data, tmp_path, monkeypatch):
    """Three passes have a reader and three windows each, where one has three and five."""
    ends = []
    for multiprocessors in (1, 1000):
        make_room(monkeypatch, multiprocessors)
        out = tmp_path / str(multiprocessors)
        run_sweep(make(data), out)
        ends.append(read_records(out / "events.jsonl")[-1])
    prepared = prepare(make(data), learners=2, rates=2)
    windows = (3 * 3 - 5) * prepared.budget.window_bytes
    plan = PassPlan(kind="tuning", trial=0, lrs=dict.fromkeys(SIZES, (0.01, 0.02)))
    others = 2 * at_once.needs_of(prepared, plan).host_bytes
    assert ends[1].projected_bytes - ends[0].projected_bytes == windows + others
    assert ends[1].peak_rss_bytes <= ends[1].projected_bytes
