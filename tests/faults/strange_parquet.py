"""Unusual and invalid Parquet files, like parquet-testing's `data` and `bad_data`.

`CASES`: name → (a function that writes the file, the expected outcome). Each file has the columns
`a` and `y`, where `y` is 0, 1, 2 … The outcome is the values of `a`, REFUSED, or TYPED: the file
does not contradict itself detectably, so other values are allowed, a crash or a traceback is not.
"""

import base64
import decimal
import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.raw_parquet import (
    BOOLEAN,
    BROTLI,
    BYTE_STREAM_SPLIT,
    DELTA_BINARY_PACKED,
    DOUBLE,
    FIXED,
    FLOAT,
    GZIP,
    I8,
    I64,
    INT32,
    INT64,
    INT96,
    LZ4,
    LZO,
    OPTIONAL,
    PLAIN_DICTIONARY,
    REPEATED,
    RLE,
    RLE_DICTIONARY,
    SNAPPY,
    ZSTD,
    Leaf,
    dictionary,
    floats,
    levels,
    page,
    page_v2,
    run_of,
    thrift,
    varint,
    write,
)

ROWS = 10
REFUSED, TYPED = "refused", "typed"
#: The values of `a`, REFUSED or TYPED.
Expected = Any
NAN = float("nan")
COUNT = [float(i) for i in range(ROWS)]

CASES: dict[str, tuple[Callable[[Path], Any], Expected]] = {}


def case(expected: Expected) -> Callable:
    def keep(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CASES[make.__name__] = make, expected
        return make

    return keep


def hand(
    name: str,
    expected: Expected,
    *,
    rows: int = ROWS,
    footer: dict | None = None,
    group: dict | None = None,
    **leaf: Any,
) -> None:
    """Add a case whose column `a` is this leaf."""
    CASES[name] = (
        lambda path: write(
            path, [Leaf(name="a", **leaf), Leaf(name="y")], rows, footer=footer, group=group
        ),
        expected,
    )


def arrow(name: str, expected: Expected, values: Any, **options: Any) -> None:
    """Add a case that Arrow writes."""

    def make(path: Path) -> None:
        pq.write_table(
            pa.table(
                {
                    "a": values() if callable(values) else values,
                    "y": np.arange(ROWS, dtype="float32"),
                }
            ),
            path,
            **options,
        )

    CASES[name] = make, expected


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
):
    arrow(f"type_{kind}", COUNT, np.arange(ROWS).astype(kind))
arrow("type_bool", [1.0, 0.0] * 5, np.arange(ROWS) % 2 == 0)
arrow(
    "type_bool_v2_rle",
    [1.0, 0.0] * 5,
    np.arange(ROWS) % 2 == 0,
    data_page_version="2.0",
    version="2.6",
)
for bits, digits in (("int32", 5), ("int64", 15), ("fixed", 30)):
    arrow(
        f"decimal_{bits}",
        [i + 0.5 for i in range(ROWS)],
        pa.array(
            [decimal.Decimal(i) + decimal.Decimal("0.5") for i in range(ROWS)],
            pa.decimal128(digits, 1),
        ),
        store_decimal_as_integer=bits != "fixed",
    )
