"""Opens and reads damaged data, in a process with limited memory (test_fuzz.py).

`python -m tests.faults.fuzz CORPUS,… SEED CASES FOLDER [--keep]` keeps the data of other values.

Prints {corpus: {outcome: count}}.
Outcomes: `refused` (one of our typed errors), `equal` (the values that were written), `other`
(other values), `untyped …` (any other exception). A case that hangs ends the process by
faulthandler; a crash ends it by signal.
"""

import copy
import faulthandler
import itertools
import json
import random
import resource
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from data_gen import generate
from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.plan.spans import cut_spans
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.inspect import inspect
from streamtrain.storage.manifest import MANIFEST_NAME
from streamtrain.storage.readers import Readers
from streamtrain.storage.verify import verify
from streamtrain.storage.write.ingest import ingest

SPARE_BYTES = 4 << 30
HANG_SECONDS = 60
ROWS = 120

#: Writes data below a folder. It is intact at the first yield, and damaged at each later one.
Corpus = Callable[[Path, random.Random], Iterator[None]]


def values_of(path: Path) -> np.ndarray:
    """Return all rows, (rows, columns), read span by span as in a run."""
    dataset = open_shards(str(path))
    readers, parts = Readers(dataset), []
    for span in cut_spans(dataset.shards, span_rows=50, window_rows=10_000):
        parts.append(np.stack(readers.read(span.shard, span.start, span.stop), axis=1))
    return np.concatenate(parts)


def flips(files: list[Path], chance: random.Random) -> Iterator[None]:
    """Damage a file: one to four flipped bits, a run of zeros, or a cut."""
    yield
    while True:
        file = chance.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        kind = chance.random()
        if kind < 0.8:
            for _ in range(chance.choice((1, 1, 1, 4))):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        elif kind < 0.9:
            start = chance.randrange(len(damaged))
            damaged[start : start + 64] = bytes(len(damaged[start : start + 64]))
        else:
            del damaged[chance.randrange(len(damaged)) :]
        file.write_bytes(damaged)
        yield
        file.write_bytes(whole)


def ours_parquet(folder: Path, chance: random.Random) -> Iterator[None]:
    generate(folder, rows=ROWS, span_rows=40)
    yield from flips([folder / "shard-00000.parquet"], chance)


def ours_zarr(folder: Path, chance: random.Random) -> Iterator[None]:
    generate(folder, rows=ROWS, span_rows=40, format="zarr")
    yield from flips(
        [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME],
        chance,
    )


def footer_start(whole: bytes) -> int:
    """The place of a Parquet file's footer, whose length is stored behind it."""
    return len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")


def checked_parquet(folder: Path, chance: random.Random) -> Iterator[None]:
    """Damage in the pages of a file that has page checksums but no manifest."""
    path = foreign(folder, write_page_checksum=True, use_dictionary=chance.random() < 0.5)
    whole = path.read_bytes()
    pages = footer_start(whole)
    yield
    while True:
        damaged = bytearray(whole)
        damaged[chance.randrange(4, pages)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        yield


def foreign(folder: Path, **options) -> Path:
    folder.mkdir(parents=True)
    values = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
    table = pa.table({name: values[:, i] for i, name in enumerate("aby")})
    pq.write_table(table, folder / "a.parquet", row_group_size=40, **options)
    return folder / "a.parquet"


def foreign_parquet(folder: Path, chance: random.Random) -> Iterator[None]:
    """No checksum of any kind: other values are allowed, a crash is not."""
    compression = chance.choice(["snappy", "zstd", "gzip", "none", "brotli", "lz4"])
    options = {
        "data_page_version": chance.choice(["1.0", "2.0"]),
        "use_dictionary": chance.random() < 0.5,
    }
    yield from flips([foreign(folder, compression=compression, **options)], chance)


def plain_parquet(folder: Path, chance: random.Random) -> Iterator[None]:
    """Pages that the fast path reads, without checksums: several per chunk, raw or snappy."""
    folder.mkdir(parents=True)
    values = np.round(np.random.default_rng(1).normal(size=(20_000, 3)), 1).astype(np.float32)
    schema = pa.schema(
        [pa.field(name, pa.float32(), nullable=chance.random() < 0.5) for name in "aby"]
    )
    options = {
        "compression": chance.choice(["none", "snappy"]),
        "use_dictionary": False,
        "data_page_size": 16_384,
    }
    pq.write_table(
        pa.table(list(values.T), schema=schema),
        folder / "a.parquet",
        row_group_size=10_000,
        **options,
    )
    path = folder / "a.parquet"
    whole, metadata = path.read_bytes(), pq.read_metadata(path)
    chunks = [metadata.row_group(group).column(i) for group in range(2) for i in range(3)]
    yield
    while True:  # the first page header is at the start of a chunk; the others are not known
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 4))):
            start, reach = (
                chance.choice(chunks).data_page_offset,
                60 if chance.random() < 0.8 else 8_000,
            )
            damaged[start + chance.randrange(reach)] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        path.write_bytes(damaged)
        yield


