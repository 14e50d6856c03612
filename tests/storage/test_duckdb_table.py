"""Tables and queries of a DuckDB file, streamed."""

from pathlib import Path

import pytest

from streamtrain.errors import DataError
from streamtrain.storage.foreign.duckdb_table import open_duckdb
from streamtrain.storage.foreign.foreign_source import find_foreign

from .warehouse import ingested

duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with duckdb.connect(path) as connection:
        connection.execute(
            "CREATE TABLE sales AS SELECT i::INT AS x, i * 10 AS y FROM range(9) r(i)"
        )
        connection.execute("CREATE VIEW few AS SELECT * FROM sales WHERE x < 3")
        connection.execute('CREATE SCHEMA "my shop"')
        connection.execute('CREATE TABLE "my shop"."a ""b""" AS SELECT 1 AS "x ""1""", 2 AS y')
    return path


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("table=few", {"x": [0, 1, 2], "y": [0, 10, 20]}),
        ('table=my shop.a "b"', {'x "1"': [1], "y": [2]}),
        ("table=my%20shop.a%20%22b%22", {'x "1"': [1], "y": [2]}),
        ("query=SELECT x, y / 4 AS z FROM sales WHERE y = 30;", {"x": [3], "z": [7.5]}),
        ("query=SELECT 1 AS a, sum(x) AS s FROM sales -- all", {"a": [1], "s": [36]}),
        ("query=FROM sales SELECT y, x LIMIT 1", {"y": [0], "x": [0]}),
    ],
)  # fmt: skip
def test_a_table_a_view_or_a_query_gives_its_rows(settings, expected, database, tmp_path) -> None:
    assert ingested(f"duckdb:{database}?{settings}", tmp_path / "out") == expected


def test_the_only_table_needs_no_name_and_a_relative_path_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with duckdb.connect(tmp_path / "one.duckdb") as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x, 2 AS y")
    monkeypatch.chdir(tmp_path)
    assert ingested("duckdb:one.duckdb", tmp_path / "out") == {"x": [1], "y": [2]}
    assert ingested("one.duckdb", tmp_path / "out2") == {"x": [1], "y": [2]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("?table=nope", r"no table 'nope'; it has few, sales, my shop\.a \"b\"\. Write duckdb:"),
        ("", r"name a table; it has few, sales"),
        ("?query=SELEC 1", r"cannot be read as DuckDB: .*Correct the table or the query"),
        ("?query=DROP TABLE sales", r"cannot be read as DuckDB"),
        ("?query=SELECT error('no') AS a, 1 AS b", r"cannot be read as DuckDB"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(settings, message, database, tmp_path) -> None:
    with pytest.raises(DataError, match=message) as refused:
        ingested(f"duckdb:{database}{settings}", tmp_path / "out")
    assert str(refused.value).startswith(f"duckdb:{database}")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    with duckdb.connect(database) as connection:
        assert connection.sql("SELECT count(*) FROM sales").fetchall() == [(9,)]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.db: no such file"):
        ingested(f"duckdb:{tmp_path}/gone.db", tmp_path / "out")
    (tmp_path / "text.db").write_text("text" * 2000)
    with pytest.raises(DataError, match=r"cannot be read as DuckDB: .*not a valid DuckDB"):
        ingested(f"duckdb:{tmp_path}/text.db", tmp_path / "out")


def test_rows_arrive_in_batches_in_order_and_the_database_is_closed_early(
    database: Path,
) -> None:
    source = find_foreign(f"duckdb:{database}?query=SELECT i AS x FROM range(500000) r(i)")
    assert source
    batches = open_duckdb(source).batches(["x"])
    first = next(batches)
    assert len(first) <= 65_536
    assert first["x"].to_pylist()[:3] == [0, 1, 2]
    batches.close()
    with duckdb.connect(database) as connection:  # refused while a reader has it open
        connection.execute("DROP TABLE sales CASCADE")
