"""Unusual and invalid Zarr stores: v2, N5, all codecs and types of v3, false metadata and chunks.

`CASES` is as in `strange_parquet.py`. Arrays are (rows, 2): the columns `a` and `y`, where `y` is
0, 1, 2 …
"""

import gzip
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
import zarr.codecs.numcodecs
from numcodecs import Blosc, Zstd

from tests.faults.strange_parquet import COUNT, REFUSED, ROWS, TYPED, Expected

CASES: dict[str, tuple[Callable[[Path], Any], Expected]] = {}
VALUES = np.stack([np.arange(ROWS)] * 2, axis=1)


def make(
    path: Path, values: np.ndarray = VALUES, *, dtype: str = "float32", **options: Any
) -> Path:
    options = {
        "chunks": (4, 2),
        "attributes": {"columns": ["a", "y"]},
        "compressors": None,
        "config": {"write_empty_chunks": True},
    } | options
    # callables are deferred, because numcodecs warn when they are constructed
    options = {key: value() if callable(value) else value for key, value in options.items()}
    array = zarr.create_array(str(path), shape=values.shape, dtype=dtype, **options)
    array[:] = values.astype(dtype)
    return path


def array(name: str, expected: Expected, values: np.ndarray = VALUES, **options: Any) -> None:
    CASES[name] = lambda path: make(path, values, **options), expected


def edited(name: str, expected: Expected, change: Callable[[dict], Any], **options: Any) -> None:
    """Add an array whose `zarr.json` is changed."""

    def build(path: Path) -> None:
        make(path, **options)
        document = json.loads((path / "zarr.json").read_text())
        result = change(document)
        (path / "zarr.json").write_text(result if isinstance(result, str) else json.dumps(document))

    CASES[name] = build, expected


def chunk(name: str, expected: Expected, change: Callable[[Path], Any], **options: Any) -> None:
    """Add an array whose first chunk is changed: `change` gets its path."""

    def build(path: Path) -> None:
        make(path, **options)
        change(path / "c" / "0" / "0")

    CASES[name] = build, expected


def raw(name: str, expected: Expected, files: dict[str, Any]) -> None:
    """Add a folder of files: JSON documents or bytes."""

    def build(path: Path) -> None:
        for inner, content in files.items():
            (path / inner).parent.mkdir(parents=True, exist_ok=True)
            (path / inner).write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )

    CASES[name] = build, expected


def put(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def codecs(*more: dict) -> Callable[[dict], Any]:
    return lambda document: document.update(
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}, *more]
    )


# --- valid and unusual ---

for kind in (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    ">f4",
    ">i8",
    ">f8",
):
    array(f"type_{kind.replace('>', 'big_')}", COUNT, dtype=kind)
array(
    "type_bool",
    [0.0, 1.0] * 5,
    np.stack([np.arange(ROWS) % 2, np.arange(ROWS)], axis=1),
    dtype="float32",
)
array("bool", TYPED, dtype="bool", fill_value=False)  # y is not 0, 1, 2 …
array("complex", REFUSED, dtype="complex64")
array("datetime", REFUSED, dtype="datetime64[s]")
array("strings", REFUSED, VALUES.astype("U4"), dtype="<U4")
array("bytes", REFUSED, VALUES.astype("S4"), dtype="S4")
array("order_f", COUNT, filters=[zarr.codecs.TransposeCodec(order=(1, 0))])
array("chunks_of_one", COUNT, chunks=(1, 1))
array("chunk_larger_than_array", COUNT, chunks=(1000, 7))
array("split_columns", COUNT, chunks=(4, 1))
array("sharded", COUNT, chunks=(2, 2), shards=(4, 2))
array(
    "sharded_index_first", COUNT, chunks=(2, 2), shards={"shape": (4, 2), "index_location": "start"}
)
array("sharded_columns", COUNT, chunks=(2, 1), shards=(4, 2))
array("dots_between", COUNT, chunk_key_encoding={"name": "v2", "separator": "."})
array("slashes_of_v2", COUNT, chunk_key_encoding={"name": "v2", "separator": "/"})
array("dots_of_v3", COUNT, chunk_key_encoding={"name": "default", "separator": "."})
array("named_dimensions", COUNT, dimension_names=("row", "column"))
array("no_column_names", COUNT, attributes={})
for fill in ("NaN", "Infinity", "-Infinity", "0x7fc00000", 0.0):
    edited(f"fill_{fill}", COUNT, lambda document, fill=fill: document.update(fill_value=fill))
