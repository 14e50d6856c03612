"""One wrong thing at a time: one line, the right exit code, no traceback."""

import os
import signal
import subprocess
import sys
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic_core import SchemaError, SchemaValidator, core_schema

from streamtrain import api
from streamtrain.errors import CheckFailed, ConfigError, DataError, ResourceError, StreamTrainError


@pytest.fixture
def good(tmp_path):
    values = [float(i % 17) for i in range(2000)]
    pq.write_table(
        pa.table({"a": values, "b": values[::-1], "y": values}), tmp_path / "good.parquet"
    )
    return "good.parquet"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param("swep good.parquet", 2, "Did you mean", id="misspelt verb"),
        pytest.param(
            "sweep good.parquet --bach-sizes 8",
            2,
            "Unknown option: --bach-sizes. Did you mean --batch-sizes?",
            id="misspelt flag",
        ),
        pytest.param(
            "--jsn sweep good.parquet",
            2,
            "Unknown option: --jsn. Did you mean --json?",
            id="misspelt flag before the verb",
        ),
        pytest.param(
            "sweep good.parquet --batch-sizes 8..4",
            2,
            "--batch-sizes: sweep.batch_sizes: '8..4' is not a range",
            id="bad sizes",
        ),
        pytest.param("sweep good.parquet --optimizer adan", 2, "adan", id="bad choice"),
        pytest.param(
            "sweep good.parquet --set train.batchsize=4",
            2,
            "Did you mean train.batch_size?",
            id="bad key",
        ),
        pytest.param("sweep good.parquet --lr", 2, "--lr requires an argument", id="no value"),
        pytest.param("sweep good.parquet other.parquet", 2, "other.parquet", id="two data sets"),
        pytest.param("sweep", 2, "sweep needs DATA", id="no data"),
        pytest.param(
            "sweep --resume absent",
            2,
            "--resume absent: absent/config.resolved.yaml is missing",
            id="no such run",
        ),
        pytest.param("generate g --rows 1x", 2, "--rows", id="bad count"),
        pytest.param("report good.parquet", 2, "events.jsonl", id="not a run"),
        pytest.param("config validate absent.yaml", 2, "absent.yaml", id="no such config"),
        pytest.param(
            "train good.parquet --epochs 0.0003",
            2,
            "train.epochs is 0.0003, which of 1,600 training rows is none",
            id="less than a row",
        ),
        pytest.param(
            "sweep good.parquet --epochs 0.0003",
            2,
            "train.epochs is 0.0003, which of 1,600 training rows is none",
            id="less than a row for a sweep",
        ),
        pytest.param("sweep absent.parquet", 3, "absent.parquet", id="no such data"),
        pytest.param(
            "predict good.parquet good.parquet",
            3,
            "Name the --out of a `train` run",
            id="a file for a model",
        ),
        pytest.param(
            "init good.parquet -o good.parquet/a.yaml",
            4,
            "good.parquet/a.yaml: cannot be written (Not a directory)",
            id="unwritable config",
        ),
        pytest.param(
            "generate good.parquet/d --rows 1k", 4, "cannot be written", id="unwritable data"
        ),
        pytest.param("doctor --seconds 0", 2, "more than 0 seconds", id="no seconds"),
        pytest.param("sweep good.parquet --set foo=1", 2, "A key is section.name", id="no section"),
        pytest.param("train good.parquet --early-stop 0", 2, "train.early_stop", id="no patience"),
        pytest.param("sweep good.parquet --target z", 3, "'z'", id="missing column"),
        pytest.param("sweep good.parquet --target aa", 3, "Did you mean a?", id="misspelt column"),
        pytest.param("train text.parquet", 3, "text.parquet", id="text named parquet"),
        pytest.param("train empty", 3, "empty", id="empty folder"),
        pytest.param("train nan.parquet", 3, "nan.parquet", id="NaN in the target"),
    ],
)
def test_one_wrong_thing_is_one_line(command, good, tmp_path, words, code, message):
    (tmp_path / "text.parquet").write_text("a,b,y\n1,2,3\n")
    (tmp_path / "empty").mkdir()
    pq.write_table(
        pa.table({"a": [1.0] * 99, "y": [*([2.0] * 98), float("nan")]}), tmp_path / "nan.parquet"
    )
    said = command(*words.split(), *(["--progress", "none"] if code == 3 else []))
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def wrapped(cause):
    """Return an exception as Python 3.11 wraps it when `__set_name__` is interrupted."""
    error = RuntimeError("Error calling __set_name__")
    error.__cause__ = cause
    return error


