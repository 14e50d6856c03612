"""Why nothing can be learned from the columns that `inspect` describes, or from so few rows."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.base.words import plural
from streamtrain.errors import shown
from streamtrain.plan.holdout import FEWEST_ROWS
from streamtrain.storage.column_choice import constants_text

#: The most features that a proposed command names, and the most columns that a sentence does.
MOST_FEATURES, MOST_NAMED = 30, 5


def features_text(names: Sequence[str]) -> str | None:
    """Return names as `--features` takes them.

    None where they are too many for a command, or where it would split one of them.
    """
    is_whole = all(name == name.strip() and "," not in name for name in names)
    return ",".join(names) if is_whole and len(names) <= MOST_FEATURES else None


def empty_features(document: Mapping[str, Any]) -> list[str]:
    """Return the features that have no value in any row."""
    *features, _ = document["columns"]
    return [column["name"] for column in features if column["nulls"] == document["num_rows"]]


def too_few(url: str, rows: int, which: str = "") -> str:
    """Return why so few rows of a table are refused; empty where a fifth of them is a row.

    `which`: a word on the rows that were counted.
    """
    if rows >= FEWEST_ROWS:
        return ""
    counted = f"{plural(rows, 'row')} {which}".rstrip()
    if rows < 2:
        return (
            f"{url}: {counted}: there is nothing to learn. Add rows: `train` needs {FEWEST_ROWS},"
            " and a sweep some hundreds."
        )
    return (
        f"{url}: {counted}: a fifth is held out, which takes {FEWEST_ROWS} rows. Add rows (a sweep"
        " needs some hundreds), judge on others with --eval-data, or `train` on all of them,"
        " unjudged, with --holdout 0."
    )


def nothing_to_learn(document: Mapping[str, Any]) -> str:
    """Return why a sweep could learn nothing from these columns; empty where it may.

    Columns whose nulls or extremes are not known count as usable.
    """
    url, rows, columns = document["url"], document["num_rows"], document["columns"]
    *features, target = columns
    if target["nulls"] == rows:
        return (
            f"{url}: the target, {target['name']!r}, has no value in any of {plural(rows, 'row')}."
            " Choose another with --target."
        )
    usable = rows - (target["nulls"] or 0)
    if usable < 2:
        return too_few(url, usable, "with a target")
    if empty := empty_features(document):
        left = [column["name"] for column in features if column["name"] not in empty]
        return f"{url}: no value in {_named(empty)}. Leave them out: {_cure(document, left)}."
    if target["min"] is not None and target["min"] == target["max"]:
        return (
            f"{url}: the target, {target['name']!r}, is {target['min']:.6g} in all"
            f" {plural(usable, 'row')} that have it: there is nothing to learn. Choose another with"
            " --target."
        )
    if all(column["min"] is not None and column["min"] == column["max"] for column in features):
        texts = constants_text(
            [column["name"] for column in features], [column["min"] for column in features]
        )
        return (
            f"{url}: each feature is constant: {texts}. There is nothing to learn from. Choose"
            " others with --features."
        )
    return too_few(url, rows)


def _named(columns: Sequence[str]) -> str:
    """Return the first columns, and the number of others."""
    text, others = ", ".join(map(shown, columns[:MOST_NAMED])), len(columns) - MOST_NAMED
    return f"{text} and {plural(others, 'more column')}" if others > 0 else text


def _cure(document: Mapping[str, Any], left: Sequence[str]) -> str:
    """Return how to train on the features that are `left`."""
    if not left:
        return "other --features"
    if names := features_text(left):
        return f"--features {shlex.quote(names)}"
    command = ["streamtrain", "init", document["url"], "--target", document["columns"][-1]["name"]]
    return f"`{shlex.join(command)}` writes a config with the others"