for fill in ("nonsense", None, [], {}, "0x7", True, 1e400):
    edited(f"fill_bad_{fill}", TYPED, lambda document, fill=fill: document.update(fill_value=fill))
array("zstd", COUNT, compressors=zarr.codecs.ZstdCodec(level=3, checksum=True))
array("gzip", COUNT, compressors=zarr.codecs.GzipCodec())
array("crc32c", COUNT, compressors=zarr.codecs.Crc32cCodec())
array("gzip_then_crc32c", COUNT, compressors=[zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()])
for cname in ("lz4", "lz4hc", "blosclz", "zstd", "zlib"):
    for shuffle in ("noshuffle", "shuffle", "bitshuffle"):
        array(
            f"blosc_{cname}_{shuffle}",
            COUNT,
            compressors=zarr.codecs.BloscCodec(cname=cname, shuffle=shuffle, typesize=4),
        )


def numcodec(
    name: str, expected: Expected = COUNT, kind: str = "compressors", **configuration: Any
) -> None:
    options: dict[str, Any] = {
        kind: lambda: [getattr(zarr.codecs.numcodecs, name)(**configuration)]
    }
    array(f"numcodecs_{name.lower()}", expected, **options)


for name, options in {
    "LZ4": {},
    "Zstd": {},
    "Zlib": {},
    "GZip": {},
    "BZ2": {},
    "LZMA": {},
    "Blosc": {},
    "CRC32": {},
    "CRC32C": {},
    "Adler32": {},
    "Fletcher32": {},
    "JenkinsLookup3": {},
    "Shuffle": {"elementsize": 4},
}.items():
    numcodec(name, **options)
for name, options in {
    "Delta": {"dtype": "<f4"},
    "FixedScaleOffset": {"dtype": "<f4", "astype": "<i4", "scale": 100, "offset": 0},
    "BitRound": {"keepbits": 23},
    "Quantize": {"dtype": "<f4", "digits": 6},
    "AsType": {"encode_dtype": "<f8", "decode_dtype": "<f4"},
}.items():
    numcodec(name, COUNT if name != "Quantize" else TYPED, "filters", **options)

# --- false metadata ---

edited("not_json", REFUSED, lambda document: "{")
edited("empty", REFUSED, lambda document: "")
edited("a_list", REFUSED, lambda document: "[]")
edited("null", REFUSED, lambda document: "null")
edited("nested_deeply", REFUSED, lambda document: "[" * 200_000)
edited(
    "python_constants",
    TYPED,
    lambda document: json.dumps(document).replace('"fill_value": 0.0', '"fill_value": NaN'),
)
edited("keys_twice", TYPED, lambda document: json.dumps(document)[:-1] + ', "shape": [4, 2]}')
for key in (
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "zarr_format",
    "node_type",
):
    edited(f"no_{key}", REFUSED, lambda document, key=key: document.pop(key))
    for word, value in {"null": None, "word": "x", "list": [], "dict": {}, "minus": -1}.items():
        edited(
            f"{key}_{word}",
            TYPED,
            lambda document, key=key, value=value: document.update({key: value}),
        )
