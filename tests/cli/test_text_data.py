"""Every verb on a text table, with the words that a user types."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.run.prepare import prepare

ROWS = 3000
QUICK = ("--max-rows", "4096", "--hidden", "4", "--memory", "1GiB", "--device", "cpu")


pytestmark = pytest.mark.filterwarnings("default:.*(read as null|left out)")


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    return tmp_path / "tables"


@pytest.fixture
def rows() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(ROWS, 2)).round(3)
    return np.column_stack([x, (x @ [2, -1]).round(3)])


def write(path: Path, rows: np.ndarray, head: str = "a,b,y\n") -> Path:
    path.write_text(head + "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()))
    return path


def test_one_command_from_a_csv_to_an_answer(command, tmp_path, rows):
    write(tmp_path / "t.csv", rows)
    fixed = ("--trials", "1", "--lr-grid", "1", "--batch-sizes", "64,512", "--no-confirm")
    said = command("sweep", "t.csv", "-o", "s", "--no-report", "--measure", "none", *fixed, *QUICK)
    assert said.code == 0, said.err
    assert said.err.splitlines()[0].startswith("read t.csv: 3,000 rows in ")
    data = json.loads((tmp_path / "s/data.json").read_text())
    assert data["url"] == str(tmp_path / "t.csv")
    assert data["features"] == ["a", "b"]
    assert str(tmp_path / "t.csv") in said.out
    assert "tables" not in said.out


def test_a_csv_trains_the_model_that_its_shards_train(command, tmp_path, rows):
    """The same rows in the same order, whatever the file looks like."""
    write(tmp_path / "t.csv", rows)
    lines = [";".join(map(repr, row)).replace(".", ",") for row in rows.tolist()]
    content = "# made by a sensor\n" + "\n".join(["größe;b;y", *lines])
    (tmp_path / "t.tsv").write_bytes(content.encode("utf-16"))
    assert command("ingest", "t.csv", "shards", "--no-shuffle").code == 0
    models = []
    for name in ("t.csv", "t.tsv", "shards"):
        said = command("train", name, "-o", f"m-{name}", "--no-report", *QUICK)
        assert said.code == 0, said.err
        models.append((tmp_path / f"m-{name}/model.safetensors").read_bytes()[-64:])
    assert models[0] == models[1] == models[2]


def test_a_model_is_used_on_a_csv_without_its_target(command, tmp_path, rows):
    write(tmp_path / "t.csv", rows)
    assert command("train", "t.csv", "-o", "m", "--no-report", *QUICK).code == 0
    scores = command("evaluate", "m", "t.csv", "--json")
    assert json.loads(scores.out)["rows"] == ROWS
    write(tmp_path / "new.csv", rows[:, 1::-1], "b,a\n")
    for name in ("p.csv", "p.parquet"):
        said = command("predict", "m", "new.csv", "-o", name)
        assert (said.code, said.out) == (0, f"3,000 predictions: {name}\n")
    predicted = csv.read_csv(tmp_path / "p.csv")
    assert predicted["row_id"].to_pylist() == list(range(ROWS))
    errors = predicted["prediction"].to_numpy() - rows[:, 2]
    assert np.sqrt((errors**2).mean()) == pytest.approx(json.loads(scores.out)["rmse"], rel=1e-3)
    said = command("evaluate", "m", "new.csv")
    assert (said.code, said.err.splitlines()[-1]) == (
        3,
        f"error: {tmp_path}/new.csv: no column 'y'. It has b, a.",
    )


def test_init_and_a_dry_run_read_a_table_as_the_flags_say(command, tmp_path, rows):
    (tmp_path / "t.data").write_text("1,5 2 x\n2,5 na? 3\n1 4 5\n1 3 3\n2 2 4\n")
    flags = ("--decimal", ",", "--na-values", "na?,x", "--no-header", "--delimiter", "space")
    said = command("inspect", "t.data", *flags)
    assert said.code == 0, said.err
    assert [line.split()[:6] for line in said.out.split("\n\n")[0].splitlines()[1:]] == [
        ["c0", "feature", "double", "0", "1", "2.5"],
        ["c1", "feature", "double", "1", "2", "4"],
        ["c2", "target", "double", "1", "3", "5"],
    ]
    assert command("init", "t.data", *flags, "-o", "t.yaml").code == 0
    text = (tmp_path / "t.yaml").read_text()
    for line in ("delimiter: ' '", "decimal: ','", "header: off", "na_values: ['na?', x]"):
        assert f"\n  {line}\n" in text
    shown = json.loads(command("config", "show", "-c", "t.yaml", "--json").out)
    assert shown["data.header"]["value"] is False
    write(tmp_path / "t.csv", rows)
    assert command("init", "t.csv").code == 0
    said = command("sweep", "-c", "streamtrain.yaml", "--dry-run", *QUICK[2:])
    assert said.code == 0, said.err
    assert "3,000" in said.out


def test_a_worker_opens_the_same_table_and_notices_another(tmp_path, rows):
    path = write(tmp_path / "t.csv", rows)
    config = make_config({"data": {"path": str(path)}, "fetch": {"memory": "1GiB"}})
    spec = RunSpec.of(prepare(config, learners=1, rates=1))
    opened = open_run(spec, threads=1, memory_limit=None)
    assert spec.data_fingerprint.startswith(opened.source.dataset.fingerprint)
    write(path, rows[::-1])
    with pytest.raises(DataError, match=r"t\.csv: a worker sees other data than the driver"):
        open_run(spec, threads=1, memory_limit=None)


def test_text_columns_are_left_out_with_a_warning_and_quiet_hides_it(command, tmp_path):
    table = "name,when,a,y\nx,2020-01-01,1,2\nz,2020-01-02,?,4\nw,,2,1\nw,,3,5\nw,,4,7\n"
    (tmp_path / "t.csv").write_text(table)
    words = ("sweep", "t.csv", "--target", "y", "--on-null", "drop", "--dry-run")
    said = command(*words)
    assert said.code == 0
    assert [line.partition(": ")[0] for line in said.err.splitlines()] == [
        "read t.csv",
        "warning",
        "warning",
    ]
    assert "'?' read as null in 1 row, first in row 1" in said.err
    assert "left out, since they are not numbers: name (string)" in said.err
    again = command(*words)
    assert again.err.startswith("using the rows of t.csv kept in ")
    assert again.err.splitlines()[1:] == said.err.splitlines()[1:]
    assert command(*words, "-q").err == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.txt", "a b\n1 2\n3 4\n2 2\n5 1\n4 4\n", None),
        ("t.txt", "no-such.parquet\n", "no-such.parquet: cannot be read: No such file"),
        ("t.csv", "a,y\nx,z\n", r"t.csv: no numeric column: it has a \(string\), y \(string\)\."),
        ("t.json", '{"a": [1, 2], "y": [3, 4]}\n', r"it has a \(list<item: int64>\)"),
        ("t.csv", "a,y\n1,\n2,\n", "last column, 'y', cannot be the target: no value"),
        ("t.csv", "1999,2000\n1,2\n", "If it is a row, give --no-header; if these are names"),
        ("t.csv", "a,y\n1,2,3\n1,5,6\n", "first line, 'a,y', has 2 fields, and rows have 3"),
        ("t.json", "a,y\n1,2\n", "Write one JSON object per line"),
        ("t.text", "a,y\n1,2\n", "not a Parquet file.*give it the suffix .csv"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_what_to_do(
    command, tmp_path, name, content, words
):
    (tmp_path / name).write_text(content)
    said = command("sweep", name, "--dry-run")
    if words is None:
        assert said.code == 0
        return
    line = said.err.splitlines()[-1]
    assert said.code == 3
    assert re.search(words, line), line


def test_verify_says_that_a_table_has_nothing_to_verify(command, tmp_path, rows):
    folder = tmp_path / "tables"  # which was said to have none
    folder.mkdir()
    write(folder / "t.csv", rows)
    for name in ("tables/t.csv", "tables"):
        said = command("verify", name)
        assert (said.code, said.err) == (
            3,
            f"error: {tmp_path / name}: is a table without checksums, so there is nothing to"
            " verify. Write it as shards with streamtrain ingest first.\n",
        )


def test_a_folder_with_a_slash_at_its_end_is_the_same_table(command, tmp_path, tables, rows):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "t.csv", rows)
    for name, said in (("data", "read data: 3,000 rows in "), ("data/", "using the rows of data ")):
        assert command("inspect", name).err.startswith(said)
    assert [path.name[:5] for path in tables.iterdir()] == ["data-"]


def test_ingest_says_how_a_file_is_written(command, tmp_path):
    (tmp_path / "t.csv").write_text("1,5;2\n3;4\n")
    said = command("ingest", "t.csv", "out")
    assert said.err == "t.csv: fields by semicolons, decimal comma, no header: c0 to c1\n"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_date_named_or_left_alone_is_answered_with_what_makes_a_feature_of_it(
    suffix, command, tmp_path
):
    days = pa.array([0, 1, 2], pa.int32()).cast(pa.date32())
    table = pa.table({"shop": ["a", "b", "c"], "day": days, "y": [1.0, 2.0, 4.0]})
    csv.write_csv(table, tmp_path / "t.csv")
    pq.write_table(table, tmp_path / "t.parquet")
    for verb in (("inspect",), ("train", "-o", "m", *QUICK), ("ingest", "shards")):
        err = command(verb[0], f"t.{suffix}", *verb[1:]).err
        assert "'y' is its only column of numbers." in err
        assert "--datetime epoch or --datetime parts makes features of day." in err
    said = command("inspect", f"t.{suffix}", "--datetime", "parts", "--features", "day")
    assert said.code == 3
    assert "no column 'day'. --datetime parts made day_weekday, day_yearday of it" in said.err


@pytest.mark.parametrize("choice", ["epoch", "parts"])
def test_a_model_reads_dates_as_it_was_trained_with_them(choice, command, tmp_path, rows):
    """Also where the data are of another kind; its file remembers the choice."""
    times = np.datetime64("2024-01-01T00:00:00") + np.arange(ROWS) * np.timedelta64(1, "h")
    table = pa.table({"at": times, "a": rows[:, 0], "y": rows[:, 0] + np.arange(ROWS) % 24})
    pq.write_table(table, tmp_path / "t.parquet")
    csv.write_csv(table, tmp_path / "t.csv")
    said = command("inspect", "t.parquet", "--datetime", choice, "--target", "y")
    assert f"Next: streamtrain sweep t.parquet --target y --datetime {choice}\n" in said.out
    train = ("train", "t.parquet", "--datetime", choice, "-o", "m", "--no-report", *QUICK)
    assert command(*train).code == 0
    assert json.loads((tmp_path / "m/model.json").read_text())["datetime"] == choice
    for name in ("t.parquet", "t.csv"):
        said = command("evaluate", "m", name, "--json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["rows"] == ROWS
        assert command("predict", "m", name, "-o", f"{name}.csv").code == 0
    assert (tmp_path / "t.parquet.csv").read_text() == (tmp_path / "t.csv.csv").read_text()
    other = {"epoch": "parts", "parts": "epoch"}[choice]
    said = command("evaluate", "m", "t.csv", "--datetime", other)
    assert f"--datetime {other}: the model was trained with {choice}." in said.err
