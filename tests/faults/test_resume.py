"""docs/faults.md, rows 2, 5, 6 and 20: an interrupted run is resumed, or refused with the reason.

A run that is interrupted at any edge and resumed equals an unbroken run.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
import warnings
from contextlib import nullcontext, suppress
from datetime import date
from importlib import import_module
from pathlib import Path
from threading import Event

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamtrain
from streamtrain import api
from streamtrain.base.interrupt import Interrupt, Terminated, signals_terminate
from streamtrain.cli.main import run
from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.plan import plan
from streamtrain.records import Evaluation, PassEnded, RunStarted
from streamtrain.report.run_files import read_records
from streamtrain.run import faster_device
from streamtrain.run.directory import RunDirectory
from streamtrain.training import checkpointing
from streamtrain.training import learner as learner_module
from streamtrain.training.checkpoint import list_checkpoints
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.device_choice import DeviceChoice
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import FusedEngine
from tests.faults.run_output import left_over, timeless_records, weights
from tests.forked import start_forked
from tests.report.undrawn import Undrawn
from tests.run.whole_runs import run_sweep, run_train

TRAIN = {
    "batch_size": 16,
    "epochs": 2,
    "holdout": 1000,
    "window_rows": 2048,
    "hidden": "8,8",
    "memory": "64MiB",
}
SWEEP = {
    "batch_sizes": [32, 256, 5000],
    "lr_grid": 2,
    "trials": 2,
    "holdout": 1000,
    "window_rows": 2048,
    "hidden": "8,8",
    "memory": "64MiB",
    "confirm": False,
    "measure": "none",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Save at every edge, time nothing, and draw nothing.

    Without fsync, which matters only for a power failure.
    """
    for verb in ("train", "sweep"):
        monkeypatch.setattr(
            import_module(f"streamtrain.run.{verb}"), "measure_throughput", lambda *_, **__: None
        )
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(checkpointing, "MAX_SAVE_OVERHEAD", math.inf)
    monkeypatch.setattr(checkpointing, "CHECKPOINT_FRACTION", 0)
    monkeypatch.setattr(api, "write_report", lambda records, out, **_: {})


@pytest.fixture
def interrupted(monkeypatch):
    """`interrupted(verb, data, out, flags, edges)` runs a verb, interrupted at those edges.

    Edges are counted from 0. The run is resumed until it is done.
    """
    genuine = Checkpointer.edge

    def call(verb, data, out, flags, edges, between=lambda: None, **resumed_with):
        left, passed, stops = sorted(edges), 0, 0

        def edge(self, fraction, state):
            nonlocal passed
            passed += 1
            genuine(self, fraction, state)
            if left and passed > left[0]:
                left.pop(0)
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpointer, "edge", edge)
        while True:
            try:
                result = getattr(streamtrain, verb)(
                    data, out=out, resume="auto", **flags, **(resumed_with if stops else {})
                )
                break
            except KeyboardInterrupt:
                stops += 1
                between()
        assert stops == len(edges), f"there were {passed} edges only"
        return result

    return call


def with_bad_values(shards, folder) -> str:
    """Write the data set with a NaN in every 97th row of one feature; return its folder."""
    table = pq.read_table(shards["parquet"])
    x1 = table["x1"].to_numpy().copy()
    x1[::97] = np.nan
    folder.mkdir()
    pq.write_table(
        table.set_column(1, "x1", pa.array(x1)), folder / "bad.parquet", row_group_size=512
    )
    return str(folder)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({}, id="adam"),
        pytest.param(
            {
                "optimizer": "sgd",
                "loss": "huber",
                "batch_size": 100,
                "max_rows": 30_001,
                "epochs": None,
            },
            id="sgd, rows over epochs",
        ),
        pytest.param(
            {"batch_size": 5000, "holdout": 0},
            id="minibatches over several windows, nothing held out",
        ),
        pytest.param({"on_null": "drop", "batch_size": 7}, id="dropped rows"),
        pytest.param({"on_null": "impute"}, id="imputed values"),
        pytest.param({"engine": "torch", "batch_size": 64}, id="torch engine"),
        pytest.param({"early_stop": 3, "lr": 0.05, "epochs": 4}, id="patience"),
        pytest.param({"epochs": None, "batch_size": 256, "lr": 0.02}, id="until flat"),
        pytest.param(
            {"batch_schedule": "16@0,100@400,128@700,3000@15k"},
            id="another minibatch size at edges",
        ),
        pytest.param({"batch_size": "auto", "holdout": 500}, id="sizes that follow the rows"),
    ],
)
def test_train_interrupted_at_edges_is_the_unbroken_run(
    shards, tmp_path, interrupted, monkeypatch, flags
):
    monkeypatch.setattr(learner_module, "STEPS_BETWEEN_EDGES", 37)  # edges within blocks too
    monkeypatch.setattr("streamtrain.training.until_flat.LEAST_ROWS", 0)
    monkeypatch.setattr("streamtrain.training.until_flat.MOST_ROWS", 2**16)
    monkeypatch.setattr("streamtrain.plan.batch_sizes.GROWING_STEPS", 16)
    flags, data = {**TRAIN, **flags}, str(shards["parquet"])
    if "on_null" in flags:
        data = with_bad_values(shards, tmp_path / "data")
    if flags.get("engine") == "torch":
        monkeypatch.setattr(
            "streamtrain.training.torch.torch_engine.TorchEngine.prepare_steps",
            lambda self: 0.0,
            raising=False,
        )
    streamtrain.train(data, out=tmp_path / "whole", **flags)
    edges = (0, 3, 9) if flags["batch_size"] == 5000 else (0, 3, 13)
    interrupted("train", data, tmp_path / "out", flags, edges)
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert left_over(tmp_path / "out") == []
    assert len(list_checkpoints(tmp_path / "out" / "checkpoints")) == 3


