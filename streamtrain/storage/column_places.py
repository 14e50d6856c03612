"""Columns that are not features or targets unless they are named, by their place in a table.

pandas stores its index as columns, last; Zarr groups list their arrays by name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from streamtrain.base.caller import warn_caller
from streamtrain.errors import DataError, shown
from streamtrain.storage.notices import warn_of_columns_aside
from streamtrain.types import Column

_LEVEL = re.compile(r"__index_level_\d+__")


def mark_index(
    columns: Sequence[Column], metadata: Mapping[bytes, bytes] | None
) -> tuple[Column, ...]:
    """Return the columns, with those marked that are the index of a pandas table.

    `metadata`: of the Arrow schema or of the Parquet footer. It may be damaged: then only the names
    that pandas gives to an index without one tell.
    """
    names = _index_names(metadata or {})
    return tuple(
        replace(column, place="index")
        if column.name in names or _LEVEL.fullmatch(column.name)
        else column
        for column in columns
    )


def _index_names(metadata: Mapping[bytes, bytes]) -> set[str]:
    if b"pandas" not in metadata:
        return set()
    try:
        document: Any = json.loads(metadata[b"pandas"])
        # a RangeIndex is described by an object, and is not a column
        return {name for name in document["index_columns"] if isinstance(name, str)}
    except (ValueError, TypeError, KeyError, RecursionError):
        return set()


def mark_sorted(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns, marked as being in the order of their names."""
    return tuple(replace(column, place="sorted") for column in columns)


def eligible(
    columns: Sequence[Column], features: Sequence[str] | None, target: str | None, url: str
) -> tuple[Column, ...]:
    """Return the columns among which the target and the features are chosen where none are named.

    An index is left out unless it is named, with a warning where it would have been chosen. So is
    what is stored aside, such as an array of another length.

    Raises DataError when no target is named and the columns are sorted by name, so that the last of
    them is the target by chance only.
    """
    named = {*(features or ()), target}
    if features is None:
        warn_of_columns_aside(url, [column for column in columns if column.name not in named])
    columns = [column for column in columns if not column.aside or column.name in named]
    if target is None and len(columns) > 1 and any(column.place == "sorted" for column in columns):
        names = ", ".join(shown(column.name) for column in columns[:8])
        more = f" and {len(columns) - 8:,} more" if len(columns) > 8 else ""
        raise DataError(
            f"{url}: its columns are stored in no order (a Zarr group without the attribute"
            f" `columns`), so none of them is the target. Name one with --target: {names}{more}."
        )
    index = [column for column in columns if column.place == "index" and column.name != target]
    if not index or len(index) == len(columns):
        return tuple(columns)
    unused = [column for column in index if column.name not in (features or ())]
    if unused and (features is None or (target is None and columns[-1] in unused)):
        names = ", ".join(shown(column.name) for column in unused)
        warn_caller(
            f"{url}: left out {names}: the index of the pandas table that was written. Name it with"
            " --features or --target to use it."
        )
    return tuple(column for column in columns if column not in index)