def foreign_footer(folder: Path, chance: random.Random) -> Iterator[None]:
    """Damage in the footer alone: lengths, counts, offsets, types, codecs."""
    path = foreign(folder, use_dictionary=chance.random() < 0.5)
    whole = path.read_bytes()
    start = footer_start(whole)
    yield
    while True:
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            damaged[chance.randrange(start, len(whole) - 8)] = chance.choice(
                (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
            )
        path.write_bytes(damaged)
        yield


def footer_cuts(folder: Path, chance: random.Random) -> Iterator[None]:
    """Cut the file at each offset of its footer in turn."""
    folder.mkdir(parents=True)
    path = folder / "a.parquet"
    pq.write_table(pa.table({"a": np.arange(9.0), "y": np.arange(9.0)}), path, store_schema=False)
    whole = path.read_bytes()
    yield
    for end in range(footer_start(whole), len(whole)):
        path.write_bytes(whole[:end])
        yield


def row_counts_plain(folder: Path, chance: random.Random) -> Iterator[None]:
    """As `row_counts`, for a file that the fast path reads."""
    yield from row_counts(folder, chance, use_dictionary=False)


def row_counts(
    folder: Path, chance: random.Random, *, use_dictionary: bool = True
) -> Iterator[None]:
    """Change each value in the footer that may be a count of rows."""
    path = foreign(folder, write_page_checksum=True, use_dictionary=use_dictionary)
    whole = path.read_bytes()
    start = footer_start(whole)
    yield
    for number in (40, ROWS):
        written = zigzag(number)
        place = whole.find(written, start)
        while place >= 0:
            for claim in (0, 1, 39, 41, 63, number + 1, 8000 if len(written) == 2 else 50):
                claimed = zigzag(claim)
                if len(claimed) == len(written) and claim != number:
                    path.write_bytes(whole[:place] + claimed + whole[place + len(written) :])
                    yield
            place = whole.find(written, place + 1)


def zigzag(number: int) -> bytes:
    number, out = number << 1, bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def foreign_zarr(folder: Path, chance: random.Random) -> Iterator[None]:
    """A sharded array without a manifest."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
    array = zarr.create_array(
        folder / "a.zarr", shape=values.shape, dtype="float32", chunks=(20, 3), shards=(60, 3)
    )
    array[:] = values
    yield from flips([path for path in folder.rglob("*") if path.is_file()], chance)


def zarr_metadata(folder: Path, chance: random.Random) -> Iterator[None]:
    """Valid JSON with wrong values in `zarr.json`."""
    folder.mkdir(parents=True)
    shards = (80, 3) if chance.random() < 0.5 else None
    array = zarr.create_array(
        folder / "a.zarr", shape=(ROWS, 3), dtype="float32", chunks=(40, 3), shards=shards
    )
    array[:] = np.random.default_rng(1).normal(size=(ROWS, 3))
    yield from false_json(folder / "a.zarr" / "zarr.json", chance)


def manifest(folder: Path, chance: random.Random) -> Iterator[None]:
    """Wrong values in a manifest, with names that leave the folder."""
    generate(folder, rows=ROWS, span_rows=40)
    shutil.copy(folder / "shard-00000.parquet", folder.parent / "outside.parquet")
    (folder / ".link.parquet").symlink_to(folder.parent / "outside.parquet")
    yield from false_json(folder / MANIFEST_NAME, chance)


FALSE_VALUES = (
    None,
    True,
    -1,
    0,
    1,
    39,
    41,
    2**31,
    2**53 + 1,
    2**63,
    10**40,
    1e308,
    "",
    "a\nb",
    "../outside.parquet",
    "/etc/passwd",
    ".link.parquet",
    "float64",
    "object",
    "pickle",
    "c/0/0",
    [],
    [[]],
    [0],
    [-1, 3],
    [2**40, 3],
    {},
    {"name": "pickle"},
    {"configuration": {}},
)


def false_json(path: Path, chance: random.Random) -> Iterator[None]:
    whole = path.read_bytes()
    yield
    while True:
        document = json.loads(whole)
        for _ in range(chance.choice((1, 1, 2))):
            node = document
            while True:
                keys = list(node) if isinstance(node, dict) else list(range(len(node)))
                if not keys:
                    break
                key = chance.choice(keys)
                if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.8:
                    node = node[key]
                    continue
                if chance.random() < 0.15:
                    del node[key]
                else:
                    # a copy, since the next change may be inside it
                    node[key] = copy.deepcopy(chance.choice(FALSE_VALUES))
                break
        text = json.dumps(document)
        path.write_text("[" * 100_000 + text if chance.random() < 0.01 else text)
        yield


def schemas(folder: Path, chance: random.Random) -> Iterator[None]:
    """Two shards with random, unrelated columns."""
    folder.mkdir(parents=True)
    yield
    makers = (
        lambda: pa.array(np.arange(9.0)),
        lambda: pa.array(np.arange(9)),
        lambda: pa.array([2**60] * 9),
        lambda: pa.array(["x\n\x1b[2J"] * 9),
        lambda: pa.array([[1.0]] * 9),
        lambda: pa.array([{"p": 1.0}] * 9),
        lambda: pa.nulls(9),
        lambda: pa.array([True] * 9),
        lambda: pa.array([0] * 9, pa.timestamp("s")),
        lambda: pa.array([1] * 9, pa.decimal128(30, 2)),
        lambda: pa.array([b"\xff\xfe"] * 9),
        lambda: pa.array([1.5] * 9, pa.float16()),
        lambda: pa.array(["1", "2", "3"] * 3).dictionary_encode(),
    )
    while True:
        for name in ("a", "b"):
            names = [
                chance.choice(["a", "b", "y", "y", "n\nerror: ok", "\x1b]0;t\x07", "", "a.b"])
                for _ in range(chance.randint(1, 4))
            ]
            pq.write_table(
                pa.table([chance.choice(makers)() for _ in names], names=names),
                folder / f"{name}.parquet",
            )
        yield


def csv(folder: Path, chance: random.Random) -> Iterator[None]:
    """Random bytes with the suffix of CSV."""
    folder.mkdir(parents=True)
    yield
    words = [
        b"1",
        b",",
        b"\n",
        b'"',
        b"1e400",
        b"9007199254740993",
        b"a",
        b"\xff",
        b"\0",
        b"-",
        b"NaN",
        b"\r",
        b"0x1p3",
        b"1_0",
        b"",
    ]
    while True:
        body = b"a,y\n1,2\n" * (chance.random() < 0.7) + b"".join(
            chance.choices(words, k=chance.randrange(60))
        )
        (folder / "a.csv").write_bytes(body)
        yield


CORPORA: dict[str, Corpus] = {
    corpus.__name__: corpus
    for corpus in (
        ours_parquet,
        ours_zarr,
        checked_parquet,
        foreign_parquet,
        plain_parquet,
        foreign_footer,
        footer_cuts,
        row_counts,
        row_counts_plain,
        foreign_zarr,
        zarr_metadata,
        manifest,
        schemas,
        csv,
    )
}


def run(corpus: str, seed: int, cases: int, folder: Path) -> Counter[str]:
    """Read every case; return the number of cases by outcome."""
    outcomes: Counter[str] = Counter()
    folder.mkdir(parents=True)
    damage = CORPORA[corpus](folder / "data", random.Random(f"{corpus} {seed}"))
    next(damage)
    expected = None if corpus in ("schemas", "csv") else values_of(folder / "data")
    limit_memory()  # a second corpus has the limit of the first
    for number, _ in enumerate(itertools.islice(damage, cases)):
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        if "--keep" in sys.argv:
            shutil.rmtree(folder / "last", ignore_errors=True)
            shutil.copytree(folder / "data", folder / "last", symlinks=True)
        try:
            if number % 5 == 0 and corpus != "csv":
                check_inspect_and_verify(folder / "data")
            got = ingested(folder) if corpus == "csv" else values_of(folder / "data")
            equal = expected is None or (
                got.shape == expected.shape and np.array_equal(got, expected, equal_nan=True)
            )
            outcomes["equal" if equal else "other"] += 1
            if not equal and "--keep" in sys.argv:
                shutil.copytree(
                    folder / "last", folder / f"other-{outcomes['other']}", symlinks=True
                )
        except (DataError, ResourceError, ConfigError) as error:
            printable = all(line.isprintable() for line in str(error).splitlines())
            outcomes["refused" if printable else f"unprintable {error!s:.300}"] += 1
        except Exception as error:  # an untyped error is what this test looks for
            outcomes[f"untyped {type(error).__name__}: {error!s:.300}"] += 1
        faulthandler.cancel_dump_traceback_later()
    return outcomes


def check_inspect_and_verify(path: Path) -> None:
    """`verify` never raises, and `inspect` gives strict JSON."""
    json.dumps(verify(path, threads=1).to_json(), allow_nan=False)
    json.dumps(inspect(open_shards(str(path))), allow_nan=False)


def ingested(folder: Path) -> np.ndarray:
    shutil.rmtree(folder / "out", ignore_errors=True)
    ingest(folder / "data", folder / "out")
    return values_of(folder / "out")


def limit_memory(spare_bytes: int = SPARE_BYTES) -> None:
    """Limit the address space to its present size plus `spare_bytes`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (used + spare_bytes, used + spare_bytes))


def fuzz(corpora: list[str], seed: int, cases: int, folder: Path) -> None:
    """Print the outcomes of each corpus, as JSON."""
    warnings.simplefilter("ignore")
    print(json.dumps({corpus: run(corpus, seed, cases, folder / corpus) for corpus in corpora}))


if __name__ == "__main__":
    fuzz(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
