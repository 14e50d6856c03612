"""A run's folder from somebody else: nothing in it is run, and nothing is written through it."""

import itertools
import json
import os
import shutil
import time
from unittest.mock import Mock

import pytest
import torch
import yaml

import data_gen
import streamtrain
from streamtrain.cli.from_sweep import FinishedSweep, taken_text
from streamtrain.config import make_config
from streamtrain.errors import ConfigError, DataError
from streamtrain.training import model_file
from streamtrain.training.model_io import load_model
from tests.report.synthetic import make_records

EVIL = "open('PWNED', 'w').close()\ndef make(x):\n    raise SystemExit\n"
CODE = {"function": "evil_module:make", "sha256": None}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a folder with a data set, a run of it that ended, and one that was interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    data_gen.generate(folder / "data", kind="linear", rows=2_000, span_rows=1_000, seed=1)
    streamtrain.train(
        folder / "data", out=folder / "run", max_rows=256, batch_size=64, hidden=[2], memory="1GiB"
    )
    return folder


@pytest.fixture
def run(original, tmp_path):
    """Return a copy of the run, with a module beside it that leaves a mark when it is imported."""
    shutil.copytree(original / "data", tmp_path / "data")
    (tmp_path / "evil_module.py").write_text(EVIL)
    return shutil.copytree(original / "run", tmp_path / "run")


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def interrupt(run) -> None:
    """Make a run look as if it had not ended."""
    (run / "summary.json").unlink()


FACTORY = {"factory": {**CODE, "num_features": 4, "seed": 0, "trial": 0}, "widths": None}
MODELS = {
    "factory": (FACTORY, "--model"),
    "factory of the library": (
        {"factory": {**FACTORY["factory"], "function": "os:system"}, "widths": None},
        "--model",
    ),
    "transform": ({"transform": {**CODE, "columns": ["x0"]}}, "--transform"),
}


#: Verb and kind of model; export imports no transform.
USES = [
    (verb, kind)
    for verb, kind in itertools.product(("predict", "evaluate", "export"), MODELS)
    if (verb, kind) != ("export", "transform")
]


@pytest.mark.parametrize(("verb", "kind"), USES)
def test_code_that_a_model_names_is_not_imported(command, run, tmp_path, verb, kind):
    changes, flag = MODELS[kind]
    change(run / "model.json", **changes)
    words = {"export": ["-o", "m.onnx"], "predict": ["data", "-o", "p.csv"], "evaluate": ["data"]}
    said = command(verb, "run", *words[verb])
    named = "os:system" if "os:system" in str(changes) else "evil_module:make"
    assert said.code == 2, said.err
    assert f"if you trust it, name it too, {flag} {named}." in said.err
    said = command(verb, "run", *words[verb], flag, "json:dumps")
    assert (said.code, "was trained with" in said.err) == (2, True)
    assert not (tmp_path / "PWNED").exists()


def test_a_model_with_code_needs_it_named_in_python_too(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(run / "model.json", **FACTORY)
    with pytest.raises(ConfigError, match="name it too, --model evil_module:make"):
        streamtrain.load_model(run)
    assert not (tmp_path / "PWNED").exists()
    with pytest.raises(SystemExit):  # it is imported once it is named
        streamtrain.load_model(run, model="evil_module:make")
    assert (tmp_path / "PWNED").exists()


KEYS = {
    "transform": ("data", "transform", "evil_module:make", "--transform"),
    "model": ("model", "factory", "evil_module:make", "--model"),
    "cluster": ("cluster", "factory", "evil_module:make", "--cluster"),
    "scheduler": ("cluster", "scheduler", "tcp://127.0.0.1:1", "--scheduler"),
}


@pytest.mark.parametrize(("section", "key", "value", "flag"), KEYS.values(), ids=KEYS)
def test_code_that_a_runs_config_names_is_not_imported(
    command, run, tmp_path, section, key, value, flag
):
    path = run / "config.resolved.yaml"
    config = yaml.safe_load(path.read_text())
    config[section][key] = value
    path.write_text(yaml.safe_dump(config))
    interrupt(run)
    for words in (
        ("train", "--resume", "run"),
        ("train", "-c", "run/config.resolved.yaml", "-o", "new"),
        ("bench", "train", "data", "-c", "run/config.resolved.yaml"),
    ):
        said = command(*words)
        assert said.code == 2, said.err
        assert f"run/config.resolved.yaml:{line_of(path, key, section)}: " in said.err
        assert f"name it too, {flag} {value}." in said.err
    assert command("config", "show", "-c", path).code == 0
    assert command("report", "run", "-q").code == 0
    assert command("compare", "run", "run").code == 0
    assert not (tmp_path / "PWNED").exists()
    assert not (tmp_path / "new").exists()


def line_of(path, key: str, section: str) -> int:
    lines = path.read_text().splitlines()
    start = lines.index(f"{section}:")
    return next(
        i for i, text in enumerate(lines[start:], start + 1) if text.startswith(f"  {key}:")
    )


def test_code_that_a_sweep_names_is_not_imported_by_from(command, tmp_path):
    folder = tmp_path / "swept"
    folder.mkdir()
    (tmp_path / "evil_module.py").write_text(EVIL)
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, make_records())) + "\n")
    (folder / "config.resolved.yaml").write_text(
        "data:\n  path: data\n  transform: evil_module:make\n"
    )
    assert command("report", "swept", "-q").code == 0
    said = command("train", "--from", "swept")
    assert said.code == 2, said.err
    assert "--from swept: data.transform is evil_module:make, which runs code" in said.err
    assert not (tmp_path / "PWNED").exists()