arrow("decimal_256", COUNT, pa.array(range(ROWS)).cast(pa.decimal256(60, 2)))
arrow(
    "decimal_too_large_for_a_float",
    REFUSED,
    pa.array([decimal.Decimal(0)] * 9 + [decimal.Decimal(10) ** 37 + 1], pa.decimal128(38, 0)),
)
arrow("dictionary_of_floats", COUNT, pa.array(COUNT, pa.float32()).dictionary_encode())
arrow("dictionary_of_strings", REFUSED, pa.array(list("abcdefghij")).dictionary_encode())
arrow("dictionary_of_large_integers", REFUSED, pa.array([2**60 + 1] * ROWS).dictionary_encode())
arrow("integer_beyond_exact", REFUSED, pa.array([2**53 + 1] * ROWS))
arrow("unsigned_beyond_exact", REFUSED, pa.array([2**63 + 1] * ROWS, pa.uint64()))
arrow("integer_at_the_edge", [float(2**53)] * ROWS, pa.array([2**53] * ROWS))
arrow("all_null", [NAN] * ROWS, pa.nulls(ROWS, pa.float32()))
arrow("all_null_of_no_type", REFUSED, pa.nulls(ROWS))
arrow("null_integers", [NAN, 1.0] * 5, pa.array([None, 1] * 5))
arrow(
    "null_dictionary", [NAN, 1.0] * 5, pa.array([None, 1.0] * 5, pa.float32()).dictionary_encode()
)
arrow("null_uint64", [NAN, 1.0] * 5, pa.array([None, 1] * 5, pa.uint64()))
for codec in ("snappy", "gzip", "brotli", "zstd", "lz4", "none"):
    for version in ("1.0", "2.0"):
        arrow(
            f"codec_{codec}_v{version[0]}",
            [NAN, 1.0] * 5,
            pa.array([None, 1.0] * 5, pa.float32()),
            compression=codec,
            data_page_version=version,
        )
arrow(
    "byte_stream_split",
    COUNT,
    np.arange(ROWS, dtype="float32"),
    use_dictionary=False,
    use_byte_stream_split=True,
)
arrow(
    "delta_binary_packed",
    COUNT,
    np.arange(ROWS),
    use_dictionary=False,
    column_encoding={"a": "DELTA_BINARY_PACKED"},
)
arrow(
    "tiny_pages_with_index",
    COUNT,
    np.arange(ROWS, dtype="float32"),
    write_page_index=True,
    data_page_size=1,
    write_batch_size=1,
)
arrow("all_nan", [NAN] * ROWS, np.full(ROWS, np.nan, "float32"))
for name, values in {
    "string": list("abcdefghij"),
    "binary": [b"\xff"] * ROWS,
    "list": [[1.0]] * ROWS,
    "struct": [{"p": 1.0}] * ROWS,
    "map": pa.array([[("k", 1)]] * ROWS, pa.map_(pa.string(), pa.int32())),
    "timestamp": pa.array([0] * ROWS, pa.timestamp("ns")),
    "date": pa.array([0] * ROWS, pa.date32()),
    "time": pa.array([0] * ROWS, pa.time64("us")),
    "duration": pa.array([0] * ROWS, pa.duration("s")),
    "uuid": pa.array([b"0123456789abcdef"] * ROWS, pa.uuid()),
    "fixed": pa.array([b"ab"] * ROWS, pa.binary(2)),
    "json": pa.array(["{}"] * ROWS, pa.json_()),
    "fixed_list": pa.array([[1.0, 2.0]] * ROWS, pa.list_(pa.float32(), 2)),
    "bool8": pa.array([1] * ROWS, pa.bool8()),
}.items():
    arrow(f"type_{name}", REFUSED if name != "bool8" else TYPED, values)
arrow(
    "int96_timestamp",
    REFUSED,
    pa.array([0] * ROWS, pa.timestamp("ns")),
    use_deprecated_int96_timestamps=True,
)

