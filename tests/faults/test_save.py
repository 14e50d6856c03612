"""docs/faults.md, rows 3 and 4: an older checkpoint is used when the last one is unusable.

Whether saving failed, or what was saved was damaged later.
"""

import errno
import json
import os
import shutil
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from streamtrain.base import atomic_files as files
from streamtrain.errors import DataError, ResourceError
from streamtrain.records import Evaluation, Record, RunStarted
from streamtrain.run import directory
from streamtrain.run.directory import RunDirectory
from streamtrain.training import checkpoint, checkpointing
from streamtrain.training.checkpoint import list_checkpoints
from streamtrain.training.checkpointing import Checkpointer
from tests.faults.run_output import left_over

RUN = RunStarted(verb="train", config={"order": {"seed": 0}, "eval": {"holdout_seed": 0}})
FINGERPRINT, VERSIONS = {"order.seed": 0, "eval.holdout_seed": 0}, {"numpy": "2"}
#: System calls that saving makes; reading makes others.
WRITING = ("open", "write", "fsync", "close", "replace", "unlink", "listdir")


class FailingCalls:
    """The module `os`, but the n-th writing call fails; `calls` are the names of all of them.

    A failing `write` writes half of its bytes first.
    """

    def __init__(self, number: int, code: int):
        self.number, self.code, self.calls = number, code, []

    def __getattr__(self, name):
        return partial(self._call, name) if name in WRITING else getattr(os, name)

    def _call(self, name, *arguments, **keywords):
        self.calls.append(name)
        if len(self.calls) != self.number:
            return getattr(os, name)(*arguments, **keywords)
        if name == "write":
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if name == "close":
            os.close(*arguments)
        raise OSError(self.code, os.strerror(self.code))


def state(number: int) -> tuple[dict, dict[str, np.ndarray]]:
    return {"name": "pass", "number": number, "record": None}, {
        "0/weights": np.full((3, 5), number, dtype=np.float32)
    }


def evaluation(number: int) -> Evaluation:
    return Evaluation(trial=0, batch_size=16, lr=0.1, rows=number)


def save_thrice(out):
    """Write a run with checkpoints 0, 1 and 2, each with one more record."""
    with RunDirectory(out) as run:
        checkpointer = Checkpointer(out / "checkpoints", run, versions=VERSIONS)
        assert checkpointer.begin(FINGERPRINT) == []
        run.log(RUN)
        for number in range(3):
            run.log(evaluation(number))
            checkpointer.save(state(number))


def resumed(out) -> tuple[int, list[Record]]:
    """Return the number of the state that a run resumes from, and its records; ignore warnings."""
    with warnings.catch_warnings(), RunDirectory(out, resume=True) as run:
        warnings.simplefilter("ignore")
        checkpointer = Checkpointer(out / "checkpoints", run, versions=VERSIONS)
        records = checkpointer.begin(FINGERPRINT)
        document, arrays = checkpointer.take("pass")
        assert (arrays["0/weights"] == document["number"]).all()
        assert records == [RUN, *map(evaluation, range(document["number"] + 1))]
        assert (out / "events.jsonl").read_text().splitlines() == [
            json.dumps(record.to_json()) for record in records
        ]
        return document["number"], records


def count_calls(tmp_path, monkeypatch) -> list[str]:
    return fail_at(0, errno.EIO, tmp_path / "counted", monkeypatch)[1]


def fail_at(number: int, code: int, out, monkeypatch) -> tuple[OSError | None, list[str]]:
    """Save a fourth time with the n-th call failing; return the error and the calls."""
    save_thrice(out)
    failing = FailingCalls(number, code)
    with RunDirectory(out, resume=True) as run:
        checkpointer = Checkpointer(out / "checkpoints", run, versions=VERSIONS)
        checkpointer.begin(FINGERPRINT)
        run.log(evaluation(3))
        with monkeypatch.context() as patch:
            for module in (files, directory, checkpoint):
                patch.setattr(module, "os", failing)
            try:
                checkpointer.save(state(3))
            except ResourceError as error:
                return error, failing.calls
    return None, failing.calls


