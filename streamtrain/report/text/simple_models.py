"""Warnings from the losses of the best constant and of the best linear model."""

from collections.abc import Iterator, Sequence

from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.number_format import loss_text
from streamtrain.report.text.overtrained import overtrained_text
from streamtrain.report.text.recommendation import has_constant_target
from streamtrain.science.intervals import value_of

#: A smallest loss within this fraction of the best constant's is warned about; a choice of this
#: project.
_LITTLE_LEARNED = 0.01


def of_simple_models(analysis: Analysis) -> Iterator[tuple[str, str | None]]:
    """Yield warnings, each with the flag that helps, where simple models do as well or better."""
    summary, smallest = analysis.summary, smallest_loss(analysis.summary)
    if smallest is None:
        return
    if has_constant_target(analysis.run):
        yield "The target is constant: there is nothing to learn.", "--target"
        return
    constant = value_of(summary.best_constant_loss)
    linear = value_of(summary.best_linear_loss)
    none_is_better = "The model is not" if summary.verb == "train" else "No size is"
    if constant is not None and smallest >= constant:
        text = (
            f"{none_is_better} better than the best constant: nothing was learned from these"
            " features."
        )
        yield text, "--features"
    elif constant is not None and smallest > (1 - _LITTLE_LEARNED) * constant:
        text = (
            f"The smallest loss, {loss_text(smallest)}, is hardly below that of always predicting"
            f" the mean, {loss_text(constant)}: these features say little about the target."
        )
        yield text, "--features"
    if exact := analysis.run.baseline.exact_features:
        text = (
            f"A linear model of {_listed(exact)} gives the target exactly: no size can do better."
            " If they are parts of the target, leave them out."
        )
        yield text, "--features"
    elif near := analysis.run.baseline.near_features:
        by = f"{'each of ' if len(near) > 1 else ''}{_listed(near)}"
        text = (
            f"Over 99.9 % of the target's variance is explained by {by} alone. Leave out what is"
            " known only together with the target."
        )
        yield text, "--features"
    elif linear is not None and smallest > linear:
        text = f"{none_is_better} better than the best linear model (loss {loss_text(linear)})."
        yield text, None if overtrained_text(analysis.run) else "--max-rows"


def smallest_loss(summary: Summary) -> float | None:
    """Return the smallest held-out loss of any size; None where none is known."""
    losses = [cell.holdout_loss.value for cell in summary.cells]
    return min((loss for loss in losses if loss is not None), default=None)


def _listed(names: Sequence[str]) -> str:
    """Join names, three at most."""
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
