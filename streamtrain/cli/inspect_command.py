"""`streamtrain inspect`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from streamtrain.base.units import format_bytes
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import (
    DataPath,
    Features,
    Output,
    StorageOption,
    Target,
    TextFlags,
    column_names,
    reading,
)
from streamtrain.cli.terminal import plain_warnings, show, table

#: Format → what its spans are.
_SPANS = {"parquet": "row groups", "zarr": "chunks"}


def inspect(
    data: DataPath,
    /,
    *,
    target: Target = None,
    features: Features = None,
    storage_option: StorageOption = None,
    texts: TextFlags = TextFlags(),
    output: Output = Output(),
) -> None:
    """Describe a data set and its layout, with advice; reads footers only."""
    from streamtrain.storage.dataset import open_shards
    from streamtrain.storage.inspect import inspect as describe
    from streamtrain.storage.remote.filesystem import make_storage

    with plain_warnings(quiet=output.quiet):
        document = describe(
            open_shards(
                data,
                features=column_names(features),
                target=target,
                storage=replace(
                    make_storage(storage_options(storage_option)), reading=reading(texts)
                ),
            )
        )
    show(page(document), document, as_json=output.json)


def page(document: Mapping[str, Any]) -> str:
    """Return the facts, the table of columns and the advice."""
    parts = (
        table(_facts(document)),
        table(_columns(document), right=frozenset({3, 4, 5})),
        _advice(document),
    )
    return "\n\n".join(part for part in parts if part)


def _facts(document: Mapping[str, Any]) -> list[list[str]]:
    dictionary = ", dictionary" if document["dictionary"] else ""
    truth = document["truth"]
    facts = {
        "data": document["url"],
        "rows": f"{document['num_rows']:,}",
        "shards": (
            f"{document['num_shards']:,} ({document['format']}), of"
            f" {_range(document['shard_rows'])} rows"
        ),
        "spans": (
            f"{document['num_spans']:,} ({_SPANS[document['format']]}), of"
            f" {_range(document['span_rows'])} rows"
        ),
        "stored": (
            f"{format_bytes(document['stored_bytes'])} ({', '.join(document['codec'])}{dictionary})"
        ),
        "decoded": f"{format_bytes(document['decoded_bytes'])} ({document['decoded_type']})",
        "integrity": document["integrity"],
        "fingerprint": document["fingerprint"],
    }
    if truth:
        facts["truth"] = f"{truth['kind']}: the best possible loss is {truth['best_loss']:.6g}"
    return [[name, value] for name, value in facts.items()]


def _range(sizes: Mapping[str, float]) -> str:
    """Return one size, or `min … median … max`."""
    if sizes["min"] == sizes["max"]:
        return f"{sizes['max']:,}"
    return f"{sizes['min']:,} … {sizes['median']:,.0f} … {sizes['max']:,}"


def _columns(document: Mapping[str, Any]) -> list[list[str]]:
    rows = [["column", "role", "type", "nulls", "min", "max"]]
    for column in document["columns"]:
        nulls = "?" if column["nulls"] is None else f"{column['nulls']:,}"
        rows.append(
            [
                column["name"],
                column["role"],
                column["stored_type"],
                nulls,
                *_extremes(column["min"], column["max"]),
            ]
        )
    return rows


def _extremes(low: float | None, high: float | None) -> tuple[str, str]:
    """Format extremes with six digits, or twelve where six would not tell them apart."""
    if low is None or high is None:
        return _six_digits(low), _six_digits(high)
    if low != high and _six_digits(low) == _six_digits(high):
        return f"{low:.12g}", f"{high:.12g}"
    return _six_digits(low), _six_digits(high)


def _six_digits(value: float | None) -> str:
    return "?" if value is None else f"{value:.6g}"


def _advice(document: Mapping[str, Any]) -> str:
    return "\n".join(f"- {sentence}" for sentence in document["advice"])
