"""Which columns of a data set are its features and its target."""

from collections import Counter
from collections.abc import Iterable, Sequence

from streamtrain.base.caller import warn_caller
from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, DataError, shown
from streamtrain.storage.datetime_values import is_part, stores_datetime
from streamtrain.storage.decode import NO_DATETIME, ONLY_NUMBERS, WRITE_NUMBERS
from streamtrain.storage.notices import FROM_GRID, is_grid, partition_cure
from streamtrain.types import Column, Shard


def candidates(
    present: Sequence[Column],
    features: Sequence[str] | None,
    target: str | None,
    url: str,
    *,
    is_imported: bool,
) -> list[str]:
    """Return the names among which columns are chosen where none are named.

    Columns that are not numbers are left out with a warning, unless all are named. So is every
    column of an imported table that its import refused. Raises DataError when the target would be
    one of them, or a date or a time.
    """
    if target is None and present and stores_datetime(present[-1].stored_type):
        raise DataError(no_target_message(url, present[-1]))
    # a column that is refused for its name or its length is an error, not one to leave out
    others = [
        column
        for column in present
        if column.decoded_type is None
        and (is_imported or column.refusal in (ONLY_NUMBERS, NO_DATETIME))
    ]
    if not others or features is not None or len(others) == len(present):
        return [column.name for column in present]
    if target is None and present[-1] in others:
        raise DataError(no_target_message(url, present[-1]))
    left_out = {column.name for column in others} - {target}
    if left_out:
        columns = [column for column in others if column.name in left_out]
        warn_caller(left_out_message(columns))
    return [column.name for column in present if column.name not in left_out]


def has_datetimes(shards: Iterable[Shard]) -> bool:
    """Return whether a shard has a date or a time among the columns that can be decoded."""
    columns = {column for shard in shards for column in shard.columns}
    return any(each.decoded_type and stores_datetime(each.stored_type) for each in columns)


#: Stored types of columns of an imported table that are refused for a text, or have no value.
TEXT_REFUSED, EMPTY = "numbers and text", "empty"

#: Columns that a message names; the others are counted.
_NAMED_COLUMNS = 8


def usable_columns(present: Sequence[Column]) -> list[str]:
    """Return the names of the columns that can be decoded and occur once."""
    counts = Counter(column.name for column in present)
    return [
        column.name
        for column in present
        if column.decoded_type is not None and counts[column.name] == 1
    ]


def no_target_message(url: str, column: Column) -> str:
    """Return the error message for a last column that cannot be the target."""
    why = _why(column)
    fault = f"cannot be the target: {why}"
    if why == column.stored_type:
        fault = f"has type {why}: it cannot be the target"
    return f"{url}: the last column, {column.name!r}, {fault}. Name one with --target."


def no_numbers_message(url: str, present: Sequence[Column]) -> str:
    """Return the error message for a table none of whose columns can be decoded."""
    found = f": it has {_names_and_types(present)}" if present else ""
    return (
        f"{url}: no numeric column{found}. A data set needs a target and at least one feature."
        f"{_datetime_hint(present)}"
    )


def left_out_message(columns: Sequence[Column]) -> str:
    """Return the warning that columns are left out because they cannot be decoded."""
    names = _names_and_types(columns)
    if all(column.refusal == NO_DATETIME for column in columns):
        remedy = "Give --datetime epoch or --datetime parts to use them"
    else:
        remedy = f"To use a column, {WRITE_NUMBERS}"
        if any(column.refusal == NO_DATETIME for column in columns):
            remedy += "; --datetime epoch or parts makes numbers of dates and times"
    return f"left out, since they are not numbers: {names}. {remedy}."


def _names_and_types(columns: Sequence[Column]) -> str:
    names = [f"{shown(column.name)} ({_why(column)})" for column in columns[:_NAMED_COLUMNS]]
    if len(columns) > _NAMED_COLUMNS:
        names.append(f"and {len(columns) - _NAMED_COLUMNS:,} more")
    return ", ".join(names)


def _why(column: Column) -> str:
    """Return the type of a column, or why it is refused where that is not its type."""
    if column.refusal in ("", ONLY_NUMBERS, NO_DATETIME):
        return column.stored_type
    return column.refusal


