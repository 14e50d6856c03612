"""A training whose held-out loss rose again: from which rows on, and where the better model is."""

import math

from streamtrain.report.number_format import loss_text
from streamtrain.science.run_log import Run

#: A last loss more than this many times the smallest is warned about. The smallest of many noisy
#: losses is below the last one by chance too; a choice of this project.
_ROSE = 1.1


def overtrained_text(run: Run) -> tuple[str, str] | None:
    """Return the warning that `train` went on too long, and the flag that ends it in time.

    None for a sweep, where nothing was held out, and where the loss did not rise noticeably.
    """
    curves = [curve for trials in run.curves.values() for curve in trials.values()]
    if run.header.verb != "train" or not run.has_holdout or len(curves) != 1:
        return None
    (curve,) = curves
    pairs = zip(curve.rows, curve.holdout_loss, strict=True)
    seen = [(loss, rows) for rows, loss in pairs if rows and math.isfinite(loss)]
    last = curve.final(curve.holdout_loss)
    if not seen or not _ROSE * min(seen)[0] < last < math.inf:
        return None
    smallest, rows = min(seen)
    text = (
        f"The held-out loss was {loss_text(smallest)} after {rows:,} rows and rose to"
        f" {loss_text(last)} after {curve.rows[-1]:,}: this model fits its training rows too"
        " closely."
    )
    if run.sync is None:  # not every way of sharing a run among workers keeps it
        text += " The folder best has the model of the smallest loss."
    return text, f"--max-rows {rows}"
