"""What more rows than a sweep used would change: the fastest size by rows, in words."""

from streamtrain.report.analysis import Summary
from streamtrain.report.number_format import interval_text, size_text

#: A prediction that excludes the recommended size by this factor is a warning.
FAR = 2.0


def more_rows_text(summary: Summary) -> str:
    """Return the fastest size by rows, and for all rows where it is predicted; else nothing."""
    found = summary.more_rows
    if found is None:
        return ""
    sizes = ", ".join(
        f"{_size(size)} with {int(rows):,} rows" for rows, size in found.fastest.items()
    )
    factor = interval_text(found.per_doubling, "{:.2f}".format)
    text = (
        f"fastest: {sizes} (× {factor} per doubling of the rows). The rungs before the last predict"
        f" {interval_text(found.expected, _size)} for it"
    )
    if not found.is_confirmed:
        return f"{text}, which is wrong: the size for more rows is not predicted"
    if found.predicted.value is None:
        return text
    return f"{text}. For all {found.epoch_rows:,} rows: {interval_text(found.predicted, _size)}"


def far_prediction(summary: Summary) -> str:
    """Return a warning where all rows need quite another size than the recommended; else nothing.

    The interval of the prediction must exclude every size within a factor of `FAR` of it.
    """
    found, size = summary.more_rows, summary.recommendation.batch_size
    if found is None or size is None or found.predicted.lo is None or found.predicted.hi is None:
        return ""
    if found.predicted.lo <= FAR * size and found.predicted.hi >= size / FAR:
        return ""
    predicted = interval_text(found.predicted, _size)
    return (
        f"{size_text(size)} is the fastest for {max(map(int, found.fastest)):,} rows. For all"
        f" {found.epoch_rows:,} the fastest is predicted to be {predicted}."
        " A longer sweep would measure it."
    )


def _size(value: float) -> str:
    """Format a size between those tried with two digits.

    >>> _size(47.3), _size(1234.5), _size(3.2), _size(1e9), _size(0.2)
    ('47', '1,200', '3.2', '1,000,000,000', '0.2')
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
