"""Why nothing can be learned from the columns that `inspect` describes, or from so few rows."""

import shlex
from collections.abc import Mapping
from typing import Any

from streamtrain.base.words import plural
from streamtrain.errors import shown
from streamtrain.plan.holdout import FEWEST_ROWS
from streamtrain.storage.column_choice import constants_text


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
    empty = [column["name"] for column in columns if column["nulls"] == rows]
    if target["name"] in empty:
        return (
            f"{url}: the target, {target['name']!r}, has no value in any of {plural(rows, 'row')}."
            " Choose another with --target."
        )
    usable = rows - (target["nulls"] or 0)
    if usable < 2:
        return too_few(url, usable, "with a target")
    if empty:
        left = [column["name"] for column in features if column["name"] not in empty]
        cure = f"--features {shlex.quote(','.join(left))}" if left else "other --features"
        return f"{url}: no value in {', '.join(map(shown, empty))}. Leave them out: {cure}."
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
