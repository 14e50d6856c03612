"""`verify` finds each changed byte and says where it is, or that nothing verifies the data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_gen import generate
from streamtrain.cli.main import run
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.manifest import MANIFEST_NAME
from streamtrain.storage.verify import verify
from streamtrain.types import Format

from .layouts import LAYOUTS, NAMES, numbers, write_parquet, write_zarr

FORMATS = ["parquet", "zarr"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_data_is_never_called_bad(layout: str, tmp_path: Path) -> None:
    case = LAYOUTS[layout](tmp_path)
    found = verify(case.path, threads=2)
    assert found.findings == ()
    assert found.num_rows == len(case.expected)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["integrity"] == found.integrity
    ours = layout.startswith(("ingested", "generated"))
    assert found.integrity == "verified" if ours else found.integrity.startswith("unverified: ")


@pytest.fixture(scope="module", params=FORMATS)
def ours(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ours") / "data"
    generate(folder, rows=700, span_rows=20, format=request.param)
    return folder


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
@example(230180950, 0)  # column names of the first shard, so that others seem to lack columns
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_our_own_shards_is_found(ours: Path, place: int, bit: int) -> None:
    files = [
        path for path in sorted(ours.rglob("*")) if path.is_file() and path.name != MANIFEST_NAME
    ]
    file = files[place % len(files)]
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[place // len(files) % len(whole)] ^= 1 << bit
    file.write_bytes(damaged)
    try:
        found = verify(ours, threads=2)
    finally:
        file.write_bytes(whole)
    assert [url for url in found.bad if file == Path(url) or Path(url) in file.parents]
    assert len(found.bad) == 1


def test_a_flip_in_a_page_is_placed_by_its_checksum(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", numbers(), write_page_checksum=True, use_dictionary=False
    )
    assert verify(path).integrity == "verified"
    whole, metadata, random = path.read_bytes(), pq.read_metadata(path), np.random.default_rng(0)
    for group in range(metadata.num_row_groups):
        for number, name in enumerate(NAMES):
            chunk = metadata.row_group(group).column(number)
            end = chunk.data_page_offset + chunk.total_compressed_size
            damaged = bytearray(whole)
            damaged[int(random.integers(end - 200, end))] ^= 4
            path.write_bytes(damaged)
            (finding,) = verify(path).findings
            assert finding.place == f"row group {group}, column {name!r}"
            assert "checksum" in finding.cause


def test_a_flip_without_checksums_is_found_where_it_contradicts_the_footer(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values = np.linspace(1, 2, 1000, dtype=np.float32)
    pq.write_table(
        pa.table({"a": values, "y": values}), path, use_dictionary=False, compression="none"
    )
    assert verify(path).integrity.startswith("unverified: 1 of 1 shards have neither")
    whole = bytearray(path.read_bytes())
    place = whole.index(values[500].tobytes())
    whole[place + 3] ^= 0x10  # an exponent bit
    path.write_bytes(whole)
    (finding,) = verify(path).findings
    assert finding.place == "row group 0, column 'a'"
    assert "outside of the footer's 1 to 2" in finding.cause


def test_every_bad_shard_is_listed_with_its_cause(tmp_path: Path) -> None:
    for i in range(12):
        write_parquet(tmp_path / f"{i:02}.parquet", numbers(), write_page_checksum=True)
    cut, flipped, odd, text = (tmp_path / f"{i:02}.parquet" for i in (1, 4, 7, 9))
    cut.write_bytes(cut.read_bytes()[:-30])
    whole = bytearray(flipped.read_bytes())
    whole[500] ^= 1
    flipped.write_bytes(whole)
    pq.write_table(pa.table({"a": [1.0], "q": [1.0]}), odd, write_page_checksum=True)
    text.write_text("not parquet")
    found = verify(tmp_path)
    assert sorted(found.bad) == sorted(map(str, (cut, flipped, odd, text)))
    assert found.integrity == "bad: 4 of 12 files have faults"
    places = {Path(finding.url).name: (finding.place, finding.cause) for finding in found.findings}
    assert places["01.parquet"][0] == places["09.parquet"][0] == "footer"
    assert places["04.parquet"][0].startswith("row group 0, column")
    assert places["07.parquet"] == ("columns", "lacks b, y, which 00.parquet has")


@pytest.mark.parametrize("format", FORMATS)
def test_faults_of_the_list_itself(format: Format, tmp_path: Path) -> None:
    made = generate(tmp_path / "data", rows=1000, span_rows=20, format=format)
    shards = [Path(shard.url) for shard in made.shards]
    move = shutil.copy if format == "parquet" else shutil.copytree
    move(shards[0], tmp_path / "data" / f"extra.{format}")
    shutil.move(shards[1], tmp_path / "kept")
    (shutil.rmtree if shards[2].is_dir() else Path.unlink)(shards[2])
    move(shards[0], shards[2])  # one shard in another's place
    document = json.loads((tmp_path / "data" / MANIFEST_NAME).read_text())
    document["rows"] += 1
    document["shards"].append({**document["shards"][0], "name": "../kept"})
    (tmp_path / "data" / MANIFEST_NAME).write_text(json.dumps(document))
    causes = {
        (Path(finding.url).name, finding.cause) for finding in verify(tmp_path / "data").findings
    }
    assert (f"extra.{format}", f"not listed in {MANIFEST_NAME}") in causes
    assert (shards[1].name, f"listed in {MANIFEST_NAME}, but missing") in causes
    assert (shards[2].name, f"its SHA-256 differs from the one in {MANIFEST_NAME}") in causes
    assert any(name == MANIFEST_NAME and "leaves the folder" in cause for name, cause in causes)
    assert any(name == MANIFEST_NAME and "claims 1,001 rows" in cause for name, cause in causes)


@pytest.mark.parametrize("format", FORMATS)
def test_boundaries_that_are_not_the_shards_are_found(format: Format, tmp_path: Path) -> None:
    """Bytes and rows are correct, but other boundaries would give another order of the rows."""
    made = generate(tmp_path / "data", rows=640, span_rows=20, format=format)
    document = json.loads((tmp_path / "data" / MANIFEST_NAME).read_text())
    assert document["shards"][1]["boundaries"] == [[20, 16]]
    document["shards"][1]["boundaries"] = [[40, 8]]
    (tmp_path / "data" / MANIFEST_NAME).write_text(json.dumps(document))
    (finding,) = verify(tmp_path / "data").findings
    assert (finding.url, finding.place) == (made.shards[1].url, "manifest")
    assert f"differ from those in {MANIFEST_NAME}" in finding.cause


def test_a_damaged_manifest_is_a_finding_and_the_shards_are_checked_all_the_same(
    tmp_path: Path,
) -> None:
    made = generate(tmp_path / "data", rows=100)
    (tmp_path / "data" / MANIFEST_NAME).write_text("{")
    shard = Path(made.shards[0].url)
    shard.write_bytes(shard.read_bytes()[:-9])
    found = verify(tmp_path / "data")
    assert [finding.place for finding in found.findings] == ["manifest", "footer"]


def test_chunks_of_a_zarr_array_are_placed(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers(), chunks=(100, 3))
    for number in (3, 7):
        chunk = path / "c" / str(number) / "0"
        chunk.write_bytes(chunk.read_bytes()[:50] + b"\0" * (chunk.stat().st_size - 50))
    found = verify(path, threads=1)
    assert [finding.place for finding in found.findings] == ["chunk c/3/0", "chunk c/7/0"]
    assert all("cannot be decoded" in finding.cause for finding in found.findings)


def test_what_would_not_fit_in_memory_is_not_decoded(tmp_path: Path) -> None:
    (finding,) = verify(
        write_zarr(tmp_path / "a.zarr", numbers(10), chunks=(10_000_000, 3)), limit_bytes=2**20
    ).findings
    assert "decodes to 120,000,000 bytes" in finding.cause
    path = write_parquet(
        tmp_path / "a.parquet",
        np.zeros((500_000, 3), dtype=np.float32),
        500_000,
        use_dictionary=False,
        compression="zstd",
    )
    assert path.stat().st_size < 2**20
    findings = verify(path, limit_bytes=2**16, threads=1).findings
    assert len(findings) == 3
    assert all("one of its pages decodes to 80," in finding.cause for finding in findings)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path / "ours", rows=100)
    foreign = write_parquet(tmp_path / "foreign.parquet", numbers())
    assert run(["verify", str(tmp_path / "ours"), "--fail-on", "unverified"]) == 0
    assert run(["verify", str(foreign)]) == 0
    assert "unverified: 1 of 1 shards have neither checksums nor a hash" in capsys.readouterr().out
    assert run(["verify", str(foreign), "--fail-on", "unverified"]) == 5
    foreign.write_bytes(foreign.read_bytes()[:-1])
    capsys.readouterr()
    assert run(["verify", str(foreign), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0]["url"] == str(foreign)
    assert document["integrity"].startswith("bad: 1 of 1")
    assert run(["verify", str(tmp_path / "nothing")]) == 3
    assert open_shards(str(tmp_path / "ours")).integrity == "verified"