edited("format_2", REFUSED, lambda document: document.update(zarr_format=2))
edited("format_4", REFUSED, lambda document: document.update(zarr_format=4))
edited(
    "must_understand", REFUSED, lambda document: document.update(strange={"must_understand": True})
)
edited(
    "need_not_understand",
    COUNT,
    lambda document: document.update(strange={"must_understand": False}),
)
edited(
    "storage_transformers",
    REFUSED,
    lambda document: document.update(storage_transformers=[{"name": "indirection"}]),
)
edited(
    "consolidated_on_an_array",
    TYPED,
    lambda document: document.update(
        consolidated_metadata={"kind": "inline", "must_understand": False, "metadata": {}}
    ),
)
edited("unknown_codec", REFUSED, codecs({"name": "made_up"}))
edited("codec_pickle", REFUSED, codecs({"name": "numcodecs.pickle"}))
edited("codec_json2", REFUSED, codecs({"name": "numcodecs.json2"}))
edited("codec_vlen", REFUSED, codecs({"name": "vlen-utf8"}))
edited("no_codecs", REFUSED, lambda document: document.update(codecs=[]))
edited("two_serializers", REFUSED, codecs({"name": "bytes", "configuration": {"endian": "little"}}))
edited("no_endianness", TYPED, lambda document: document["codecs"][0].pop("configuration"))
edited("codec_as_a_word", TYPED, lambda document: document.update(codecs=["bytes"]))
edited(
    "transpose_of_three",
    REFUSED,
    lambda document: document["codecs"].insert(
        0, {"name": "transpose", "configuration": {"order": [0, 1, 2]}}
    ),
)
for kind in (
    "string",
    "bytes",
    "r16",
    "variable_length_utf8",
    "complex128",
    "float8_e4m3",
    "int4",
    "null_terminated_bytes",
    "struct",
    "object",
    "numpy.datetime64",
    "",
    "float32 ",
    "FLOAT32",
):
    edited(
        f"data_type_{kind.strip() or 'blank'}{'_' * kind.endswith(' ')}",
        REFUSED,
        lambda document, kind=kind: document.update(data_type=kind),
    )
edited(
    "data_type_structured",
    REFUSED,
    lambda document: document.update(
        data_type={"name": "structured", "configuration": {"fields": [["a", "float32"]]}},
        fill_value="AAAAAA==",
    ),
)
edited("narrower_type", REFUSED, lambda document: document.update(data_type="float16"))
edited("wider_type", REFUSED, lambda document: document.update(data_type="float64"))
edited(
    "another_type_of_the_width",
    TYPED,
    lambda document: document.update(data_type="int32", fill_value=0),
)
for shape in (
    [],
    [10],
    [10, 2, 1],
    [11, 2],
    [9, 2],
    [10, 3],
    [-1, 2],
    [0, 2],
    [10, 0],
    [2**63, 2],
    [2**31, 2],
    [10, 2**53],
    [10, 2**31],
    [1.5, 2],
    ["10", 2],
    [True, 2],
    [None, 2],
    [10**30, 2],
):
    edited(
        f"shape_{'_'.join(map(str, shape))}",
        TYPED if shape in ([9, 2], [11, 2], [True, 2]) else REFUSED,
        lambda document, shape=shape: document.update(shape=shape),
    )
for grid in (
    [4],
    [4, 2, 1],
    [0, 2],
    [4, 0],
    [-4, 2],
    [5, 2],
    [3, 2],
    [2**40, 2],
    [2**63, 2],
    [1.5, 2],
    ["4", 2],
    [],
):
    edited(
        f"chunks_{'_'.join(map(str, grid))}",
        REFUSED,
        lambda document, grid=grid: document["chunk_grid"]["configuration"].update(
            chunk_shape=grid
        ),
    )