def test_a_sweep_interrupted_at_edges_is_the_unbroken_sweep(shards, tmp_path, interrupted):
    streamtrain.sweep(shards["zarr"], out=tmp_path / "whole", **SWEEP)
    interrupted("sweep", shards["zarr"], tmp_path / "out", SWEEP, (0, 3, 6, 7, 12, 20))
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")


def test_a_sweep_with_a_quarantine_goes_on_from_the_end_of_a_pass(shards, tmp_path, monkeypatch):
    """The quarantine is recorded between the end of a pass and the plan of the next one."""
    data = tmp_path / "data"
    shutil.copytree(shards["parquet"], data)
    path = min(data.glob("*.parquet"))
    chunk = pq.read_metadata(path).row_group(3).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    flags = {**SWEEP, "on_bad_shard": "quarantine"}
    streamtrain.sweep(data, out=tmp_path / "whole", **flags)
    genuine = Checkpointer.save

    def save(self, state):
        genuine(self, state)
        if state[0]["record"] is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save)
        with pytest.raises(KeyboardInterrupt):
            streamtrain.sweep(data, out=tmp_path / "out", **flags)
    streamtrain.sweep(data, out=tmp_path / "out", **flags)
    records = timeless_records(tmp_path / "out")
    assert [record["event"] for record in records].count("quarantine") > 1
    assert records == timeless_records(tmp_path / "whole")


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_a_run_keeps_its_default_window(verb, shards, tmp_path, interrupted, monkeypatch):
    """One that is older than windows of whole tables, or that had less memory, is resumed."""
    flags = {**(TRAIN if verb == "train" else SWEEP), "memory": "512MiB"}
    del flags["window_rows"]
    monkeypatch.setattr(plan, "WINDOW_VALUES", 2048 * 5)
    whole_values = plan.WHOLE_VALUES
    monkeypatch.setattr(plan, "WHOLE_VALUES", 0)
    getattr(streamtrain, verb)(shards["parquet"], out=tmp_path / "whole", **flags)
    interrupted(
        verb,
        shards["parquet"],
        tmp_path / "out",
        flags,
        (3,),
        lambda: monkeypatch.setattr(plan, "WHOLE_VALUES", whole_values),
    )
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_a_run_keeps_the_device_that_was_measured(verb, shards, tmp_path, interrupted, monkeypatch):
    """Another measurement would choose the other one. The CPU stands in for the GPU."""
    faster = ["fused-cuda"]
    monkeypatch.setattr(faster_device, "gpu_candidate", lambda _train, _model: "fused-cuda")
    monkeypatch.setattr(
        faster_device,
        "measure_devices",
        lambda *_, **__: DeviceChoice(engine=faster[0], reason="the faster one"),
    )
    monkeypatch.setitem(ENGINES, "fused-cuda", FusedEngine)
    flags = TRAIN if verb == "train" else SWEEP
    getattr(streamtrain, verb)(shards["parquet"], out=tmp_path / "whole", **flags)
    interrupted(
        verb, shards["parquet"], tmp_path / "out", flags, (3,), lambda: faster.insert(0, "fused")
    )
    records = timeless_records(tmp_path / "out")
    assert records[0]["engine"] == "fused-cuda"
    assert records == timeless_records(tmp_path / "whole")


