"""Help, error messages and a log without a terminal, compared word by word with snapshots.

After an intended change, write the snapshots again, and review the difference:

UPDATE_SNAPSHOTS=1 python -m pytest tests/cli/test_snapshots.py
"""

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SNAPSHOTS = Path(__file__).parent / "snapshots"
ERRORS = (
    "swep d.parquet",
    "sweep d.parquet --bach-sizes 8",
    "sweep d.parquet --batch-sizes 8..4",
    "sweep d.parquet --optimizer adan",
    "sweep d.parquet --set train.batchsize=4",
    "sweep",
    "sweep absent.parquet",
    "sweep d.parquet --target z",
    "sweep d.parquet --target aa",
    "train d.parquet --memory 1MiB",
    "train d.parquet --holdout 2000",
    "train nan.parquet",
    "train text.parquet",
    "train d.parquet -c bad.yaml",
    "sweep d.parquet --memory 2GB5",
    "compare a b",
    "compare a a --fail-on loss",
    "predict absent d.parquet",
    "report absent",
    "inspect empty",
    "init d.parquet -o bad.yaml",
    "config validate bad.yaml",
    "completion tcsh",
)


def check(name: str, text: str) -> None:
    """Compare a text with its snapshot; figures that depend on time or machine must be #."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), (
        f"{path.name} differs: if that is intended, run with UPDATE_SNAPSHOTS=1"
    )


@pytest.fixture
def files(tmp_path):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 2000)).astype(np.float32)
    pq.write_table(pa.table({"a": a, "b": b, "y": a - b}), tmp_path / "d.parquet")
    pq.write_table(
        pa.table({"a": [1.0] * 99, "y": [*([2.0] * 98), float("nan")]}), tmp_path / "nan.parquet"
    )
    (tmp_path / "text.parquet").write_text("a,b,y\n1,2,3\n")
    (tmp_path / "bad.yaml").write_text("train:\n  batchsize: 4\n")
    (tmp_path / "empty").mkdir()


@pytest.mark.parametrize(
    "words",
    ["", "compare", "init", "doctor", "evaluate", "predict", "config", "bench"],
    ids=lambda words: words or "streamtrain",
)
def test_help(command, words):
    check(f"help-{words or 'streamtrain'}", command(*words.split(), "--help").out)


def test_errors(command, files, tmp_path):
    said = []
    for words in ERRORS:
        done = command(
            *words.split(),
            *(["--progress", "none"] if words.startswith(("sweep", "train")) else []),
        )
        assert done.code in (2, 3, 4), words
        assert done.out == "", words
        said.append(f"$ streamtrain {words}\n{done.err}exit {done.code}\n")
    check(
        "errors", re.sub(r"[\d.]+ ([KMG]iB)", r"# \1", "\n".join(said).replace(str(tmp_path), "…"))
    )


def test_a_log_off_the_terminal(command, files):
    flags = (
        "--batch-size",
        "64",
        "--hidden",
        "4",
        "--lr",
        "0.01",
        "--max-rows",
        "1500",
        "--set",
        "eval.first_row=128",
        "--memory",
        "1GiB",
        "--device",
        "cpu",
    )
    done = command("train", "d.parquet", "-o", "m", *flags)
    assert done.code == 0
    assert "\r" not in done.err
    assert "\x1b" not in done.err
    log = re.sub(r"^kernels compiled.*\n", "", done.err, flags=re.MULTILINE)
    figures = re.compile(r"(?<=[ \n])(?:\d[\d,.]*(?: ?(?:k|M|ms|s|%|MiB|GiB))?|-)(?=\s|$)")
    check(
        "log",
        "\n".join(
            re.sub(r"(# ?)+", "# ", figures.sub("#", re.sub(" +", " ", line))).rstrip()
            for line in log.splitlines()
        )
        + "\n",
    )
    rows = [int(line.split()[0].replace(",", "")) for line in log.splitlines()[2:]]
    assert rows[0] == 0
    assert rows[-1] == 1500
    assert all(b >= 2 * a for a, b in itertools.pairwise(rows[1:-1]))