edited(
    "columns_without_end",
    REFUSED,
    lambda document: (
        document.update(shape=[10, 2**40])
        or document["chunk_grid"]["configuration"].update(chunk_shape=[4, 2**40])
    ),
    attributes={},
    compressors=zarr.codecs.GzipCodec(),
)
edited(
    "rows_without_end",
    REFUSED,
    lambda document: (
        document.update(shape=[2**50, 2])
        or document["chunk_grid"]["configuration"].update(chunk_shape=[2**50, 2])
    ),
    compressors=zarr.codecs.GzipCodec(),
)
edited(
    "grid_rectilinear",
    REFUSED,
    lambda document: document.update(
        chunk_grid={
            "name": "rectilinear",
            "configuration": {"kind": "inline", "chunk_shapes": [[4, 6], [2]]},
        }
    ),
)
edited(
    "separator_strange",
    REFUSED,
    lambda document: document.update(
        chunk_key_encoding={"name": "default", "configuration": {"separator": "../"}}
    ),
)
edited(
    "keys_by_suffix",
    REFUSED,
    lambda document: document.update(chunk_key_encoding={"name": "suffix", "configuration": {}}),
)
for columns in (["a"], ["a", "a"], ["a", 1], "ay", None, {}, ["a\x1b[2J", "y"], ["a", "y", "z"]):
    edited(
        f"names_{len(CASES)}",
        REFUSED,
        lambda document, columns=columns: document.update(attributes={"columns": columns}),
    )
edited("attributes_null", TYPED, lambda document: document.update(attributes=None))
edited("attributes_list", TYPED, lambda document: document.update(attributes=[1]))
edited(
    "shards_not_a_multiple",
    REFUSED,
    lambda document: document["codecs"][0]["configuration"].update(chunk_shape=[3, 2]),
    chunks=(2, 2),
    shards=(4, 2),
)
edited(
    "shards_of_nothing",
    REFUSED,
    lambda document: document["codecs"][0]["configuration"].update(chunk_shape=[0, 2]),
    chunks=(2, 2),
    shards=(4, 2),
)
edited(
    "shards_in_shards",
    REFUSED,
    lambda document: document["codecs"][0]["configuration"].update(
        codecs=json.loads(json.dumps(document["codecs"]))
    ),
    chunks=(2, 2),
    shards=(4, 2),
)
edited(
    "index_of_gzip",
    REFUSED,
    lambda document: document["codecs"][0]["configuration"].update(
        index_codecs=[
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 1}},
        ]
    ),
    chunks=(2, 2),
    shards=(4, 2),
)
edited(
    "index_in_the_middle",
    REFUSED,
    lambda document: document["codecs"][0]["configuration"].update(index_location="middle"),
    chunks=(2, 2),
    shards=(4, 2),
)

# --- false chunks ---


def cut(path: Path, by: int = 3) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(8))


def flipped(position: int) -> Callable[[Path], Any]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 0x55
        path.write_bytes(content)

    return change


def outside(path: Path) -> None:
    """Replace the chunk by a link to it in another folder; its values are unchanged."""
    target = path.parents[3] / "elsewhere"
    shutil.move(path, target)
    path.symlink_to(target)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swapped(path: Path) -> None:
    other = path.parents[1] / "1" / "0"
    content, other_content = path.read_bytes(), other.read_bytes()
    path.write_bytes(other_content)
    other.write_bytes(content)


for name, options in {
    "raw": {},
    "crc32c": {"compressors": zarr.codecs.Crc32cCodec()},
    "zstd": {"compressors": zarr.codecs.ZstdCodec()},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "blosc": {"compressors": zarr.codecs.BloscCodec(typesize=4)},
    "sharded": {"chunks": (2, 2), "shards": (4, 2)},
}.items():
    chunk(f"chunk_cut_{name}", REFUSED, cut, **options)
    chunk(f"chunk_empty_{name}", REFUSED, put(b""), **options)
    chunk(
        f"chunk_longer_{name}",
        REFUSED if name in ("raw", "crc32c", "sharded") else TYPED,
        longer,
        **options,
    )
    # zarr leaves out chunks of nothing but the fill value, so a lost one is read as that
    chunk(f"chunk_missing_{name}", TYPED, os.unlink, **options)
    chunk(
        f"chunk_of_zeros_{name}",
        TYPED if name == "raw" else REFUSED,
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        **options,
    )
    chunk(f"chunk_a_folder_{name}", REFUSED, folder, **options)
    chunk(f"chunk_a_loop_{name}", REFUSED, loop, **options)
    chunk(f"chunk_elsewhere_{name}", TYPED, outside, **options)
    chunk(f"chunk_flipped_{name}", TYPED if name != "crc32c" else REFUSED, flipped(5), **options)
    chunk(
        f"chunk_flipped_late_{name}",
        TYPED if name not in ("crc32c", "sharded") else REFUSED,
        flipped(-9 if name == "sharded" else -2),
        **options,
    )
    chunk(f"chunks_swapped_{name}", TYPED, swapped, **options)