@pytest.mark.parametrize(
    "code",
    [pytest.param(errno.ENOSPC, id="disk full"), pytest.param(errno.EIO, id="input/output error")],
)
def test_each_call_of_a_save_fails_in_turn_and_an_older_checkpoint_serves(
    tmp_path, monkeypatch, code
):
    calls = count_calls(tmp_path, monkeypatch)
    assert {"open", "write", "fsync", "close", "replace", "unlink"} <= set(calls), calls
    assert len(calls) >= 17, calls
    for number in range(1, len(calls) + 1):
        out = tmp_path / str(number)
        error, made = fail_at(number, code, out, monkeypatch)
        assert made[:number] == calls[:number]
        # The calls after the save itself remove old checkpoints.
        first_unneeded = len(calls) - calls[::-1].index("close")
        assert (error is not None) == (number <= first_unneeded), (number, calls[number - 1])
        assert error is None or (os.strerror(code) in str(error) and error.exit_code == 4)
        after_the_last_rename = number > len(calls) - calls[::-1].index("replace")
        assert resumed(out)[0] == (3 if after_the_last_rename else 2), (number, calls[number - 1])
        assert left_over(out) == []


def test_a_file_holds_the_old_bytes_or_the_new_whichever_call_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def write(number: int) -> FailingCalls:
        failing = FailingCalls(number, errno.ENOSPC)
        path.write_bytes(b"old bytes")
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", failing)
            if number:
                with pytest.raises(OSError, match="No space left"):
                    files.write_atomically(path, b"new")
            else:
                files.write_atomically(path, b"new")
        return failing

    assert write(0).calls == [
        "open",
        "open",
        "write",
        "fsync",
        "close",
        "replace",
        "fsync",
        "close",
    ]
    for number in range(1, 9):
        write(number)
        assert path.read_bytes() == (b"new" if number > 6 else b"old bytes")
        assert list(tmp_path.iterdir()) == [path]


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    """Each save takes 10 s: one per 30 s would be a third of the time."""
    now = [0.0]

    def save(self, state) -> None:
        now[0] += 10.0
        saves.append(now[0])

    saves: list[float] = []
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Checkpointer, "save", save)
    with RunDirectory(tmp_path / "run") as run:
        checkpointer = Checkpointer(tmp_path / "run" / "checkpoints", run, versions=VERSIONS)
        while now[0] < 3000:
            now[0] += 1.0
            checkpointer.edge(now[0] / 3000, lambda: state(0))
    assert len(saves) >= 3
    assert 10.0 * (len(saves) - 1) <= 0.05 * 3000


def test_the_last_few_are_kept_and_the_bytes_hold_no_time(tmp_path):
    for name in ("a", "b"):
        with RunDirectory(tmp_path / name) as run:
            checkpointer = Checkpointer(
                tmp_path / name / "checkpoints", run, versions=VERSIONS, keep=2
            )
            checkpointer.begin(FINGERPRINT)
            run.log(RUN)
            for number in range(5):
                checkpointer.save(state(number))
    assert list_checkpoints(tmp_path / "a" / "checkpoints") == [3, 4]
    assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == [
        "000003.json",
        "000003.safetensors",
        "000004.json",
        "000004.safetensors",
    ]
    a, b = ((tmp_path / name / "checkpoints" / "000004.safetensors").read_bytes() for name in "ab")
    assert a == b


def damage(path, kind: str, offset: int) -> None:
    content = bytearray(path.read_bytes())
    if kind == "cut":
        del content[offset:]
    elif kind == "bit":
        content[offset] ^= 1 << offset % 8
    elif kind == "zeros":
        content[offset:] = bytes(len(content) - offset)
    else:
        content += bytes(offset)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["cut", "bit", "zeros", "longer"])
