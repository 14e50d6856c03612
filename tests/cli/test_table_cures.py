"""What a message about a table tells to do works when it is typed."""

import html
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers

pytestmark = pytest.mark.filterwarnings("default:.*(left out|Hive partitions|totals)")


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))


def test_the_command_for_hive_partitions_makes_columns_of_them(command, tmp_path: Path) -> None:
    """In the order of the rows, and with the target that the files have."""
    for day in (2, 10):
        for hour in (1, 3):
            folder = tmp_path / f"it's a 'hive'/day={day}/hour={hour}"
            folder.mkdir(parents=True)
            x = np.arange(50) + 100.0 * hour
            pq.write_table(pa.table({"x": x, "y": -x}), folder / "part.parquet")
    said = command("inspect", "it's a 'hive'")
    assert said.code == 0
    (typed,) = re.findall(r"(python -c .*)\n", said.err)
    assert typed in command("inspect", "it's a 'hive'", "--features", "day").err
    python = subprocess.list2cmdline([sys.executable])
    subprocess.run(["sh", "-c", typed.replace("python", python, 1)], check=True, cwd=tmp_path)
    made = open_shards(str(tmp_path / "it's a 'hive'-columns"))
    assert made.columns == ("day", "hour", "x", "y")
    rows = np.concatenate(
        [
            np.stack(Readers(made).read(number, 0, shard.num_rows))
            for number, shard in enumerate(made.shards)
        ],
        axis=1,
    )
    keys = [(day, hour) for day in (10, 2) for hour in (1, 3)]  # as file names are sorted
    expected = [np.repeat([day for day, _ in keys], 50), np.repeat([hour for _, hour in keys], 50)]
    x = np.concatenate([np.arange(50) + 100.0 * hour for _, hour in keys])
    np.testing.assert_array_equal(rows, [*expected, x, -x])


@pytest.mark.parametrize("empty", [(3,), range(2, 12)], ids=["one", "ten"])
def test_features_without_a_value_are_left_out_of_a_wide_table(
    command, tmp_path: Path, empty: Sequence[int]
) -> None:
    """The command named 299 columns, which nobody types and few terminals show."""
    columns = {f"column {number}": np.arange(50.0) % (number + 3) for number in range(300)}
    columns |= {f"column {number}": pa.nulls(50, pa.float64()) for number in empty}
    pq.write_table(pa.table(columns), tmp_path / "wide table.parquet")
    said = command("inspect", "wide table.parquet", "--target", "column 0")
    assert said.code == 3
    (problem,) = re.findall(r"^problem +(.*)$", said.out, re.MULTILINE)
    assert len(problem) < 300 + 2 * len(str(tmp_path))
    named = "column 3." if len(empty) == 1 else "column 6 and 5 more columns."
    assert named in problem
    (typed,) = re.findall(r"`streamtrain (.*)` writes a config with the others", problem)
    assert command(*shlex.split(typed)).code == 0
    text = (tmp_path / "streamtrain.yaml").read_text()
    assert "# not used: column 3 (double)" in text
    few = ("--hidden", "4", "--batch-sizes", "16", "--lr-grid", "1")
    said = command("sweep", "-c", "streamtrain.yaml", "--dry-run", "--json", *few)
    assert said.code == 0, said.err
    planned = json.loads(said.out)
    assert (len(planned["features"]), planned["target"]) == (299 - len(empty), "column 0")


@pytest.mark.parametrize("choice", [(), ("--target", "t", "--features", "lat")], ids=["none", "t"])
def test_inspect_and_sweep_say_alike_how_a_grid_becomes_columns(
    command, tmp_path: Path, choice: tuple[str, ...]
) -> None:
    group = zarr.create_group(str(tmp_path / "grid.zarr"))
    group.create_array("lat", data=np.arange(5.0))
    group.create_array("t", data=np.zeros((3, 5)))
    said = {verb: command(verb, "grid.zarr", *choice) for verb in ("inspect", "sweep")}
    assert said["inspect"].code == said["sweep"].code == 3
    assert said["inspect"].err == said["sweep"].err
    assert "xarray.open_zarr(…).to_dataframe().reset_index().to_parquet(…)" in said["sweep"].err


@pytest.mark.parametrize(
    "end", ["Total;4950;9900\n", "Summe;4950;9900\nMean;49.5;99"], ids=["one", "two"]
)
def test_the_command_for_totals_leaves_them_out(command, tmp_path: Path, end: str) -> None:
    rows = "".join(f"n{i};{i};{2 * i}\n" for i in range(100))
    (tmp_path / "my t.csv").write_text("name;a;y\n" + rows + end)
    said = command("inspect", "my t.csv")
    (typed,) = re.findall(r"in a copy: (sed .*)\n", said.err)
    # the report of a run on it says the same, after the terminal is gone
    run = command("train", "my t.csv", "--max-rows", "100", "--hidden", "4", "-o", "m")
    assert run.code == 0, run.err
    for name in ("report.html", "report.md"):
        page = html.unescape((tmp_path / "m" / name).read_text())
        assert f"in a copy: {typed}" in page.partition("Noticed in the data")[2]
    subprocess.run(["sh", "-c", typed], check=True, cwd=tmp_path)
    assert (tmp_path / "my t-rows.csv").read_text() == "name;a;y\n" + rows
    assert "of totals" not in command("inspect", "my t-rows.csv").err