#: Many small members that decode to 1 GiB.
chunk(
    "bomb_gzip",
    REFUSED,
    lambda path: path.write_bytes(gzip.compress(bytes(2**22), 1) * 256),
    compressors=zarr.codecs.GzipCodec(),
)
chunk(
    "bomb_zstd",
    REFUSED,
    lambda path: path.write_bytes(Zstd(level=1).encode(bytes(2**26))),
    compressors=zarr.codecs.ZstdCodec(),
)
chunk(
    "bomb_blosc",
    REFUSED,
    lambda path: path.write_bytes(Blosc("zstd").encode(bytes(2**26))),
    compressors=zarr.codecs.BloscCodec(typesize=4),
)
chunk(
    "bomb_zlib",
    REFUSED,
    lambda path: path.write_bytes(zlib.compress(bytes(2**26), 1)),
    compressors=lambda: [zarr.codecs.numcodecs.Zlib()],
)
chunk(
    "zstd_that_claims_much",
    REFUSED,
    put(bytes.fromhex("28b52ffd") + b"\xe0" + struct.pack("<Q", 2**45) + bytes(20)),
    compressors=zarr.codecs.ZstdCodec(),
)
chunk(
    "blosc_that_claims_much",
    REFUSED,
    put(struct.pack("<BBBBIII", 2, 1, 0x21, 4, 2**31 - 1, 2**31 - 1, 64) + bytes(48)),
    compressors=zarr.codecs.BloscCodec(typesize=4),
)
chunk(
    "lz4_that_claims_much",
    REFUSED,
    put(struct.pack("<I", 2**31 - 1) + bytes(48)),
    compressors=lambda: [zarr.codecs.numcodecs.LZ4()],
)
chunk(
    "gzip_cut",
    REFUSED,
    lambda path: path.write_bytes(path.read_bytes()[:12]),
    compressors=zarr.codecs.GzipCodec(),
)

# --- other formats, and groups ---

V2 = {
    "zarr_format": 2,
    "shape": [10, 2],
    "chunks": [4, 2],
    "dtype": "<f4",
    "compressor": None,
    "fill_value": 0,
    "order": "C",
    "filters": None,
}
for name, change in {
    "plain": {},
    "big_endian": {"dtype": ">f4"},
    "order_f": {"order": "F"},
    "bool": {"dtype": "|b1"},
    "datetime": {"dtype": "<M8[ns]"},
    "object_pickle": {"dtype": "|O", "filters": [{"id": "pickle"}]},
    "object_json": {"dtype": "|O", "filters": [{"id": "json2"}]},
    "object_vlen": {"dtype": "|O", "filters": [{"id": "vlen-utf8"}]},
    "structured": {"dtype": [["a", "<f4"], ["b", "<i4"]]},
    "blosc": {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}},
    "nan": {"fill_value": "NaN"},
    "infinity": {"fill_value": "-Infinity"},
    "slashes": {"dimension_separator": "/"},
    "no_dim": {"shape": [], "chunks": []},
}.items():
    raw(f"v2_{name}", REFUSED, {".zarray": V2 | change, "0.0": bytes(3)})
