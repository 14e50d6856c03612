"""The JSON form of the landmarks and laws, as `summary.json` has it.

Keys differ from the names of fields in `landmarks`, `steps_law` and `throughput`; the return types
of `to_json` there say that both agree. `report.summary_schema` describes keys with these texts.
"""

from typing import Annotated, TypedDict

from streamtrain.records import WrittenAs
from streamtrain.science.intervals import Estimate
from streamtrain.types import Json

EstimateJson = Annotated[Json, WrittenAs(Estimate)]


class LawsJson(TypedDict):
    """Steps S = S_min(1 + B_crit/B) and seconds of a step alpha + beta B, fitted.

    None where the run cannot tell.

    Attributes:
        alpha_seconds: Seconds that a step takes at any size.
        beta_seconds_a_row: Seconds that each row adds to a step.
        rows_per_second: Rows per second that the stream delivers alone.
        overlap: gamma of a step's seconds (t_c^gamma + t_io^gamma)^(1/gamma), fitted to the
            confirmations; None as value: whole overlap, n 0: not fitted.
        kink: The crossover: the size from which delivery is slower than the step.
        free_batch_size: sqrt(B_crit alpha/beta): the optimum if delivery were free.
        best_batch_size: The size with the fewest seconds to the target by these laws.
        best_seconds: Those seconds; None, as the two above, where B_crit is not determined.
        steps_min: The steps to the target of an infinitely large minibatch.
        critical_batch_size: B_crit: where rows and steps are both twice their least.
        misfit: Root mean square residual of log steps; 0.1 is 10 % off.
    """

    alpha_seconds: EstimateJson | None
    beta_seconds_a_row: EstimateJson | None
    rows_per_second: EstimateJson | None
    overlap: EstimateJson | None
    kink: EstimateJson | None
    free_batch_size: EstimateJson | None
    best_batch_size: EstimateJson | None
    best_seconds: EstimateJson | None
    steps_min: EstimateJson | None
    critical_batch_size: EstimateJson | None
    misfit: float | None


class GoodputJson(TypedDict):
    """The goodput of one size.

    Attributes:
        batch_size: Rows of a minibatch.
        rows_per_second: Rows per second times 1/(1 + B/B_crit).
    """

    batch_size: int
    rows_per_second: float


class GrowthJson(TypedDict):
    """B_crit along the run, from stretches of the loss.

    Attributes:
        losses: Ends of the stretches.
        local_critical: B_crit of each stretch, in rows.
        growth: Last over first.
        gamma: 1 - gamma: the fraction of rows that a growing minibatch could save at most.
        doublings: How many times a growing minibatch would double; 0 where B_crit grew no more
            than 4 times.
    """

    losses: list[float]
    local_critical: list[float]
    growth: EstimateJson
    gamma: float
    doublings: int


class StabilityJson(TypedDict):
    """Mean-square stability of plain SGD on a linear model of these features, taken as Gaussian.

    Attributes:
        eigenvalues: Those of the features' correlations, then 1 for the bias.
        batch_sizes: The sizes of the run, ascending.
        lrs: The largest stable learning rate of each size.
    """

    eigenvalues: list[float]
    batch_sizes: list[int]
    lrs: list[float]


class LandmarksJson(TypedDict):
    """Notable sizes besides the recommended one.

    Attributes:
        laws: The laws that they follow from.
        fewest_rows: The size that reached the target in the fewest rows.
        fewest_rows_tied: Sizes that are not shown to need more rows.
        fewest_steps: The smallest size tried within 10 % of S_min, or of the fewest steps where
            S_min is not determined; None where none is.
        steps_10: 10 B_crit: the size within 10 % of S_min by the law; None where B_crit is not
            determined: without a fit, or where its interval spans more than a factor of 100.
        overhead_20: 0.2 B_crit: the size that wastes 20 % of its rows; None as steps_10 is.
        goodput: Rows per second times 1/(1 + B/B_crit), by size; empty where steps_10 is None.
        growth: B_crit along the run; None where it cannot be told.
        stability: The largest stable learning rates; None for optimizers other than plain SGD.
        premise: Why the recommended size lies more than 4 times from free_batch_size; None where
            it does not.
    """

    laws: LawsJson
    fewest_rows: int | None
    fewest_rows_tied: list[int]
    fewest_steps: int | None
    steps_10: float | None
    overhead_20: float | None
    goodput: list[GoodputJson]
    growth: GrowthJson | None
    stability: StabilityJson | None
    premise: str | None