hand("plain", COUNT)
hand("plain_with_crc", COUNT, pages=page(floats(range(ROWS)), ROWS, crc=True))
hand("two_pages", COUNT, pages=page(floats(range(4)), 4) + page(floats(range(4, 10)), 6))
hand("int96", REFUSED, kind=INT96, pages=page(bytes(12 * ROWS), ROWS))
hand(
    "int96_required_is_not_timestamp",
    REFUSED,
    kind=INT96,
    pages=page(bytes(12 * ROWS), ROWS),
    schema={10: {}},
)
hand("double", COUNT, kind=DOUBLE, pages=page(struct.pack("<10d", *range(ROWS)), ROWS))
hand(
    "unsigned_8_by_converted_type",
    [255.0] * ROWS,
    kind=INT32,
    pages=page(struct.pack("<10i", *[255] * ROWS), ROWS),
    schema={6: 11},
)
hand(
    "signed_8_by_logical_type",
    [-1.0] * ROWS,
    kind=INT32,
    pages=page(struct.pack("<10i", *[-1] * ROWS), ROWS),
    schema={10: {10: {1: I8(8), 2: True}}},
)
hand(
    "decimal_by_converted_type",
    [0.05] * ROWS,
    kind=INT32,
    pages=page(struct.pack("<10i", *[5] * ROWS), ROWS),
    schema={6: 5, 7: 2, 8: 4},
)
hand(
    "dictionary_page",
    [2.0] * ROWS,
    pages=(d := dictionary(floats([1, 2]), 2))
    + page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "dictionary_page_by_its_old_name",
    [2.0] * ROWS,
    pages=(d := dictionary(floats([1, 2]), 2, encoding=PLAIN_DICTIONARY))
    + page(b"\1" + run_of(1, ROWS), ROWS, encoding=PLAIN_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "dictionary_page_without_its_offset",
    TYPED,
    pages=(d := dictionary(floats([1, 2]), 2))
    + page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
    meta={11: None},
)
# GH-43605
hand(
    "dictionary_indices_of_width_0",
    [1.0] * ROWS,
    pages=(d := dictionary(floats([1, 2]), 2))
    + page(b"\0" + varint(ROWS << 1), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "dictionary_falls_back_to_plain",
    [2.0] * 4 + COUNT[4:],
    pages=(d := dictionary(floats([1, 2]), 2))
    + page(b"\1" + run_of(1, 4), 4, encoding=RLE_DICTIONARY)
    + page(floats(range(4, 10)), 6),
    dictionary_bytes=len(d),
)
hand(
    "gzip_of_two_members",
    COUNT,
    codec=GZIP,
    pages=page(
        floats(range(ROWS)),
        ROWS,
        stored=gzip.compress(floats(range(5))) + gzip.compress(floats(range(5, 10))),
    ),
)
lz4 = pa.compress(floats(range(ROWS)), "lz4_raw", asbytes=True)
hand(
    "lz4_of_hadoop",
    COUNT,
    codec=LZ4,
    pages=page(floats(range(ROWS)), ROWS, stored=struct.pack(">II", 40, len(lz4)) + lz4),
)
hand(
    "lz4_raw_under_the_old_name",
    COUNT,
    codec=LZ4,
    pages=page(floats(range(ROWS)), ROWS, stored=lz4),
)
hand(
    "v2_null_page_without_data",
    [NAN] * ROWS,
    codec=SNAPPY,
    repetition=OPTIONAL,
    pages=page_v2(run_of(0, ROWS), b"", ROWS, nulls=ROWS),
)
hand(
    "v2_null_page_that_says_not_compressed",
    [NAN] * ROWS,
    codec=SNAPPY,
    repetition=OPTIONAL,
    pages=page_v2(run_of(0, ROWS), b"", ROWS, nulls=ROWS, compressed=False),
)
hand(
    "v2_null_page_of_an_empty_stream",
    [NAN] * ROWS,
    codec=ZSTD,
    repetition=OPTIONAL,
    pages=page_v2(
        run_of(0, ROWS), pa.compress(b"", "zstd", asbytes=True), ROWS, nulls=ROWS, size=2
    ),
)
hand(
    "v2_page_not_compressed",
    COUNT,
    codec=SNAPPY,
    pages=page_v2(b"", floats(range(ROWS)), ROWS, compressed=False),
)
hand(
    "v2_bool_rle",
    [1.0] * ROWS,
    kind=BOOLEAN,
    pages=page_v2(b"", levels(run_of(1, ROWS)), ROWS, encoding=RLE),
)
hand("an_empty_page_first", TYPED, pages=page(b"", 0) + page(floats(range(ROWS)), ROWS))
hand(
    "an_index_page_between",
    TYPED,
    pages=page(floats(range(4)), 4)
    + thrift({1: 1, 2: 0, 3: 0, 6: {}})[1]
    + page(floats(range(4, 10)), 6),
)
hand("schema_of_another_world", REFUSED, footer={5: [{1: b"ARROW:schema", 2: b"not base64 \xff"}]})
hand(
    "schema_of_arrow_cut_short",
    TYPED,
    footer={
        5: [
            {
                1: b"ARROW:schema",
                2: base64.b64encode(pa.schema([("a", pa.float32())]).serialize().to_pybytes()[:40]),
            }
        ]
    },
)
hand(
    "schema_of_arrow_says_duration",
    TYPED,
    footer={
        5: [
            {
                1: b"ARROW:schema",
                2: base64.b64encode(
                    pa.schema([("a", pa.duration("s")), ("y", pa.float32())])
                    .serialize()
                    .to_pybytes()
                ),
            }
        ]
    },
)
hand("metadata_of_pandas_that_is_no_json", COUNT, footer={5: [{1: b"pandas", 2: b"{\xff"}]})
hand("another_version", COUNT, footer={1: 99})
hand("created_by_nonsense", COUNT, footer={6: b"\xff\x1b[2J version 1.\n"})
hand("a_logical_type_from_the_future", TYPED, schema={10: {99: {}}})
hand("statistics_cut_short", COUNT, meta={12: {5: b"\0", 6: b""}})
hand(
    "statistics_the_wrong_way_round", TYPED, meta={12: {5: floats([0]), 6: floats([9]), 3: I64(3)}}
)

# --- damaged ---

for number in (-7, 8, 99, 2**31 - 1):
    hand(f"schema_type_{number}", REFUSED, schema={1: number})  # PARQUET-1481
    hand(
        f"physical_type_{number}",
        REFUSED,
        kind=number,
        schema={1: FLOAT},
        pages=page(floats(range(ROWS)), ROWS),
    )
    hand(f"codec_{number}", REFUSED, codec=number)
    hand(f"encoding_{number}", REFUSED, pages=page(floats(range(ROWS)), ROWS, encoding=number))
    hand(f"page_type_{number}", REFUSED, pages=page(floats(range(ROWS)), ROWS, header={1: number}))
    hand(f"converted_type_{number}", TYPED, schema={6: number})
    # RS-GH-6229
    hand(
        f"dictionary_of_{number}_values",
        REFUSED,
        pages=(d := dictionary(floats([1, 2]), number))
        + page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
        dictionary_bytes=len(d),
    )
    hand(f"page_of_{number}_values", REFUSED, pages=page(floats(range(ROWS)), number))
    hand(
        f"page_v2_of_{number}_nulls",
        TYPED,
        repetition=OPTIONAL,
        pages=page_v2(run_of(1, ROWS), floats(range(ROWS)), ROWS, nulls=number),
    )
    hand(
        f"page_v2_of_{number}_level_bytes",
        REFUSED,
        repetition=OPTIONAL,
        pages=page_v2(run_of(1, ROWS), floats(range(ROWS)), ROWS, about={5: number}),
    )
    hand(
        f"page_that_decodes_to_{number}",
        REFUSED,
        codec=SNAPPY,
        pages=page(
            floats(range(ROWS)),
            ROWS,
            stored=pa.compress(floats(range(ROWS)), "snappy", asbytes=True),
            size=number,
        ),
    )
    hand(
        f"page_stored_in_{number}",
        REFUSED,
        pages=page(floats(range(ROWS)), ROWS, header={3: number}),
    )
    hand(
        f"fixed_length_{number}",
        REFUSED if number != 8 else TYPED,
        kind=FIXED,
        schema={2: number, 6: 5, 7: 0, 8: 10},
        pages=page(bytes(40), ROWS),
    )
    hand(
        f"decimal_of_{number}_digits",
        REFUSED if number != 8 else [0.0] * ROWS,
        kind=INT32,
        schema={6: 5, 7: 0, 8: number},
        pages=page(bytes(40), ROWS),
    )
    hand(
        f"decimal_scale_{number}",
        REFUSED,
        kind=INT32,
        schema={6: 5, 7: number, 8: 5},
        pages=page(bytes(40), ROWS),
    )
    hand(f"chunk_offset_{number}", REFUSED, meta={9: I64(number)})
    hand(f"chunk_stored_{number}", REFUSED if number != 99 else TYPED, meta={7: I64(number)})
    hand(f"rows_{number}", REFUSED, footer={3: I64(number)})
    hand(f"group_rows_{number}", REFUSED, group={3: I64(number)})
    hand(f"chunk_values_{number}", REFUSED, meta={5: I64(number)})
hand("lzo", REFUSED, codec=LZO)
hand("fewer_values_in_a_page", REFUSED, pages=page(floats(range(7)), 7))  # GH-41317
hand("fewer_values_than_the_page_says", REFUSED, pages=page(floats(range(7)), ROWS))
hand("more_values_in_a_page", TYPED, pages=page(floats(range(13)), 13))
# GH-41321
hand(
    "fewer_levels_than_values",
    REFUSED,
    repetition=OPTIONAL,
    pages=page(levels(run_of(1, 7)) + floats(range(ROWS)), ROWS),
)
hand(
    "levels_longer_than_the_page",
    REFUSED,
    repetition=OPTIONAL,
    pages=page(struct.pack("<I", 2**31) + run_of(1, ROWS) + floats(range(ROWS)), ROWS),
)
hand(
    "levels_above_the_highest",
    REFUSED,
    repetition=OPTIONAL,
    pages=page(levels(run_of(3, ROWS)) + floats(range(ROWS)), ROWS),
)
# GH-47662
hand("nulls_in_a_required_column", REFUSED, pages=page_v2(run_of(0, ROWS), b"", ROWS, nulls=ROWS))
hand(
    "a_dictionary_index_beyond",
    REFUSED,
    pages=(d := dictionary(floats([1, 2]), 2))
    + page(b"\7" + run_of(99, ROWS, 7), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "indices_of_width_99",
    REFUSED,
    pages=(d := dictionary(floats([1, 2]), 2))
    + page(b"\x63" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand("no_dictionary", REFUSED, pages=page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY))
hand(
    "an_empty_dictionary",
    REFUSED,
    pages=(d := dictionary(b"", 0)) + page(b"\1" + run_of(0, ROWS), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "two_dictionaries",
    REFUSED,
    pages=(d := dictionary(floats([1, 2]), 2))
    + dictionary(floats([3, 4]), 2)
    + page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "a_dictionary_last",
    REFUSED,
    pages=page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY)
    + dictionary(floats([1, 2]), 2),
)
hand(
    "dictionary_shorter_than_it_says",
    REFUSED,
    pages=(d := dictionary(floats([1]), 2))
    + page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
for number, kind in enumerate(({1: 2}, [1, 2], b"data")):
    hand(
        f"page_type_of_no_number_{number}",
        REFUSED,
        pages=page(floats(range(ROWS)), ROWS, header={1: kind}),
    )
# old versions of DuckDB and hyparquet
hand("footer_of_fewer_bytes_than_its_pages", COUNT, decoded=8)
hand("a_wrong_crc", REFUSED, pages=page(floats(range(ROWS)), ROWS, header={4: 12345}))
hand("a_wrong_crc_v2", REFUSED, pages=page_v2(b"", floats(range(ROWS)), ROWS, header={4: 12345}))
hand(
    "a_wrong_crc_of_a_dictionary",
    REFUSED,
    pages=(d := thrift({1: 2, 2: 8, 3: 8, 4: 5, 7: {1: 2, 2: 0}})[1] + floats([1, 2]))
    + page(b"\1" + run_of(1, ROWS), ROWS, encoding=RLE_DICTIONARY),
    dictionary_bytes=len(d),
)
hand(
    "byte_stream_split_of_odd_length",
    REFUSED,
    pages=page(floats(range(ROWS))[:-3], ROWS, encoding=BYTE_STREAM_SPLIT),
)
for name, head in {
    "no_block": (0, 4, 10, 0),
    "no_miniblocks": (128, 0, 10, 0),
    "huge_block": (2**31, 4, 10, 0),
    "huge_count": (128, 4, 2**31 - 1, 0),
    "odd": (100, 3, 10, 0),
}.items():
    hand(
        f"delta_{name}",
        REFUSED,
        kind=INT32,
        pages=page(
            b"".join(map(varint, head)) + b"\0" + bytes([255] * 4) + bytes(200),
            ROWS,
            encoding=DELTA_BINARY_PACKED,
        ),
    )
hand(
    "delta_miniblock_width_255",
    REFUSED,
    kind=INT64,
    pages=page(
        b"".join(map(varint, (128, 4, 10, 0))) + b"\0" + bytes([255] * 4) + bytes(9000),
        ROWS,
        encoding=DELTA_BINARY_PACKED,
    ),
)
hand(
    "delta_cut_short",
    REFUSED,
    kind=INT32,
    pages=page(b"".join(map(varint, (128, 4, 10, 0))), ROWS, encoding=DELTA_BINARY_PACKED),
)
hand(
    "bool_rle_with_a_false_length",
    REFUSED,
    kind=BOOLEAN,
    pages=page(struct.pack("<I", 2**30) + run_of(1, ROWS), ROWS, encoding=RLE),
)
hand("bool_cut_short", REFUSED, kind=BOOLEAN, pages=page(b"\1", ROWS))
hand("snappy_of_noise", REFUSED, codec=SNAPPY, pages=page(b"", ROWS, stored=b"\xff" * 40, size=40))
hand("brotli_of_noise", REFUSED, codec=BROTLI, pages=page(b"", ROWS, stored=b"\xff" * 40, size=40))
hand(
    "gzip_of_more_than_it_says",
    REFUSED,
    codec=GZIP,
    pages=page(b"", ROWS, stored=gzip.compress(bytes(400)), size=40),
)
hand(
    "gzip_of_less_than_it_says",
    REFUSED,
    codec=GZIP,
    pages=page(b"", ROWS, stored=gzip.compress(bytes(20)), size=40),
)
hand(
    "zstd_of_more_than_it_says",
    REFUSED,
    codec=ZSTD,
    pages=page(b"", ROWS, stored=pa.compress(bytes(400), "zstd", asbytes=True), size=40),
)
hand(
    "repeated_numbers",
    REFUSED,
    repetition=REPEATED,
    pages=page(levels(run_of(0, ROWS)) + levels(run_of(1, ROWS)) + floats(range(ROWS)), ROWS),
)
# GH-45185
hand(
    "repetition_begins_within_a_row",
    REFUSED,
    repetition=REPEATED,
    pages=page(levels(run_of(1, ROWS)) + levels(run_of(1, ROWS)) + floats(range(ROWS)), ROWS),
)
hand("no_repetition", TYPED, schema={3: None})
hand("repetition_7", TYPED, schema={3: 7})
# Arrow does not read it: required
hand("repetition_as_an_i64", TYPED, schema={3: I64(1)}, meta={16: {3: [I64(0), I64(ROWS)]}})
hand("levels_of_another_column", REFUSED, meta={16: {2: [I64(1)] * 3, 3: [I64(1)] * 3}})
hand("levels_under_a_number_of_16_bits_too_many", REFUSED, meta={16 + 2**16: {3: [I64(1)] * 3}})
hand("a_chunk_in_another_file", REFUSED, chunk={1: b"../secret"})
hand("a_chunk_without_metadata", REFUSED, chunk={3: None})
hand("an_encrypted_chunk", REFUSED, chunk={8: {1: {}}})
hand(
    "an_encrypted_chunk_with_hidden_metadata",
    REFUSED,
    chunk={3: None, 8: {2: {1: [b"a"]}}, 9: b"0123456789"},
)
hand(
    "a_plain_footer_of_encrypted_columns", REFUSED, chunk={8: {2: {1: [b"a"]}}}, footer={8: {1: {}}}
)
hand("another_path", REFUSED, meta={3: [b"z"]})
hand("schema_without_a_root", REFUSED, footer={2: []})
hand(
    "schema_with_too_many_children",
    REFUSED,
    footer={2: [{4: b"schema", 5: 9}, {1: FLOAT, 3: 0, 4: b"a"}, {1: FLOAT, 3: 0, 4: b"y"}]},
)
hand(
    "schema_of_a_negative_number_of_children",
    REFUSED,
    footer={2: [{4: b"schema", 5: -1}, {1: FLOAT, 3: 0, 4: b"a"}, {1: FLOAT, 3: 0, 4: b"y"}]},
)
hand(
    "schema_of_more_columns_than_chunks",
    REFUSED,
    footer={2: [{4: b"schema", 5: 3}, *({1: FLOAT, 3: 0, 4: name} for name in (b"a", b"x", b"y"))]},
)
hand(
    "schema_of_fewer_columns_than_chunks",
    REFUSED,
    footer={2: [{4: b"schema", 5: 1}, {1: FLOAT, 3: 0, 4: b"a"}]},
)
hand(
    "schema_nested_very_deeply",
    REFUSED,
    footer={
        2: [{4: b"schema", 5: 1}, *[{3: 1, 4: b"g", 5: 1}] * 200_000, {1: FLOAT, 3: 0, 4: b"y"}]
    },
)
hand("a_name_that_is_not_utf8", REFUSED, schema={4: b"a\xff"}, meta={3: [b"a\xff"]})
hand("no_name", TYPED, schema={4: None}, meta={3: [b""]})
hand("groups_without_chunks", REFUSED, group={1: []})
hand("no_groups", REFUSED, footer={4: [], 3: I64(0)})
hand("no_list_of_groups", REFUSED, footer={4: None})
hand("nan_as_extremes", COUNT, meta={12: {5: floats([NAN]), 6: floats([NAN])}})
hand(
    "infinity_as_extremes",
    TYPED,
    meta={12: {5: floats([float("-inf")]), 6: floats([float("inf")])}},
)
hand(
    "another_type_with_statistics",
    REFUSED,
    kind=99,
    schema={1: FLOAT},
    pages=page(floats(range(ROWS)), ROWS),
    meta={12: {5: floats([0]), 6: floats([9])}},
)
arrow("infinite", [float("inf")] * ROWS, np.full(ROWS, np.inf, "float32"))
arrow("bool_statistics", [1.0] * ROWS, np.ones(ROWS, bool))


@case(REFUSED)
def two_columns_in_the_same_bytes(path: Path) -> None:
    """`y` has the same byte range as `a`; only the offsets show it."""
    body = page(floats(range(ROWS)), ROWS)
    write(
        path,
        [
            Leaf(name="a", pages=body),
            Leaf(name="y", pages=page(floats(range(ROWS)), ROWS), meta={9: I64(4)}),
        ],
        ROWS,
    )


@case(REFUSED)
def an_empty_file(path: Path) -> None:
    path.write_bytes(b"")


@case(REFUSED)
def only_magic(path: Path) -> None:
    path.write_bytes(b"PAR1PAR1")


@case(REFUSED)
def no_columns(path: Path) -> None:
    pq.write_table(pa.table({}), path)


@case(REFUSED)
def no_rows(path: Path) -> None:
    pq.write_table(
        pa.table({"a": pa.array([], pa.float32()), "y": pa.array([], pa.float32())}), path
    )


@case([0.0] * 5 + [1.0] * 5)
def an_empty_row_group_between(path: Path) -> None:
    schema = pa.schema([("a", pa.float32()), ("y", pa.float32())])
    with pq.ParquetWriter(path, schema) as writer:
        for value, rows in ((0, 5), (0, 0), (1, 5)):
            writer.write_table(
                pa.table(
                    [
                        np.full(rows, value, "float32"),
                        np.arange(value * 5, value * 5 + rows, dtype="float32"),
                    ],
                    schema=schema,
                )
            )


@case(COUNT)
def many_row_groups(path: Path) -> None:
    pq.write_table(
        pa.table({"a": np.arange(ROWS, dtype="float32"), "y": np.arange(ROWS, dtype="float32")}),
        path,
        row_group_size=1,
    )


@case(REFUSED)
def encrypted_footer(path: Path) -> None:
    write(path, [Leaf(name="a"), Leaf(name="y")], ROWS)
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


@case(REFUSED)
def a_bomb_of_one_page(path: Path) -> None:
    """Like large_string_map.brotli: a few bytes that decode to many."""
    body = pa.compress(bytes(2**26), "brotli", asbytes=True)
    write(
        path,
        [
            Leaf(name="a", codec=BROTLI, pages=page(b"", ROWS, stored=body, size=2**26)),
            Leaf(name="y"),
        ],
        ROWS,
    )
