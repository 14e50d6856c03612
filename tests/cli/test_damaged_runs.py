"""Every reader of a run's files, on files that are cut, damaged or forged.

A command works, or refuses with exit 2 or 3 in one line that names the file; it is never an
unexpected error, never hangs, and never lets what a file holds control the terminal.
"""

import copy
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import data_gen
import streamtrain
from streamtrain.base.untrusted import parse_json, read_document, read_regular
from streamtrain.errors import DataError
from streamtrain.training import checkpoint

#: What stands in place of a value.
WRONG = (
    *(None, True, -1, 0, 1.5, 1e308, 2**63, 10**30, "", "x", [], {}, [[]], {"a": {}}),
    *(float("nan"), float("inf"), "9" * 50, "\x1b[2J\n<script>", "\ud800"),
)
DEFAULT_CASES, SLOW_CASES = 4, 80


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a folder with a data set and a finished run of each verb on it."""
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "data"
    data_gen.generate(data, kind="linear", rows=2_000, span_rows=500, seed=1)
    common = {"max_rows": 512, "hidden": [2], "memory": "1GiB", "report": False}
    streamtrain.train(data, out=folder / "train", batch_size=64, **common)
    streamtrain.sweep(
        data,
        out=folder / "sweep",
        batch_sizes=[64, 256],
        lr_grid=2,
        trials=2,
        confirm=False,
        measure="none",
        **common,
    )
    return folder


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Yield the place of every value in a document, as keys and indices."""
    yield place
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*place, key))


def damaged_document(draw: random.Random, document: Any) -> Any:
    """Return a copy in which one value is deleted, of another type, repeated or nested."""
    document = copy.deepcopy(document)
    *above, last = draw.choice(list(places(document))[1:])
    inside = document
    for key in above:
        inside = inside[key]
    match draw.choice(("wrong", "delete", "nest", "repeat")):
        case "wrong":
            inside[last] = draw.choice(WRONG)
        case "delete":
            del inside[last]
        case "repeat":
            inside[last] = [inside[last]] * 3
        case _:
            for _ in range(draw.choice((3, 100, 150))):
                inside[last] = [inside[last]]
    return document


def damaged_bytes(draw: random.Random, content: bytes) -> bytes:
    """Return the bytes cut, with a flipped bit, with zeros, or with something inserted."""
    place = draw.randrange(len(content))
    match draw.choice(("cut", "flip", "zeros", "insert")):
        case "cut":
            return content[:place]
        case "flip":
            flipped = content[place] ^ 1 << draw.randrange(8)
            return content[:place] + bytes([flipped]) + content[place + 1 :]
        case "zeros":
            return content[:place] + bytes(len(content) - place)
        case _:
            inserted = draw.choice((b"\xff", b"\x1b[2J", b"{" * 3000, b"\n", b"NaN"))
            return content[:place] + inserted + content[place:]


def damaged_json(draw: random.Random, content: bytes) -> bytes:
    if draw.random() < 0.3:
        return damaged_bytes(draw, content)
    return json.dumps(damaged_document(draw, json.loads(content))).encode()


def damaged_yaml(draw: random.Random, content: bytes) -> bytes:
    if draw.random() < 0.5:
        return damaged_bytes(draw, content)
    return yaml.safe_dump(damaged_document(draw, yaml.safe_load(content))).encode()


def damaged_log(draw: random.Random, content: bytes) -> bytes:
    """Damage a log: bytes, a line, or a field of a line; each kind of record is as likely."""
    if draw.random() < 0.4:
        return damaged_bytes(draw, content)
    lines = content.splitlines()
    kinds: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        kinds.setdefault(json.loads(line)["event"], []).append(number)
    number = draw.choice(kinds[draw.choice(list(kinds))])
    how = draw.random()
    if how < 0.15:
        del lines[number]
    elif how < 0.25:
        lines.insert(number, lines[number])
    else:
        lines[number] = json.dumps(damaged_document(draw, json.loads(lines[number]))).encode()
    return b"\n".join(lines) + b"\n"


def forged_checkpoint(draw: random.Random, content: bytes) -> bytes:
    """Damage the document of a checkpoint, and give it the hash that it must have."""
    document = damaged_document(draw, json.loads(content)["checkpoint"])
    try:
        return checkpoint._encode(document)
    except ValueError:  # not JSON
        return b"{}"


