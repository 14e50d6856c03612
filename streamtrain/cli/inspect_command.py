"""`streamtrain inspect`."""

import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from streamtrain.base.units import format_bytes
from streamtrain.base.words import aligned
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import (
    DataPath,
    Features,
    Output,
    StorageOption,
    Target,
    TextFlags,
    as_words,
    column_names,
    reading,
)
from streamtrain.cli.terminal import plain_warnings, show
from streamtrain.config import DEFAULT_BUDGET
from streamtrain.errors import ConfigError, DataError

#: Format → what its spans are.
_SPANS = {"parquet": "row groups", "zarr": "chunks"}

#: Columns of each use that the page lists.
_MOST_COLUMNS = 30


def inspect(
    data: DataPath,
    /,
    *,
    target: Target = None,
    features: Features = None,
    storage_option: StorageOption = None,
    texts: TextFlags = TextFlags(),
    output: Output = Output(),
) -> int:
    """Describe a table: its columns and their use, its layout, and what a sweep would try.

    Footers and the first rows are read, also eight row groups of a table larger than a window, and
    all of a small table whose footers have no statistics. The exit code is 3 if a sweep would
    refuse the columns or could learn nothing from them; `problem` in the output is the cause.
    """
    from streamtrain.run.row_order import row_order
    from streamtrain.science.span_variation import is_unlike, unlike_text
    from streamtrain.storage.column_choice import usable_columns
    from streamtrain.storage.dataset import bind_columns, find_shards
    from streamtrain.storage.inspect import inspect as describe
    from streamtrain.storage.inspect import null_policy, sparse_features
    from streamtrain.storage.remote.store_options import make_storage

    names, problem = column_names(features), ""
    with plain_warnings(quiet=output.quiet):
        storage = replace(make_storage(storage_options(storage_option)), reading=reading(texts))
        found = find_shards(data, storage=storage)
        present = found.table or found.shards[0].columns
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")  # the table says what is left out
                dataset = bind_columns(found, features=names, target=target)
        except (ConfigError, DataError) as error:
            usable = usable_columns(present)
            if names is not None or target is not None or len(usable) < 2:
                for warning in caught:  # as there is no table
                    warnings.warn(warning.message, stacklevel=1)
                raise
            problem = str(error)
            dataset = bind_columns(found, features=usable[:-1], target=usable[-1])
        document = describe(dataset, table=found.table)
        order = None if document["shuffle_seed"] is not None else row_order(dataset)
    if problem:
        for column in document["columns"]:
            column["role"] = "number"
    document |= {"problem": problem or document["problem"], "order": order and asdict(order)}
    if order is not None and is_unlike(order):
        document["advice"].insert(0, f"{unlike_text(order)} `streamtrain ingest` shuffles them.")
    words = ["streamtrain", "sweep", data]
    words += ["--target", target] if target is not None else []
    if features is None and (sparse := sparse_features(document)):
        features = _names_without(document, sparse)
    words += ["--features", features] if features is not None else []
    words += as_words(texts)
    policy = null_policy(document)  # without one, the sweep would end at the first null
    words += ["--on-null", policy] if policy else []
    show(page(document, shlex.join(words)), document, as_json=output.json)
    return DataError.exit_code if document["problem"] else 0


def _names_without(document: Mapping[str, Any], left_out: Sequence[str]) -> str | None:
    """Return the other features as `--features` takes them; None where it cannot."""
    from streamtrain.storage.nothing_to_learn import features_text

    *features, _ = document["columns"]
    names = [column["name"] for column in features if column["name"] not in left_out]
    return features_text(names)


def page(document: Mapping[str, Any], command: str) -> str:
    """Return the columns, the layout, what `command` (a sweep) would try, and the advice."""
    parts = (
        aligned(_columns(document), right=frozenset({3, 4, 5})) + _more_columns(document),
        aligned(_facts(document)),
        _next(document, command),
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
    if order := _order(document):
        facts["order"] = order
    if truth:
        facts["truth"] = f"{truth['kind']}: the best possible loss is {truth['best_loss']:.6g}"
    return [[name, value] for name, value in facts.items()]


def _order(document: Mapping[str, Any]) -> str:
    """Return what is known of the order of the rows; empty where nothing is."""
    if document["shuffle_seed"] is not None:
        return f"shuffled by ingest (seed {document['shuffle_seed']})"
    if document["order"] is None:
        return ""
    from streamtrain.records import SpanVariation
    from streamtrain.science.span_variation import is_unlike

    unlike = is_unlike(SpanVariation(**document["order"]))
    return "not random" if unlike else "like random order, by the spans that were read"


def _range(sizes: Mapping[str, float]) -> str:
    """Return one size, or `min … median … max`."""
    if sizes["min"] == sizes["max"]:
        return f"{sizes['max']:,}"
    return f"{sizes['min']:,} … {sizes['median']:,.0f} … {sizes['max']:,}"


def _columns(document: Mapping[str, Any]) -> list[list[str]]:
    rows = [["column", "use", "type", "nulls", "min", "max", "first rows"]]
    rows += [
        [
            column["name"],
            column["role"],
            column["stored_type"],
            _nulls(column["nulls"]),
            *_extremes(column["min"], column["max"]),
            ", ".join("null" if value is None else f"{value:.6g}" for value in column["sample"]),
        ]
        for column in _shown_columns(document)
    ]
    rows += [
        [
            column["name"],
            "left out",
            column["stored_type"],
            _nulls(column["nulls"]),
            column["min"] or "?",
            column["max"] or "?",
            column["reason"],
        ]
        for column in document["left_out"][:_MOST_COLUMNS]
    ]
    return rows


def _shown_columns(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The first features and the target."""
    *features, target = document["columns"]
    return [*features[: _MOST_COLUMNS - 1], target]


def _more_columns(document: Mapping[str, Any]) -> str:
    features = max(0, len(document["columns"]) - _MOST_COLUMNS)
    others = max(0, len(document["left_out"]) - _MOST_COLUMNS)
    texts = [f"{features:,} more features"] if features else []
    texts += [f"{others:,} more that are left out"] if others else []
    return f"\nand {' and '.join(texts)}; --json lists all" if texts else ""


def _next(document: Mapping[str, Any], command: str) -> str:
    if document["problem"]:
        return f"problem  {document['problem']}"
    sizes = ", ".join(f"{size:,}" for size in document["batch_sizes"])
    return (
        f"Next: {command}\nIt compares the minibatch sizes {sizes} and, where the fastest is at an"
        f" end, one beyond it, in at most {DEFAULT_BUDGET:.0f} s (--budget), and names the fastest."
    )


def _nulls(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _extremes(low: float | None, high: float | None) -> tuple[str, str]:
    """Format extremes with six digits, or twelve where six would not tell them apart."""
    if low is None or high is None:
        return _six_digits(low), _six_digits(high)
    if low != high and _six_digits(low) == _six_digits(high):
        return f"{low:.12g}", f"{high:.12g}"
    return _six_digits(low), _six_digits(high)


def _six_digits(value: float | None) -> str:
    return "?" if value is None else f"{value or 0.0:.6g}"


def _advice(document: Mapping[str, Any]) -> str:
    return "\n".join(f"- {sentence}" for sentence in document["advice"])
