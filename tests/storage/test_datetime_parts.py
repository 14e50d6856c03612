"""`--datetime`: the same features from every kind of table, in every verb that reads."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, feather

from streamtrain.errors import DataError
from streamtrain.storage.dataset import bind_columns, find_shards, open_shards
from streamtrain.storage.inspect import inspect
from streamtrain.storage.readers import Readers
from streamtrain.storage.write.ingest import ingest
from streamtrain.types import Dataset, Datetime, Reading, Storage

ROWS = 5
#: From a Sunday in 1969 on, 36 hours apart.
TIMES = np.datetime64("1969-12-28T06:30") + np.arange(ROWS) * np.timedelta64(36, "h")
TABLE = pa.table(
    {
        "at": pa.array(TIMES.astype("datetime64[us]")),
        "day": pa.array(TIMES.astype("datetime64[D]")),
        "x": np.arange(ROWS, dtype=float),
        "y": np.arange(ROWS, dtype=float) ** 2,
    }
)
SECONDS = [-322_200, -192_600, -63_000, 66_600, 196_200]
FEATURES: dict[Datetime, dict[str, list[float]]] = {
    "epoch": {"at": SECONDS, "day": [86_400 * (second // 86_400) for second in SECONDS]},
    "parts": {
        "at_hour": [6.5, 18.5, 6.5, 18.5, 6.5],
        "at_weekday": [6, 0, 2, 3, 5],
        "at_yearday": [362, 363, 365, 1, 3],
        "day_weekday": [6, 0, 2, 3, 5],
        "day_yearday": [362, 363, 365, 1, 3],
    },
}


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    return tmp_path / "tables"


def by(datetime: Datetime | None) -> Storage:
    return Storage(reading=Reading(datetime=datetime))


def values(dataset: Dataset) -> dict[str, list[float]]:
    readers = Readers(dataset)
    parts = [readers.read(i, 0, shard.num_rows) for i, shard in enumerate(dataset.shards)]
    columns = map(np.concatenate, zip(*parts, strict=True))
    return {name: column.tolist() for name, column in zip(dataset.columns, columns, strict=True)}


def write_shards(path: Path) -> None:
    """In two shards, whose times have other units."""
    path.mkdir()
    pq.write_table(TABLE.slice(0, 2), path / "0.parquet")
    other = TABLE.slice(2).set_column(0, "at", TABLE["at"].slice(2).cast(pa.timestamp("ns")))
    pq.write_table(other, path / "1.parquet")


def write_lines(path: Path) -> None:
    rows = [{name: str(v) if name in ("at", "day") else v for name, v in row.items()}
            for row in TABLE.to_pylist()]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))


def write_delta(path: Path) -> None:
    pytest.importorskip("deltalake").write_deltalake(path, TABLE)


def write_duckdb(path: Path) -> None:
    with pytest.importorskip("duckdb").connect(path) as connection:
        connection.register("table_", TABLE)
        connection.execute("CREATE TABLE t AS SELECT * FROM table_")


KINDS: dict[str, Callable[[Path], Any]] = {
    "t.parquet": lambda path: pq.write_table(TABLE, path),
    "shards": write_shards,
    "t.csv": lambda path: csv.write_csv(TABLE, path),
    "t.feather": lambda path: feather.write_feather(TABLE, str(path)),
    "t.jsonl": write_lines,
    "delta": write_delta,
    "t.duckdb": write_duckdb,
}


@pytest.mark.parametrize("choice", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_features(
    kind: str, choice: Datetime, tmp_path: Path
) -> None:
    KINDS[kind](tmp_path / kind)
    expected = FEATURES[choice] | {name: TABLE[name].to_pylist() for name in ("x", "y")}
    if kind == "t.jsonl":  # which has no dates, but times at midnight
        expected = {"day_hour": [0.0] * ROWS} | expected if choice == "parts" else expected
    assert values(open_shards(str(tmp_path / kind), storage=by(choice))) == expected
    out = ingest(tmp_path / kind, tmp_path / "out", reading=Reading(datetime=choice))
    assert values(out) == expected


def test_seconds_of_shards_are_read_without_an_import(tmp_path: Path, tables: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=2)
    dataset = open_shards(str(tmp_path / "t.parquet"), storage=by("epoch"))
    forward = Readers(dataset).forward(0)
    assert forward.read(1, 4)[0].tolist() == SECONDS[1:4]
    forward.close()
    assert not tables.exists()


def test_without_a_choice_the_option_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(TABLE, path)
    with pytest.warns(UserWarning, match=r"left out.*at \(timestamp\[us\]\), day.*--datetime"):
        assert open_shards(str(path)).columns == ("x", "y")
    with pytest.raises(DataError, match=r"column 'at' has type timestamp\[us\]: .*--datetime"):
        open_shards(str(path), features=["at"])


@pytest.mark.parametrize("choice", [None, "epoch", "parts"])
@pytest.mark.parametrize("kind", ["t.parquet", "t.csv"])
def test_a_date_is_no_target_unless_it_is_named(
    kind: str, choice: Datetime | None, tmp_path: Path
) -> None:
    """The last column would be the target by chance."""
    table = TABLE.select(["x", "y", "at"])
    writer = csv.write_csv if kind == "t.csv" else pq.write_table
    writer(table, tmp_path / kind)
    with pytest.raises(DataError, match=r"the last column, 'at.*Name one with --target"):
        open_shards(str(tmp_path / kind), storage=by(choice))
    with pytest.raises(DataError, match=r"the last column, 'at.*Name one with --target"):
        ingest(tmp_path / kind, tmp_path / "out", reading=Reading(datetime=choice))
    if choice == "epoch":
        dataset = open_shards(str(tmp_path / kind), target="at", storage=by(choice))
        assert values(dataset)["at"] == SECONDS


def test_a_name_that_a_part_has_too_is_refused(tmp_path: Path) -> None:
    table = TABLE.select(["at", "x", "y"]).append_column("at_hour", [[1.0] * ROWS])
    pq.write_table(table.select(["at_hour", "at", "x", "y"]), tmp_path / "t.parquet")
    with pytest.warns(UserWarning, match="left out.*at_hour"):
        dataset = open_shards(str(tmp_path / "t.parquet"), storage=by("parts"))
    assert dataset.columns == ("at_weekday", "at_yearday", "x", "y")


def test_nulls_of_text_are_null_and_a_wrong_date_refuses_its_column_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 64)
    rows = ["2020-01-01 00:00:01.5,2020-01-01,1,2", "NA,?,1,3"] * 20 + [" ,01/02/20,1,2"]
    (tmp_path / "t.csv").write_text("at,day,x,y\n" + "\n".join(rows))
    with pytest.warns(UserWarning, match="left out") as said:
        dataset = open_shards(str(tmp_path / "t.csv"), storage=by("epoch"))
    assert "day ('01/02/20' in row 40 is no date32[day])" in str(said[-1].message)
    assert dataset.columns == ("at", "x", "y")
    seconds = np.array(values(dataset)["at"])
    assert set(seconds[:40:2]) == {1_577_836_801.5}
    assert np.isnan([*seconds[1::2], seconds[40]]).all()


def test_times_with_a_zone_are_read_from_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "at,y\n1970-01-01T00:00:00Z,1\n1970-01-01T02:00:00.25+02:00,2\n"
    )
    dataset = open_shards(str(tmp_path / "t.csv"), storage=by("epoch"))
    assert values(dataset)["at"] == [0, 0.25]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("choice", [None, "epoch"])
def test_inspect_describes_times_of_every_unit(
    choice: Datetime | None, unit: str, tmp_path: Path
) -> None:
    """Nanoseconds, which Python's times lack, among them."""
    ticks = pa.array(
        1_577_836_800_123_456_789 // {"ms": 10**6, "us": 10**3, "ns": 1}[unit] + np.arange(3)
    )
    table = pa.table(
        {"at": ticks.cast(pa.timestamp(unit)), "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 4.0]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = inspect(open_shards(str(tmp_path / "t.parquet"), storage=by(choice)))
    json.dumps(document, allow_nan=False)
    if choice is None:
        (column,) = document["left_out"]
        assert column["min"].startswith("2020-01-01 00:00:00.123")
        assert "--datetime" in column["reason"]
    else:
        column = document["columns"][0]
        assert column["min"] == pytest.approx(1_577_836_800.123, abs=1e-3)
        assert column["sample"][0] == pytest.approx(1_577_836_800.123, abs=1e-3)
    assert column["min"] <= column["max"]


def test_inspect_says_what_a_part_is_of(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    found = find_shards(tmp_path / "t.parquet", storage=by("parts"))
    dataset = bind_columns(found, features=None, target=None)
    document = inspect(dataset, table=found.table)
    assert document["columns"][0]["stored_type"] == "hour of timestamp[us]"