def test_what_the_user_names_decides(command, run, tmp_path):
    path = run / "config.resolved.yaml"
    text = path.read_text()
    assert "  transform: null\n" in text
    path.write_text(text.replace("  transform: null\n", "  transform: evil_module:make\n"))
    interrupt(run)
    said = command("train", "--resume", "run", "--set", "data.transform=null")
    assert said.code == 0, said.err
    assert not (tmp_path / "PWNED").exists()


FIELDS = {
    "widths of 40 GB": {"widths": [4, 100_000, 100_000, 1]},
    "widths beyond any": {"widths": [4, 2**40, 1]},
    "no widths": {"widths": []},
    "text": {"widths": ["a"]},
    "other features": {"features": ["a"]},
    "no features": {"features": []},
    "unknown activation": {"activation": "exec"},
    "name of a type": {"target": 7},
    "no function": {"factory": {**FACTORY["factory"], "function": "a b"}, "widths": None},
    "version": {"schema_version": 99},
}


@pytest.mark.parametrize("changes", FIELDS.values(), ids=FIELDS)
def test_every_field_of_a_model_is_checked_before_it_is_used(run, changes, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a weight was allocated")

    monkeypatch.setattr("streamtrain.training.model_io.load_file", never)
    change(run / "model.json", **changes)
    with pytest.raises(DataError, match=r"model\.(json|safetensors): "):
        load_model(run)


def test_a_model_larger_than_memory_is_refused_before_it_is_allocated(run, monkeypatch):
    """The file claims 1.6 GB and has them, as a hole."""
    widths, start, tensors = [4, 20_000, 20_000, 1], 0, {}
    with torch.device("meta"):
        layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    shapes = {"mean": ((5,), "F64"), "scale": ((5,), "F64")}
    for number, layer in enumerate(layers):
        for name, tensor in layer.state_dict().items():
            shapes[f"layers.{2 * number}.{name}"] = (tuple(tensor.shape), "F32")
    for name, (shape, dtype) in shapes.items():
        num_bytes = torch.Size(shape).numel() * (8 if dtype == "F64" else 4)
        offsets = [start, start + num_bytes]
        tensors[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        start += num_bytes
    header = json.dumps(tensors).encode()
    path = run / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + start)
    change(run / "model.json", widths=widths)
    monkeypatch.setattr(model_file, "available_bytes", lambda: 1 << 30)
    before = time.monotonic()
    with pytest.raises(streamtrain.ResourceError, match=r"needs 3\.0 GiB.*1\.0 GiB is available"):
        load_model(run)
    assert time.monotonic() - before < 10


@pytest.fixture
def elsewhere(tmp_path_factory):
    """Return a folder that no command is told of, with one file."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("000000.json", "victim"):
        (folder / name).write_text("mine")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "000000.json": "mine",
        "victim": "mine",
    }


@pytest.mark.parametrize("name", ["charts", "best", "checkpoints", "tensorboard"])
def test_a_run_with_a_linked_folder_is_not_continued(command, run, elsewhere, name):
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(elsewhere)
    interrupt(run)
    said = command("train", "--resume", "run", "--tensorboard")
    assert said.code == 3, said.err
    assert f"run/{name}: it is a link, and nothing is written or removed through one" in said.err


def test_a_log_that_is_a_link_is_not_continued(command, run, elsewhere):
    shutil.move(run / "events.jsonl", run / "log")
    (run / "events.jsonl").symlink_to(run / "log")
    interrupt(run)
    before = (run / "log").read_bytes()
    said = command("train", "--resume", "run")
    assert (said.code, "events.jsonl: it is a link" in said.err) == (3, True)
    assert (run / "log").read_bytes() == before


def test_a_report_is_written_through_no_link(command, run, elsewhere):
    names = ("report.md", "summary.csv", "summary.json", "report.html")
    for name in names:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(elsewhere / "victim")
        for pid in range(os.getpid(), os.getpid() + 20):
            (run / f".{name}.{pid}.tmp").symlink_to(elsewhere / "victim")
    assert command("report", "run", "-q").code == 0
    assert not (run / "report.md").is_symlink()
    shutil.rmtree(run / "charts", ignore_errors=True)
    (run / "charts").symlink_to(elsewhere)
    said = command("report", "run", "-q")
    assert (said.code, "run/charts: it is a link" in said.err) == (3, True)


NAMES = (
    "a\nerror: forged",
    "b\x1b[2J\x9b31m",
    "<script>alert(1)</script>",
    "![p](https://evil.example/p.png)",
    "x`</code>|y",
)


def test_names_cannot_reach_a_report_or_a_terminal_as_commands(command, tmp_path):
    records = make_records(features=NAMES)
    records[0] |= {"command": "\n".join(NAMES), "folder": "a\n\x1b[2Jb", "version": "<b>1</b>"}
    records[0]["data"]["url"] = "\n# heading " + "".join(NAMES)
    records[0]["config"] = {"data": {name: name for name in NAMES}}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    said = command("report", "run")
    assert said.code == 0, said.err
    compared = command("compare", "run", "run")
    markdown = (folder / "report.md").read_text()
    for text in (said.out, said.err, compared.out, compared.err, markdown):
        assert all(c.isprintable() or c == "\n" for c in text)
        assert not any(line.startswith(("error:", "# heading")) for line in text.splitlines())
    assert "<" not in markdown
    assert "](" not in markdown
    assert r"a\nerror: forged" in markdown


def test_what_training_takes_from_a_run_is_said_on_one_line():
    config = make_config({"data": {"path": "a\nerror: forged\x1b[2J"}})
    text = taken_text(FinishedSweep("run", Mock()), config, {"data.path": "--from run"})
    assert text == r"from run: data a\nerror: forged\x1b[2J"