def choose_columns(
    names: Sequence[str],
    features: Sequence[str] | None,
    target: str | None,
    url: str,
    *,
    present: Sequence[Column],
) -> tuple[str, ...]:
    """Return the features in order, then the target.

    The target defaults to the last of `names`, the features to all others. `present` are all
    columns of the table; `url` is named in errors.

    Raises DataError when the data set has no suitable columns, and ConfigError when the choice
    contradicts itself.
    """
    if not names:
        raise DataError(no_numbers_message(url, present))
    repeated = [name for name in _repeated(names) if name != target]
    if repeated and (features is None or (target is None and names[-1] in repeated)):
        raise DataError(repeated_names_message(url, repeated))
    target = names[-1] if target is None else target
    features = [name for name in names if name != target] if features is None else list(features)
    if target in features:
        raise ConfigError(
            f"{target!r} is the target and also a feature. Leave it out of --features, or choose"
            " another --target."
        )
    if repeated := _repeated(features):
        raise ConfigError(
            f"--features names {', '.join(map(repr, repeated))} twice. Name every feature once."
        )
    if not features and target in names:
        only = "its only column" if len(present) == 1 else "its only column of numbers"
        raise DataError(
            f"{url}: {target!r} is {only}. A data set needs a target and at least one feature."
            f"{_datetime_hint(present)}"
        )
    return (*features, target)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def repeated_names_message(url: str, names: Sequence[str]) -> str:
    """Return the error message for columns that share a name."""
    return (
        f"{url}: several columns have the same name: {', '.join(map(repr, names))}. Rename them, or"
        " choose others with --features and --target."
    )


def _datetime_hint(present: Sequence[Column]) -> str:
    """Return how dates and times that are left out become features; "" where there are none."""
    dates = [shown(column.name) for column in present if column.refusal == NO_DATETIME]
    if not dates:
        return ""
    return f" --datetime epoch or --datetime parts makes features of {', '.join(dates)}."


def missing_column_message(name: str, present: Sequence[Column]) -> str:
    """Return the error message for a column that is not `present`."""
    printable = [shown(column.name) for column in present]
    parts = [
        shown(column.name)
        for column in present
        if column.name.startswith(f"{name}_") and is_part(column.stored_type)
    ]
    hint = did_you_mean(name, printable)
    if parts:
        hint = f" --datetime parts made {', '.join(parts)} of it: name those."
    return f"no column {name!r}.{hint} It has {', '.join(printable)}."


def constants_text(names: Sequence[str], values: Iterable[float]) -> str:
    """Return constant columns as `name = value`; of many columns, the first few."""
    texts = [f"{shown(name)} = {value:.6g}" for name, value in zip(names, values, strict=False)]
    more = f", and {len(texts) - _NAMED_COLUMNS:,} more" if len(texts) > _NAMED_COLUMNS else ""
    return ", ".join(texts[:_NAMED_COLUMNS]) + more


def column_problems(present: Sequence[Column], columns: Sequence[str], url: str) -> list[str]:
    """Return a sentence for each of `columns` that the shard lacks or that cannot be decoded."""
    by_name = {column.name: column for column in present}
    problems = []
    for name in columns:
        column = by_name.get(name)
        if column is None:
            problems.append(missing_column_message(name, present) + _partition_hint(url, name))
        elif column.decoded_type is None:
            fault = f"has type {column.stored_type}: {column.refusal}"
            if is_grid(column):
                problems.append(f"column {name!r} {fault}. {FROM_GRID}.")
                continue
            cures = []
            if (count := sum(other.name == name for other in present)) > 1:
                fault = f"is not one column: {count} have this name"
                cures.append("rename them")
            if numeric := [other.name for other in present if other.decoded_type is not None]:
                choices = ", ".join(map(shown, numeric))
                cures.append(f"choose among {choices} with --features and --target")
            cure = ", or ".join(cures) or "write it as numbers"
            problems.append(f"column {name!r} {fault}. {cure[0].upper()}{cure[1:]}.")
    return problems


def _partition_hint(url: str, name: str) -> str:
    """Return a hint when a missing column is a Hive partition, else nothing.

    Its values are in the names of folders, not in the files.
    """
    if f"/{name}=" not in url:
        return ""
    folders = url.split("/")[:-1]
    first = next(number for number, folder in enumerate(folders) if "=" in folder)
    names = [folder.partition("=")[0] for folder in folders[first:] if "=" in folder]
    cure = partition_cure("/".join(folders[:first]), names)
    return f" It is a Hive partition, which is not read. {cure}"