def test_other_readers_memory_and_threads_change_nothing(shards, tmp_path, interrupted):
    streamtrain.train(shards["parquet"], out=tmp_path / "whole", readers=1, **TRAIN)
    flags = {name: value for name, value in TRAIN.items() if name != "memory"}
    moved = tmp_path / "moved"
    shutil.copytree(shards["parquet"], moved)
    interrupted("train", moved, tmp_path / "out", flags, (3, 8), memory="1GiB", readers=3)
    assert [{**record, "data": None} for record in timeless_records(tmp_path / "out")] == [
        {**record, "data": None} for record in timeless_records(tmp_path / "whole")
    ]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"batch_size": 32}, "train.batch_size was 16, is 32", id="batch size"),
        pytest.param({"seed": 1}, "order.seed was 0, is 1", id="seed"),
        pytest.param({"hidden": "8,4"}, "model.hidden was [8, 8], is [8, 4]", id="model shape"),
        pytest.param(
            {"lr": 0.1, "epochs": 3},
            "train.lr was not set, is 0.1; train.epochs was 2.0, is 3.0",
            id="two things",
        ),
        pytest.param(
            {"features": "x0,x1"}, 'data.features was not set, is ["x0", "x1"]', id="features"
        ),
        pytest.param({"data": "other rows"}, "standardisation was", id="data of the same shape"),
        pytest.param({"data": "fewer rows"}, "the data was", id="other data"),
    ],
)
def test_another_run_is_refused_with_each_difference_and_nothing_is_changed(
    shards, tmp_path, change, says
):
    data = tmp_path / "data"
    shutil.copytree(shards["parquet"], data)
    (data / "_manifest.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        run_train(make(data, TRAIN), tmp_path / "out", on_record=stop_at_evaluation(signal.SIGINT))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    kind = change.get("data")
    if kind is not None:
        for path in data.glob("*.parquet"):
            table = pq.read_table(path)
            if kind == "fewer rows":
                table = table.slice(0, len(table) // 2)
            else:
                table = table.set_column(0, "x0", pa.array(table["x0"].to_numpy() * 2))
            pq.write_table(table, path, row_group_size=512)
    with pytest.raises(ConfigError) as refused:
        streamtrain.train(
            data, out=tmp_path / "out", resume="auto", **{**TRAIN, **({} if kind else change)}
        )
    assert says in str(refused.value)
    assert "another --out" in str(refused.value)
    assert {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == before


def make(data, flags):
    return api._config(data, flags, api.TRAIN_FLAGS | api.SWEEP_FLAGS)


def stop_at_evaluation(*numbers: int, skip: int = 4):
    """Return an `on_record` that sends signals to its own process at the fifth evaluation."""
    seen = 0

    def on_record(record):
        nonlocal seen
        if not isinstance(record, Evaluation):
            return
        seen += 1
        if seen == skip + 1:
            for number in numbers:
                signal.raise_signal(number)

    return on_record


def test_sigterm_and_ctrl_c_wait_for_an_edge_and_the_run_goes_on(shards, tmp_path):
    config = make(shards["parquet"], {**TRAIN, "epochs": 4})
    run_train(config, tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals_terminate(), pytest.raises(Terminated):
        run_train(config, tmp_path / "out", on_record=stop_at_evaluation(signal.SIGTERM))
    made = list_checkpoints(tmp_path / "out" / "checkpoints")
    with pytest.raises(KeyboardInterrupt):
        run_train(
            config,
            tmp_path / "out",
            resume=True,
            on_record=stop_at_evaluation(signal.SIGINT, skip=9),
        )
    assert list_checkpoints(tmp_path / "out" / "checkpoints")[-1] > made[-1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    run_train(config, tmp_path / "out", resume=True)
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")
    assert left_over(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_notices_save_the_run_however_often_they_come(shards, tmp_path, number):
    """The kernel repeats SIGXCPU every second, and a closed terminal may send SIGHUP twice."""
    saved, heard = [], []

    def on_record(record):
        saved[:] = list_checkpoints(tmp_path / "out" / "checkpoints")
        stop(record)

    stop = stop_at_evaluation(number, number)
    with signals_terminate(), pytest.raises(Terminated) as ended:
        run_train(
            make(shards["parquet"], TRAIN),
            tmp_path / "out",
            on_record=on_record,
            on_note=heard.append,
        )
    assert ended.value.number == number
    assert list_checkpoints(tmp_path / "out" / "checkpoints")[-1] > saved[-1]
    name = signal.Signals(number).name
    assert heard == [
        f"{name}: stopping where the run can be saved next; Ctrl-C stops at once",
    ]
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("ignored", [True, False], ids=["nohup", "a program's own handler"])
def test_a_notice_that_does_not_end_the_process_does_not_end_the_run(shards, tmp_path, ignored):
    received = []
    before = signal.signal(
        signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: received.append(1)
    )
    try:
        with signals_terminate() if ignored else nullcontext():
            run_train(
                make(shards["parquet"], TRAIN),
                tmp_path / "out",
                on_record=stop_at_evaluation(signal.SIGHUP),
            )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert received == [1] * (not ignored)


def _train_on_a_terminal(name: str, folder: Path, words: list[str]) -> None:
    os.setsid()
    terminal = os.open(name, os.O_RDWR)  # the first one opened controls the session
    for number in (0, 1, 2):
        os.dup2(terminal, number)
    os.chdir(folder)
    sys.exit(run(words))


def test_a_terminal_that_closes_saves_the_run(forked, shards, tmp_path):
    """What cannot be shown any more is not an error."""
    master, slave = os.openpty()
    words = ["train", str(shards["parquet"]), "--holdout", "1000", "--hidden", "8", "--out", "out"]
    words += ["--epochs", "4000", "--memory", "64MiB", "--no-report", "--progress", "live"]
    process = forked.Process(target=_train_on_a_terminal, args=(os.ttyname(slave), tmp_path, words))
    process.start()
    while len(list_checkpoints(tmp_path / "out" / "checkpoints")) < 2:
        assert process.is_alive()
        os.set_blocking(master, False)
        with suppress(BlockingIOError):
            os.read(master, 65_536)
        time.sleep(0.01)
    os.close(slave)
    os.close(master)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGHUP
    records = read_records(tmp_path / "out" / "events.jsonl")
    assert not any(isinstance(record, PassEnded) for record in records)


def test_a_second_ctrl_c_ends_it_at_once(shards, tmp_path):
    saved = []
    config = make(shards["parquet"], TRAIN)

    def on_record(record):
        saved[:] = list_checkpoints(tmp_path / "out" / "checkpoints")
        stop(record)

    stop = stop_at_evaluation(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_train(config, tmp_path / "out", on_record=on_record)
    assert saved
    assert list_checkpoints(tmp_path / "out" / "checkpoints") == saved


@pytest.mark.parametrize(
    ("grace", "saves"),
    [pytest.param(60.0, True, id="a quick block"), pytest.param(0.05, False, id="a slow block")],
)
def test_a_sweep_finishes_its_block_only_if_that_is_quick(
    shards, tmp_path, monkeypatch, grace, saves
):
    """The signal arrives while learners train; a slow step then lasts until the run is left."""
    genuine, genuine_leave, sent, left = FusedEngine.advance, Interrupt.leave, [], Event()

    def advance(self, block, start, stop):
        if self.batch_size == 256 and self.steps > 30:
            if not sent:
                sent.append(list_checkpoints(tmp_path / "out" / "checkpoints"))
                os.kill(os.getpid(), signal.SIGINT)
            if not saves:
                assert left.wait(60)
        return genuine(self, block, start, stop)

    def leave(self):
        left.set()
        genuine_leave(self)

    monkeypatch.setattr(Interrupt, "leave", leave)
    monkeypatch.setattr(FusedEngine, "advance", advance)
    monkeypatch.setattr(api, "SWEEP_GRACE_SECONDS", grace)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(make(shards["parquet"], SWEEP), tmp_path / "out")
    made = list_checkpoints(tmp_path / "out" / "checkpoints")
    assert (made[-1] > sent[0][-1]) == saves
    monkeypatch.setattr(FusedEngine, "advance", genuine)
    run_sweep(make(shards["parquet"], SWEEP), tmp_path / "out", resume=True)
    run_sweep(make(shards["parquet"], SWEEP), tmp_path / "whole")
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")


def test_cells_that_diverge_or_run_out_of_memory_stay_so_after_resuming(
    shards, tmp_path, interrupted, monkeypatch
):
    """Row 20: they are marked, the sweep continues, and JSON stays strict."""
    genuine = FusedEngine.advance

    def advance(self, block, start, stop):
        if self.batch_size == 256 and self.steps > 10:
            raise MemoryError("no room")
        return genuine(self, block, start, stop)

    monkeypatch.setattr(FusedEngine, "advance", advance)
    flags = {**SWEEP, "optimizer": "sgd", "lr_grid": [0.01, 1e4], "trials": 1}
    streamtrain.sweep(shards["parquet"], out=tmp_path / "whole", **flags)
    interrupted("sweep", shards["parquet"], tmp_path / "out", flags, (2, 5))
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    records = [
        json.loads(line, parse_constant=refuse)
        for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    ]
    outcomes = {
        (record["batch_size"], record["lr"]): record["outcome"]
        for record in records
        if record["event"] == "outcome"
    }
    assert outcomes[32, 1e4] == "diverged"
    assert outcomes[256, 0.01] == "out_of_memory"
    assert outcomes[32, 0.01] == "finished"


def test_a_run_without_a_checkpoint_starts_again_and_says_so(shards, tmp_path):
    with RunDirectory(tmp_path / "out") as run:
        config = make(shards["parquet"], TRAIN).model_dump(mode="json")
        run.log(RunStarted(verb="train", config=config))
    (tmp_path / "out" / "checkpoints").mkdir()
    # Files that were being written when the process was killed.
    for name in (".config.resolved.yaml.7.tmp", "checkpoints/.000000.safetensors.7.tmp"):
        (tmp_path / "out" / name).write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"is not empty.*resume it with --resume auto"):
        streamtrain.train(shards["parquet"], out=tmp_path / "out", resume="never", **TRAIN)
    with pytest.warns(
        UserWarning, match="interrupted before its first checkpoint; it starts again"
    ):
        streamtrain.train(shards["parquet"], out=tmp_path / "out", **TRAIN)
    streamtrain.train(shards["parquet"], out=tmp_path / "whole", **TRAIN)
    assert timeless_records(tmp_path / "out") == timeless_records(tmp_path / "whole")
    assert list((tmp_path / "out").rglob(".*.tmp")) == []


@pytest.mark.parametrize(
    "content",
    ['{"event": "click", "at": 3}\n', '{"time": 1}\n[2]\n', "no JSON\n"],
    ids=["events", "records", "text"],
)
def test_a_log_of_another_program_is_refused_and_stays(shards, tmp_path, content):
    """Other programs use the name `events.jsonl` too: nothing is ever overwritten."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="is not the log of a run"):
        streamtrain.train(shards["parquet"], out=tmp_path / "out", **TRAIN)
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [
        ("events.jsonl", content)
    ]


@pytest.mark.parametrize(
    "content", ["", '{"eve', '{"event": "run", "verb'], ids=["empty", "a-few-bytes", "half-a-line"]
)
def test_a_log_that_was_cut_in_its_first_line_begins_again(tmp_path, content):
    (tmp_path / "events.jsonl").write_text(content)
    with RunDirectory(tmp_path, resume=True) as run:
        assert run.records == []
        assert not run.finished


def test_a_finished_run_needs_no_checkpoints(tmp_path):
    """They may be removed to save space; an interrupted run cannot be resumed without them."""
    with RunDirectory(tmp_path / "out") as run:
        run.log(RunStarted())
        run.log(Evaluation(trial=0, batch_size=16, lr=0.1, rows=8))
    with pytest.raises(DataError, match="its checkpoints are missing"):
        RunDirectory(tmp_path / "out", resume=True)
    with open(tmp_path / "out" / "events.jsonl", "a") as file:
        file.write('{"event": "end"}\n')
    (tmp_path / "out" / "summary.json").write_text("{}")
    with RunDirectory(tmp_path / "out", resume=True) as run:
        assert run.finished


def test_where_resuming_looks(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_train(
            make(shards["parquet"], TRAIN),
            Path("runs/train-2026-01-01-1"),
            on_record=stop_at_evaluation(signal.SIGINT),
        )

    def opened(flags, resume):
        with api.open_run("train", make(shards["parquet"], flags), None, resume) as run:
            return run.out, bool(run.records)

    interrupted_run = Path("runs/train-2026-01-01-1")
    new_run = Path(f"runs/train-{date.today().isoformat()}-1")
    assert opened(TRAIN, "auto") == (interrupted_run, True)
    assert opened({**TRAIN, "seed": 5}, "auto") == (new_run, False)
    assert opened(TRAIN, "never") == (new_run, False)
    assert os.listdir("runs") == [interrupted_run.name]
    with RunDirectory(interrupted_run, resume=True):  # another process uses it
        assert opened(TRAIN, "auto") == (new_run, False)
    with pytest.raises(ConfigError, match="there is no run"):
        streamtrain.train(shards["parquet"], resume="runs", **TRAIN)
    with pytest.raises(ConfigError, match="Give one of them"):
        streamtrain.train(
            shards["parquet"], resume="runs/train-2026-01-01-1", out="elsewhere", **TRAIN
        )
    with pytest.raises(ConfigError, match='verb was "train", is "sweep"'):
        streamtrain.sweep(shards["parquet"], resume="runs/train-2026-01-01-1", **SWEEP)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no run"):
        streamtrain.train(shards["parquet"], out="notes", resume="auto", **TRAIN)


def test_two_processes_are_not_let_into_one_run(shards, tmp_path):
    with RunDirectory(tmp_path / "out") as run:
        run.log(RunStarted(verb="train"))
        with pytest.raises(ConfigError, match="another process is using"):
            RunDirectory(tmp_path / "out", resume=True)
    RunDirectory(tmp_path / "out", resume=True).__exit__(None, None, None)


def test_other_versions_are_said(tmp_path):
    def start(versions):
        with RunDirectory(tmp_path / "out", resume=True) as run:
            checkpointer = Checkpointer(
                tmp_path / "out" / "checkpoints", run, versions=versions, interrupt=Interrupt()
            )
            if not checkpointer.begin({"a": 1}):
                run.log(RunStarted())
                checkpointer.save(({"name": "p", "record": None}, {}))
            return checkpointer

    start({"torch": "1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert start({"torch": "1"}).take("p")[0]["name"] == "p"
    with pytest.warns(UserWarning, match='other versions.*torch was "1", is "2"'):
        start({"torch": "2"})
    with pytest.raises(DataError, match="it was saved in the pass p, not in q"):
        start({"torch": "1"}).take("q")


def run_in(folder: Path, words: list[str]) -> int:
    os.chdir(folder)
    return run(words)


def test_the_command_is_terminated(forked, shards, tmp_path):
    """A process of its own: its exit code and output, and no child or temporary file is left."""
    flags = "--batch-size 1 --epochs 60 --holdout 1000 --hidden 8,8 --memory 64MiB --progress none"
    flags += " --set checkpoint.every_seconds=0.1 --resume auto"
    words = ["train", str(shards["parquet"]), *flags.split(), "-o", "out"]
    process = start_forked(forked, tmp_path, run_in, tmp_path, words)
    while not list((tmp_path).glob("out/checkpoints/*.json")):
        assert process.is_alive()
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.join(60)
    heard = "SIGTERM: stopping where the run can be saved next; a second one stops at once"
    assert (process.exitcode, (tmp_path / "stderr").read_text()) == (
        143,
        f"{heard}\nout was saved; resume with --resume out\nterminated\n",
    )
    assert not any(child.is_running() for child in children)
    assert left_over(tmp_path / "out") == []


def test_a_finished_run_says_so_and_stays_as_it_is(shards, tmp_path, monkeypatch, capsys):
    class Broken(Undrawn):
        def draw(self, charts):
            raise ResourceError("no pictures here")

    monkeypatch.undo()  # with the report, except for its pictures
    monkeypatch.setattr("streamtrain.cli.run_verbs.Drawing", Broken)
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        str(shards["parquet"]),
        "--batch-size",
        "64",
        "--holdout",
        "1000",
        "--hidden",
        "4",
        "--memory",
        "64MiB",
        "-o",
        "out",
        "-q",
    ]
    assert run([*words, "--resume", "auto"]) == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    first = capsys.readouterr()
    for again in ([*words, "--resume", "auto"], ["train", "--resume", "out", "-q"]):
        assert run(again) == 0
        said = capsys.readouterr()
        assert said.out == first.out
        assert said.err == "out is already complete: nothing to do\n"
    assert run([*words, "--resume", "auto", "--seed", "3"]) == 2
    assert "order.seed was 0, is 3" in capsys.readouterr().err
    assert run([*words, "--resume", "never"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    best, last = (streamtrain.load_model(folder) for folder in ("out/best", "out"))
    assert best.features == last.features
    # Killed between the last record and the report: it resumes at the end of the last pass.
    Path("out/summary.json").unlink()
    monkeypatch.setattr(
        api, "write_report", lambda records, out, **_: json.loads(before[out / "summary.json"])
    )
    assert run([*words, "--resume", "auto"]) == 0
    assert weights(Path("out")) == {
        str(path.relative_to("out")): content
        for path, content in before.items()
        if path.name.startswith("model.")
    }
