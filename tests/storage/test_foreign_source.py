"""Which sources another library reads, and when their rows may have changed."""

import os
import sys
from pathlib import Path

import pytest

from streamtrain.errors import ConfigError, DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.foreign.foreign_source import find_foreign, source_version
from streamtrain.storage.write.ingest import ingest

from .layouts import numbers, write_parquet
from .warehouse import bare_delta, bare_iceberg


@pytest.mark.parametrize(
    ("make", "kind", "extra"),
    [
        (bare_delta, "Delta", "delta"),
        (bare_iceberg, "Iceberg", "iceberg"),
        (lambda path: f"duckdb:{path}", "DuckDB", "duckdb"),
    ],
)
def test_without_the_library_the_install_line_is_given(
    make, kind: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("deltalake", "pyiceberg.io.pyarrow", "duckdb"):
        monkeypatch.setitem(sys.modules, library, None)
    source = make(tmp_path / "t")
    with pytest.raises(ConfigError) as refused:
        ingest(source, tmp_path / "out")
    assert str(refused.value).startswith(f"{source}: a {kind} source needs ")
    assert str(refused.value).endswith(f"pip install 'streamtrain[{extra}]'.")


@pytest.mark.parametrize("text", ["duckdb:", "duckdb:a.db?tabel=t", "duckdb:a.db?table="])
def test_a_database_is_named_by_file_and_table_or_query(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not of the form duckdb:FILE\?table=NAME"):
        find_foreign(text)


def test_what_streamtrain_reads_itself_is_not_foreign(tmp_path: Path) -> None:
    write_parquet(tmp_path / "d" / "a.parquet", numbers())
    write_parquet(tmp_path / "d@v3" / "a.parquet", numbers())
    for path in ("d", "d/a.parquet", "d@v3", "d@v4", "d/*.parquet", "absent"):
        assert find_foreign(str(tmp_path / path)) is None
    assert open_shards(str(tmp_path / "d@v3")).num_rows == 1000
    with pytest.raises(DataError, match=r"not a Delta or Iceberg table"):
        source_version(str(tmp_path / "d"))


def test_a_table_whose_own_name_ends_like_a_version_is_read_at_its_newest(tmp_path: Path) -> None:
    bare_delta(tmp_path / "t")
    bare_delta(tmp_path / "t@v3")
    found = find_foreign(str(tmp_path / "t@v3"))
    assert found
    assert (found.url, found.version) == (str(tmp_path / "t@v3"), None)
    found = find_foreign(str(tmp_path / "t@v4"))
    assert found
    assert (found.url, found.version) == (str(tmp_path / "t"), 4)


def test_the_version_of_a_source_changes_when_its_rows_may_have(tmp_path: Path) -> None:
    delta = bare_delta(tmp_path / "delta")
    iceberg = bare_iceberg(tmp_path / "iceberg")
    database = tmp_path / "a.db"
    database.write_bytes(b"1")

    def versions() -> list[str]:
        names = (delta, f"{delta}@v0", iceberg, f"duckdb:{database}?table=t")
        return [source_version(str(name)) for name in names]

    first = versions()
    (delta / "day=1" / "stray.parquet").write_bytes(b"not in the log")
    assert versions() == first
    (delta / "_delta_log" / f"{1:020}.json").write_text("{}")
    (iceberg / "metadata" / "v2.metadata.json").write_text("{}")
    os.utime(database, (1, 1))
    second = versions()
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, True, False, False]
    (tmp_path / "a.db.wal").write_bytes(b"2")
    assert versions()[3] != second[3]
    other = source_version(f"duckdb:{database}?table=u")
    assert other != versions()[3]