@pytest.mark.parametrize("file", ["000002.json", "000002.safetensors"])
def test_a_damaged_checkpoint_is_refused_at_every_byte_and_the_one_before_serves(
    tmp_path, kind, file
):
    """Every cut, one flipped bit in every byte, every tail of zeros.

    The checkpoint is read by the function that resuming uses.
    """
    save_thrice(tmp_path / "a")
    folder = tmp_path / "a" / "checkpoints"
    whole = (folder / file).read_bytes()
    for offset in range(len(whole)):
        if kind == "zeros" and not any(whole[offset:]):
            break
        damage(folder / file, kind, offset + (kind == "longer"))
        with pytest.raises(DataError, match=r"00000\d\.(json|safetensors): "):
            checkpoint.read_checkpoint(folder, 2)
        (folder / file).write_bytes(whole)
    damage(folder / file, kind, len(whole) // 2)
    with RunDirectory(tmp_path / "a", resume=True) as run:
        checkpointer = Checkpointer(folder, run, versions=VERSIONS)
        with pytest.warns(
            UserWarning, match=rf"{file}: .*; resuming from checkpoint 1, the one before"
        ):
            records = checkpointer.begin(FINGERPRINT)
        assert checkpointer.take("pass")[0]["number"] == 1
        assert records[-1] == evaluation(1)
    assert list_checkpoints(folder) == [0, 1]


def test_a_missing_half_and_a_damaged_log_are_damage_too(tmp_path):
    save_thrice(tmp_path / "a")
    (tmp_path / "a" / "checkpoints" / "000002.safetensors").unlink()
    assert resumed(shutil.copytree(tmp_path / "a", tmp_path / "b"))[0] == 1
    log = (tmp_path / "a" / "events.jsonl").read_bytes()
    (tmp_path / "a" / "events.jsonl").write_bytes(log.replace(b'"rows": 1', b'"rows": 7'))
    assert resumed(shutil.copytree(tmp_path / "a", tmp_path / "c"))[0] == 0
    (tmp_path / "a" / "events.jsonl").write_bytes(log[: len(log) // 4])
    with (
        RunDirectory(tmp_path / "a", resume=True) as run,
        pytest.raises(DataError, match=r"first \d+ bytes are not those"),
    ):
        Checkpointer(tmp_path / "a" / "checkpoints", run, versions=VERSIONS).begin(FINGERPRINT)


def test_when_all_are_damaged_nothing_is_begun_and_nothing_changed(tmp_path):
    save_thrice(tmp_path / "a")
    for path in (tmp_path / "a" / "checkpoints").glob("*.json"):
        damage(path, "bit", 40)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with (
        RunDirectory(tmp_path / "a", resume=True) as run,
        pytest.raises(DataError, match=r"no checkpoint can be used: .*000002.*000001.*000000"),
    ):
        Checkpointer(tmp_path / "a" / "checkpoints", run, versions=VERSIONS).begin(FINGERPRINT)
    assert {
        path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()
    } == before
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    with pytest.raises(DataError, match="checkpoints are missing"):
        RunDirectory(tmp_path / "a", resume=True)


def test_a_pickle_is_never_loaded(tmp_path):
    """docs/faults.md, row 19: a forged checkpoint with valid hashes holds a pickle."""
    save_thrice(tmp_path / "a")
    folder, marker = tmp_path / "a" / "checkpoints", tmp_path / "executed"
    evil = b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    document = json.loads((folder / "000002.json").read_text())["checkpoint"]
    document["tensors"] = {
        "bytes": len(evil),
        "sha256": checkpoint.hashlib.sha256(evil).hexdigest(),
    }
    (folder / "000002.safetensors").write_bytes(evil)
    (folder / "000002.json").write_bytes(checkpoint._encode(document))
    assert resumed(tmp_path / "a")[0] == 1
    assert not marker.exists()