Damage = Callable[[random.Random, bytes], bytes]
QUIET = ("-q", "--no-report")
READERS: dict[str, tuple[str, str, Damage, tuple[str, ...]]] = {
    "report": ("sweep", "events.jsonl", damaged_log, ("report", "run", "-q")),
    "report of train": ("train", "events.jsonl", damaged_log, ("report", "run", "-q")),
    "compare": ("sweep", "events.jsonl", damaged_log, ("compare", "whole", "run")),
    "from": ("sweep", "summary.json", damaged_json, ("train", "--from", "run", "--dry-run")),
    "from, config": (
        *("sweep", "config.resolved.yaml", damaged_yaml),
        ("train", "--from", "run", "--dry-run"),
    ),
    "predict": ("train", "model.json", damaged_json, ("predict", "run", "data", "-o", "p.csv")),
    "predict, tensors": (
        *("train", "model.safetensors", damaged_bytes),
        ("predict", "run", "data", "-o", "p.csv"),
    ),
    "predict, config": (
        *("train", "config.resolved.yaml", damaged_yaml),
        ("predict", "run", "data", "-o", "p.csv"),
    ),
    "finished train": ("train", "summary.json", damaged_json, ("train", "--resume", "run")),
    "finished sweep": ("sweep", "summary.json", damaged_json, ("sweep", "--resume", "run")),
    "resume, config": (
        *("train", "config.resolved.yaml", damaged_yaml),
        ("train", "--resume", "run", "--dry-run"),
    ),
    "config show": (
        *("train", "config.resolved.yaml", damaged_yaml),
        ("config", "show", "-c", "run/config.resolved.yaml"),
    ),
}
RESUMED: dict[str, tuple[str, str, Damage, tuple[str, ...]]] = {
    f"{verb} --resume, {name}": (verb, name, damage, (verb, "--resume", "run", *QUIET))
    for verb in ("train", "sweep")
    for name, damage in (("events.jsonl", damaged_log), ("checkpoint", forged_checkpoint))
}


def check(command, original: Path, tmp_path: Path, reader, seed: int) -> None:
    """Damage one file of a copy of a run, and let the reader read it."""
    verb, name, damage, words = reader
    run = shutil.copytree(original / verb, tmp_path / "run")
    resumes = words[-2:] == QUIET
    if resumes:
        (run / "summary.json").unlink()
    newest = max((run / "checkpoints").glob("*.json"))
    if resumes:
        for path in (run / "checkpoints").iterdir():
            if path.stem != newest.stem:
                path.unlink()
    path = newest if name == "checkpoint" else run / name
    path.write_bytes(damage(random.Random(seed), path.read_bytes()))
    before = time.monotonic()
    said = command(*words)
    about = f"seed {seed}: {said}"
    assert said.code in (0, 2, 3), about
    assert "unexpected" not in said.err, about
    assert all(c.isprintable() or c == "\n" for c in said.out + said.err), about
    if said.code == 3 and not resumes and "model.json" not in name:
        assert f"run/{name}: " in said.err or f"run/{name}:" in said.err, about
    if said.code:
        assert all(line.startswith(("error: ", "warning: ")) for line in said.err.splitlines())
    assert time.monotonic() - before < 60, about


@pytest.fixture
def place(original, tmp_path):
    (tmp_path / "data").symlink_to(original / "data")
    (tmp_path / "whole").symlink_to(original / "sweep")
    return tmp_path


@pytest.mark.parametrize("seed", range(DEFAULT_CASES))
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_damaged_run_is_read_or_refused_in_one_line(
    command,
    original,
    place,
    reader,
    seed,
):
    check(command, original, place, reader, seed)


@pytest.mark.slow
@pytest.mark.parametrize("reader", (READERS | RESUMED).values(), ids=READERS | RESUMED)
def test_a_run_damaged_in_many_ways_is_read_or_refused_in_one_line(
    command,
    original,
    place,
    reader,
):
    for seed in range(DEFAULT_CASES, SLOW_CASES):
        check(command, original, place, reader, seed)
        shutil.rmtree(place / "run")
        (place / "p.csv").unlink(missing_ok=True)


KNOWN = {
    "receipt without a digest": ("pass", {"receipt": {"count": 1}}),
    "receipt that is text": ("pass", {"receipt": {"count": "a", "digest": 7}}),
    "config that is a list": ("run", {"config": []}),
    "config without sections": ("run", {"config": {"train": 1}}),
    "rates of another length": ("run", {"lrs": []}),
    "no trials": ("run", {"trials": 0}),
    "endless trials": ("run", {"trials": 2**60}),
    "size 0": ("evaluation", {"batch_size": 0}),
    "negative rows": ("evaluation", {"rows": -1}),
    "infinite loss": ("evaluation", {"holdout_loss": 1e999}),
}


