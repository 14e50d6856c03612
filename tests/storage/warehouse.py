"""Tables of a warehouse, written by hand or by their own libraries, for the tests beside it."""

import base64
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.write.ingest import ingest


def columns_of(x: Sequence[float], **others: Sequence[Any]) -> pa.Table:
    """A table of x, its other columns, and y = 10 x, so that every row says which it is."""
    return pa.table({"x": pa.array(x, pa.float64()), **others, "y": [10.0 * v for v in x]})


def ingested(source: str | Path, out: Path, **options: Any) -> dict[str, list[float]]:
    """The values of each column of a source after `ingest`, rows in order of the target."""
    return rows_of(ingest(str(source), out, **options).url)


def rows_of(path: str | Path) -> dict[str, list[float]]:
    dataset = open_shards(str(path))
    readers = Readers(dataset)
    parts = [readers.read(i, 0, shard.num_rows) for i, shard in enumerate(dataset.shards)]
    values = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(values[-1])
    return {
        name: column[order].tolist() for name, column in zip(dataset.columns, values, strict=True)
    }


def write_bare(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns_of([1.0, 2.0]), path)
    return path


def bare_delta(root: Path) -> Path:
    """A Delta table without its library: one live file in a partition, one removed file."""
    for name in ("day=1/live.parquet", "day=1/gone.parquet"):
        write_bare(root / name)
    (root / "_delta_log").mkdir()
    actions = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"add": {"path": "day=1/live.parquet"}},
        {"remove": {"path": "day=1/gone.parquet"}},
    ]
    log = root / "_delta_log" / f"{0:020}.json"
    log.write_text("\n".join(map(json.dumps, actions)))
    return root


def bare_iceberg(root: Path) -> Path:
    write_bare(root / "data" / "a.parquet")
    (root / "metadata").mkdir()
    (root / "metadata" / "v1.metadata.json").write_text('{"format-version": 2}')
    return root


def bare_hudi(root: Path) -> Path:
    write_bare(root / "day=1" / "a.parquet")
    (root / ".hoodie").mkdir()
    (root / ".hoodie" / "hoodie.properties").write_text("hoodie.table.name=t\n")
    return root


BARE: dict[str, Callable[[Path], Path]] = {
    "Delta": bare_delta,
    "Iceberg": bare_iceberg,
    "Hudi": bare_hudi,
}


def edit_log(root: Path, version: int, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the actions of one version of a Delta table."""
    log = root / "_delta_log" / f"{version:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        edit(action)
    log.write_text("\n".join(map(json.dumps, actions)))


def deletion_vector(rows: Sequence[int]) -> dict[str, Any]:
    """An inline deletion vector (Delta's protocol, "Deletion Vector Format")."""
    import pyroaring

    content = struct.pack("<I", 1681511377) + pyroaring.BitMap64(rows).serialize()
    padded = content + b"\0" * (-len(content) % 4)
    python = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return {
        "storageType": "i",
        "pathOrInlineDv": base64.b85encode(padded).decode().translate(str.maketrans(python, z85)),
        "sizeInBytes": len(content),
        "cardinality": len(rows),
    }