for key in V2:
    raw(
        f"v2_no_{key}",
        REFUSED,
        {".zarray": {k: v for k, v in V2.items() if k != key}, "0.0": bytes(32)},
    )


def of_v2(name: str, expected: Expected, **change: Any) -> None:
    """Add a whole array of v2, uncompressed unless `change` says otherwise."""
    document = V2 | change
    separator = document.get("dimension_separator", ".")
    padded = np.concatenate([VALUES, np.zeros((2, 2))])
    chunks = {}
    for number in range(3):
        part = padded[4 * number : 4 * number + 4].astype(document["dtype"])
        content = part.tobytes(order=document["order"])
        if document["compressor"]:
            content = np.asarray(
                numcodecs.get_codec(document["compressor"]).encode(content)
            ).tobytes()
        chunks[f"{number}{separator}0"] = content
    attributes = {"columns": ["a", "y"]}
    raw(name, expected, {".zarray": document, ".zattrs": attributes, **chunks})


for kind in ("<f4", ">f4", "<f8", "|i1", ">i2", "<u4", "<i8", "<f2"):
    of_v2(f"v2_whole_{kind.strip('|<>')}_{kind[0] == '>'}", COUNT, dtype=kind)
of_v2("v2_whole_order_f", COUNT, order="F")
of_v2("v2_whole_slashes", COUNT, dimension_separator="/")
of_v2("v2_whole_nan", COUNT, fill_value="NaN")
of_v2("v2_whole_no_fill", COUNT, fill_value=None)
of_v2("v2_whole_no_filters", COUNT, filters=[])
for number, compressor in enumerate(
    [
        {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
        {"id": "zlib", "level": 1},
        {"id": "gzip", "level": 1},
        {"id": "zstd", "level": 1},
        {"id": "lz4"},
        {"id": "bz2", "level": 1},
    ]
):
    of_v2(f"v2_whole_compressor_{number}", COUNT, compressor=compressor)
for number, change in enumerate(
    [
        {"dtype": "<c8"},
        {"order": "X"},
        {"filters": [{"id": "vlen-utf8"}]},
        {"filters": [{"id": "packbits"}]},
        {"filters": [{"id": 5}]},
        {"filters": "delta"},
        {"fill_value": "nonsense"},
        {"shape": [10]},
        {"shape": [10**12, 2]},
        {"shape": "10"},
        {"chunks": [4]},
        {"chunks": [0, 2]},
        {"zarr_format": 3},
        {"zarr_format": 1},
    ]
):
    chunks = {f"{i}.0": bytes(32) for i in range(3)}
    raw(f"v2_false_{number}", REFUSED, {".zarray": V2 | change, **chunks})
raw("v2_group", REFUSED, {".zgroup": {"zarr_format": 2}, "a/.zarray": V2, "a/0.0": bytes(32)})
raw(
    "v2_consolidated",
    REFUSED,
    {".zmetadata": {"zarr_consolidated_format": 1, "metadata": {}}, "a/.zarray": V2},
)
raw("v2_not_json", REFUSED, {".zarray": b"{"})
raw(
    "n5",
    REFUSED,
    {
        "attributes.json": {"n5": "2.0.0"},
        "a/attributes.json": {
            "dimensions": [10],
            "blockSize": [4],
            "dataType": "float32",
            "compression": {"type": "raw"},
        },
    },
)
raw(
    "n5_array",
    REFUSED,
    {
        "attributes.json": {
            "dimensions": [10],
            "blockSize": [4],
            "dataType": "float32",
            "compression": {"type": "raw"},
        }
    },
)
raw(
    "v3_of_the_first_draft",
    REFUSED,
    {
        "zarr.json": {
            "zarr_format": "https://purl.org/zarr/spec/protocol/core/3.0",
            "metadata_encoding": "x",
            "extensions": [],
        },
        "meta/root/a.array.json": {},
    },
)
raw("nothing", REFUSED, {"readme.txt": b"x"})
raw("an_empty_group", REFUSED, {"zarr.json": {"zarr_format": 3, "node_type": "group"}})
raw(
    "a_group_that_is_consolidated",
    REFUSED,
    {
        "zarr.json": {
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": {"kind": "inline", "metadata": {"a": {}}},
        }
    },
)


def grouped(
    name: str,
    expected: Expected,
    change: Callable[[Path], Any] = lambda path: None,
    *,
    shapes: dict[str, tuple] | None = None,
    attributes: Any = None,
    consolidate: bool = False,
) -> None:
    def build(path: Path) -> None:
        group = zarr.create_group(
            str(path), attributes={"columns": ["a", "y"]} if attributes is None else attributes
        )
        for inner, shape in (shapes or {"a": (ROWS,), "y": (ROWS,)}).items():
            each = group.create_array(
                inner,
                shape=shape,
                chunks=tuple(max(1, min(4, n)) for n in shape),
                dtype="float32",
                config={"write_empty_chunks": True},
            )
            each[...] = np.arange(ROWS, dtype="float32") if shape == (ROWS,) else 1
        if consolidate:
            zarr.consolidate_metadata(str(path))
        change(path)

    CASES[name] = build, expected


def edit(inner: str, **change: Any) -> Callable[[Path], Any]:
    def apply(path: Path) -> None:
        document = json.loads((path / inner).read_text())
        (path / inner).write_text(json.dumps(document | change))

    return apply


def lie_in_consolidated(path: Path) -> None:
    document = json.loads((path / "zarr.json").read_text())
    document["consolidated_metadata"]["metadata"]["a"]["shape"] = [4]
    (path / "zarr.json").write_text(json.dumps(document))


grouped("group", COUNT)
grouped("group_by_name", REFUSED, attributes={})  # none of its columns is the target
grouped("group_consolidated", COUNT, consolidate=True)
grouped("group_consolidated_and_lying", COUNT, lie_in_consolidated, consolidate=True)
grouped("group_of_other_lengths_that_are_named", REFUSED, shapes={"a": (9,), "y": (ROWS,)})
grouped("group_with_a_matrix", REFUSED, shapes={"a": (ROWS, 2), "y": (ROWS,)})
grouped("group_with_a_number", REFUSED, shapes={"a": (), "y": (ROWS,)})
grouped("group_of_columns_not_there", REFUSED, attributes={"columns": ["a", "z"]})
grouped("group_of_columns_null", REFUSED, attributes={"columns": None})
grouped("group_of_columns_twice", REFUSED, attributes={"columns": ["a", "a"]})
grouped(
    "group_with_a_damaged_member", REFUSED, lambda path: (path / "a" / "zarr.json").write_text("{")
)
grouped("group_with_a_lost_member", REFUSED, lambda path: shutil.rmtree(path / "a"))
grouped(
    "group_with_a_chunk_left_out",
    [0.0 if 4 <= i < 8 else float(i) for i in range(ROWS)],
    lambda path: (path / "a" / "c" / "1").unlink(),
)
grouped("group_without_chunks", REFUSED, lambda path: [shutil.rmtree(path / x / "c") for x in "ay"])
for name, shape in {"number": (), "matrix": (ROWS, 2), "length": (7,)}.items():
    grouped(
        f"group_beside_a_{name}",
        COUNT,
        shapes={"a": (ROWS,), "other": shape, "y": (ROWS,)},
    )
grouped(
    "group_with_a_v2_member",
    TYPED,
    lambda path: ((path / "z").mkdir(), (path / "z" / ".zarray").write_text(json.dumps(V2))),
)
grouped(
    "group_with_a_pickling_member",
    REFUSED,
    edit("a/zarr.json", codecs=[{"name": "numcodecs.pickle"}]),
)
grouped("group_of_groups", TYPED, lambda path: zarr.create_group(str(path / "deeper")))
grouped("group_with_links_upwards", TYPED, lambda path: (path / "up").symlink_to(path))