@pytest.mark.parametrize(("event", "changes"), KNOWN.values(), ids=KNOWN)
def test_what_is_wrong_is_named_with_its_line(
    command,
    original,
    place,
    event,
    changes,
):
    run = shutil.copytree(original / "sweep", place / "run")
    lines = (run / "events.jsonl").read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if json.loads(line)["event"] == event)
    lines[number] = json.dumps(json.loads(lines[number]) | changes).replace("Infinity", "1e999")
    (run / "events.jsonl").write_text("\n".join(lines) + "\n")
    for words in (("report", "run"), ("compare", "run", "whole"), ("compare", "whole", "run")):
        said = command(*words)
        assert said.code == 3, said
        assert said.err.startswith(f"error: run/events.jsonl: line {number + 1}"), said.err
        assert said.err.count("\n") == 1, said.err


def test_a_log_of_any_size_is_not_read_into_memory(command, original, place):
    """A sparse file costs nothing to make; what is read of it is memory."""
    run = shutil.copytree(original / "train", place / "run")
    (run / "summary.json").unlink()
    os.truncate(run / "events.jsonl", (1 << 30) + 1)
    for words in (("train", "--resume", "run", *QUIET), ("report", "run", "-q")):
        said = command(*words)
        assert said.code == 3, said
        assert "run/events.jsonl: it has 1,073,741,825 bytes; the limit is" in said.err


@pytest.mark.parametrize("field", ["fingerprint", "events", "seconds", "state", "tensors"])
def test_a_forged_checkpoint_is_refused(command, original, place, field):
    run = shutil.copytree(original / "train", place / "run")
    (run / "summary.json").unlink()
    for path in sorted((run / "checkpoints").glob("*.json")):
        document = json.loads(path.read_bytes())["checkpoint"]
        path.write_bytes(checkpoint._encode(document | {field: "forged"}))
    said = command("train", "--resume", "run", *QUIET)
    assert said.code == 3, said
    assert "unexpected" not in said.err


def test_a_damaged_run_in_runs_does_not_keep_another_from_starting(
    command,
    original,
    place,
):
    """Without --resume, a run looks for an interrupted one like it."""
    for number, content in enumerate((b'{"event": "run"' + b"[" * 100_000, b"[]\n", b"\xff\n")):
        folder = place / "runs" / f"train-{number}"
        folder.mkdir(parents=True)
        (folder / "events.jsonl").write_bytes(content)
    said = command("train", "data", "--max-rows", "64", "--memory", "1GiB", *QUIET)
    assert said.code == 0, said.err


def test_only_files_are_read_and_only_strict_json(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="pipe: it is not a file"):
        read_regular(pipe, limit_bytes=10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(DataError, match=r"large: it has 11 bytes; the limit is 10"):
        read_regular(tmp_path / "large", limit_bytes=10)
    for text in ("NaN", "[-Infinity]", "1e999", "1" * 30, '"\\ud800"', "[" * 65 + "]" * 65, "{"):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)
    (tmp_path / "a.json").write_text('{\n"a": 1,\nx}')
    with pytest.raises(DataError, match=r"a\.json: line 3: not JSON"):
        read_document(tmp_path / "a.json", limit_bytes=100)


def test_what_a_newer_version_wrote_is_refused_and_kept(command, original, place):
    """Its records may mean something else, and an interrupted run of it was started again."""
    run = shutil.copytree(original / "sweep", place / "newer")
    log = run / "events.jsonl"
    first, rest = log.read_bytes().split(b"\n", 1)
    content = json.dumps(json.loads(first) | {"schema_version": 2}).encode() + b"\n" + rest
    log.write_bytes(content)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    for words in (
        ("report", "newer", "-q"),
        ("compare", "newer", original / "sweep"),
        ("sweep", "--resume", "newer"),
    ):
        said = command(*words)
        assert said.code == 3, said.err
        assert "events.jsonl: " in said.err
        assert "its schema_version is 2, and this streamtrain reads 1. Read it with" in said.err
    assert log.read_bytes() == content
    summary = run / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"schema_version": 3}))
    said = command("train", "--from", "newer", "--dry-run")
    assert (said.code, "summary.json: its schema_version is 3" in said.err) == (3, True)