def in_a_schema():
    """Return what pydantic makes of a Ctrl-C while it builds the validator of a class."""

    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

    schema = core_schema.union_schema([core_schema.literal_schema([Interrupted()])] * 2)
    with pytest.raises(SchemaError) as caught:
        SchemaValidator(schema)
    return caught.value


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        pytest.param(StreamTrainError("a worker died"), 1, "error: a worker died", id="run"),
        pytest.param(ConfigError("no"), 2, "error: no", id="config"),
        pytest.param(DataError("a\nb"), 3, "error: a\nerror: b", id="data"),
        pytest.param(ResourceError("9 GiB; 8 GiB"), 4, "error: 9 GiB; 8 GiB", id="resource"),
        pytest.param(CheckFailed("x"), 5, "error: x", id="check"),
        pytest.param(MemoryError(), 4, "error: out of memory", id="memory"),
        pytest.param(
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            4,
            "error: the GPU is out of memory: CUDA out of memory. Tried",
            id="memory of a GPU",
        ),
        pytest.param(
            RuntimeError("LinkerError: CUDA_ERROR_OUT_OF_MEMORY"),
            4,
            "error: the GPU is out of memory: LinkerError: CUDA_ERROR_OUT_OF_MEMORY. Close",
            id="memory of a GPU as its driver names it",
        ),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            4,
            "error: out of memory. Lower --memory",
            id="memory of torch on the CPU",
        ),
        pytest.param(
            OSError(28, "No space left"),
            4,
            "error: [Errno 28] No space left. Free space there",
            id="disk",
        ),
        pytest.param(
            PermissionError(13, "Permission denied", "x"), 1, "error: [Errno 13]", id="permission"
        ),
        pytest.param(KeyboardInterrupt(), 130, "interrupted", id="ctrl-c"),
        pytest.param(
            wrapped(KeyboardInterrupt()), 130, "interrupted", id="ctrl-c while a class is made"
        ),
        pytest.param(in_a_schema(), 130, "interrupted", id="ctrl-c while a class is checked"),
        pytest.param(
            ZeroDivisionError("by zero"),
            1,
            "error: unexpected ZeroDivisionError: by zero. Run again with --debug",
            id="bug",
        ),
        pytest.param(
            DataError("column \x1b]0;owned\x07 \u202e"),
            3,
            r"error: column \x1b]0;owned\x07 \u202e",
            id="terminal escapes",
        ),
    ],
)
def test_every_failure_has_its_exit_code_and_shows_a_traceback_only_under_debug(
    command, monkeypatch, raised, code, line
):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(api, "run_sweep", fail)
    said = command("sweep", "d")
    assert said.code == code
    assert said.out == ""
    assert said.err.startswith(line)
    assert "Traceback" not in said.err
    said = command("--debug", "sweep", "d")
    assert said.code == code
    assert "Traceback" in said.err
    assert line in said.err


def test_sigterm_closes_what_is_open_and_leaves_the_handler_as_it_was(command, monkeypatch):
    closed = []

    def wait(*_, **__):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            closed.append(True)

    monkeypatch.setattr(api, "run_sweep", wait)
    before = signal.getsignal(signal.SIGTERM)
    said = command("sweep", "d")
    assert (said.code, said.err, closed) == (143, "terminated\n", [True])
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_while_the_command_is_imported_is_one_line():
    code = (
        "import sys, streamtrain.cli; sys.modules['cyclopts'] = Broken(); streamtrain.cli.start()"
    )
    broken = "class Broken:\n def __getattr__(self, name): raise KeyboardInterrupt\n"
    done = subprocess.run([sys.executable, "-c", broken + code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_warning_is_one_line_and_quiet_is_silent(command, monkeypatch):
    def warn(*_, **__):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the disk is slow", stacklevel=1)
        raise ConfigError("stop")

    monkeypatch.setattr(api, "run_sweep", warn)
    assert command("sweep", "d").err == "warning: the disk is slow\nerror: stop\n"


@pytest.mark.parametrize(
    "words",
    [["config", "schema"], ["train", "--help"]],
    ids=["a result", "help, which rich writes"],
)
def test_a_reader_that_leaves_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "streamtrain", *words], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_changes_no_exit_code(closed):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m streamtrain inspect absent {closed}"],
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")


def test_a_terminal_without_the_characters_gets_escapes():
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "streamtrain", "config", "show", "≤"],
        capture_output=True,
        env=ascii_only,
    )
    assert done.returncode == 0
    assert rb"\u2264" in done.stdout
