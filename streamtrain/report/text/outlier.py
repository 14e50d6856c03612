"""A held-out row that makes most of the loss: where it is, and how to leave it out."""

from pathlib import PurePosixPath

from streamtrain.base.units import format_percent
from streamtrain.records import Outlier
from streamtrain.science.run_log import Run
from streamtrain.storage.locate import LIST_SUFFIX
from streamtrain.storage.table_files import NAMED_SUFFIXES, TABLE_SUFFIXES


def outlier_text(run: Run) -> str:
    """Return the row, its column and its value in a sentence; "" where no row stands out."""
    outlier = run.baseline.outlier
    if outlier is None:
        return ""
    distance = "far"
    if outlier.deviations is not None:
        distance = f"{outlier.deviations:,.0f} standard deviations"
    return (
        f"{_row(outlier)} has {outlier.column} = {_value(outlier)}, {distance} from the other"
        f" held-out rows, and makes {format_percent(outlier.share)} of the best linear model's"
        " squared error."
    )


def outlier_flags(run: Run) -> str | None:
    """Return the flags that leave the row out; None where no row stands out.

    A value of an imported table can be declared null. Elsewhere a function has to limit the
    column.
    """
    outlier, data = run.baseline.outlier, run.header.config.get("data") or {}
    if outlier is None:
        return None
    is_imported = outlier.file is not None and outlier.file.lower().endswith(
        (*TABLE_SUFFIXES, *NAMED_SUFFIXES, LIST_SUFFIX)
    )
    if not is_imported or data.get("transform"):
        return "--transform"
    words = ",".join([*(data.get("na_values") or ()), _value(outlier)])
    policy = "" if data.get("on_null") in ("drop", "impute") else " --on-null drop"
    return f"--na-values {words}{policy}"


def outlier_advice(run: Run) -> str:
    """Return the row and what leaves it out, for a run without a recommendation; "" without one."""
    flags = outlier_flags(run)
    if flags is None:
        return ""
    return f"{outlier_text(run)} If that value is wrong, {cure(flags)}: {flags}."


def cure(flags: str) -> str:
    """Return what `outlier_flags` do, as an imperative."""
    return "limit the column with a function" if flags == "--transform" else "leave it out"


def _row(outlier: Outlier) -> str:
    if outlier.file is None or outlier.row is None:
        return "One held-out row"
    return f"Row {outlier.row:,} of {PurePosixPath(outlier.file).name}"


def _value(outlier: Outlier) -> str:
    """Return the value as a file may have it.

    >>> _value(Outlier(share=1, column="a", value=9999.0, deviations=None))
    '9999'
    """
    value = outlier.value
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
