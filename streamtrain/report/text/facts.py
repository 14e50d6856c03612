"""The facts next to the charts: `(name, text)` pairs for the page and for `report.md`."""

from collections.abc import Iterator

from streamtrain.base.units import format_count, format_percent, format_seconds
from streamtrain.report.analysis import Analysis, Summary, estimate_of, section
from streamtrain.report.measure_data import is_without_bounds
from streamtrain.report.number_format import (
    cell_size_text,
    interval_text,
    loss_text,
    rate_text,
    seconds_text,
    size_text,
    times_text,
)
from streamtrain.report.text.more_rows import more_rows_text
from streamtrain.science.intervals import LOWER_BOUND, Estimate
from streamtrain.science.landmarks import Landmarks, Laws
from streamtrain.science.steps_law import LocalGrowth, StepsLaw
from streamtrain.science.throughput import ThroughputLaw
from streamtrain.types import Json

Facts = list[tuple[str, str]]
FactIterator = Iterator[tuple[str, str]]
#: A step that waits for no more than this fraction of the time hardly waits.
_HARDLY = 0.05


def speed_facts(analysis: Analysis) -> Facts:
    """Return the law of a step's time, the delivery rate, the crossover and the bottleneck."""
    summary, law = analysis.summary, analysis.landmarks.laws.throughput
    facts: Facts = []
    if law.alpha_seconds and law.beta_seconds_per_row:
        alpha = interval_text(law.alpha_seconds, format_seconds)
        beta = interval_text(law.beta_seconds_per_row, _nanoseconds, " per row")
        facts.append(("a step of B rows takes", f"α + βB: α = {alpha} and β = {beta}"))
    if law.delivery_rate and law.delivery_rate.value:
        rate = interval_text(law.delivery_rate, format_count, " rows/s")
        facts.append(("the stream delivers", rate))
    if law.alpha_seconds and law.beta_seconds_per_row:
        facts.append(("reading is the limit", _crossover(summary, law)))
    if text := _overlap(law.overlap):
        facts.append(("reading and computing overlap", text))
    if text := bottleneck(summary):
        facts.append(("bottleneck", text))
    return facts


def _crossover(summary: Summary, law: ThroughputLaw) -> str:
    """Return the size from which delivery is slower than the step, or that there is none."""
    if law.crossover_batch_size and law.crossover_batch_size.value:
        return f"from B = {interval_text(law.crossover_batch_size, _rows)}"
    never = "at no size: the step is always slower than delivery"
    if any((cell.wait_fraction.value or 0) > _HARDLY for cell in summary.cells):
        never += "; it waits because reading uses the same CPU cores"
    return never


def bottleneck(summary: Summary) -> str:
    """Return the bottleneck of a run at the recommended size, or else at the fastest one."""
    speeds = [(cell.rows_per_second.value, cell) for cell in summary.cells]
    timed = [(speed, cell) for speed, cell in speeds if speed]
    if not timed:
        return ""
    cell = max(timed, key=lambda pair: pair[0])[1]
    if summary.recommended_cell and summary.recommended_cell.rows_per_second.value:
        cell = summary.recommended_cell
    waits = cell.wait_fraction.value
    size = cell_size_text(cell.batch_size, summary.sizes_used)
    if waits is None:
        return ""
    share = format_percent(waits)
    if waits > 0.5:
        return f"reading: at {size} the step waits for rows {share} of the time"
    if waits > _HARDLY:
        return f"both: at {size} the step takes most of the time, and waits for rows {share} of it"
    return f"the training step: at {size} it hardly waits for rows ({share})"


def _overlap(overlap: Estimate | None) -> str:
    """Return γ of (t_c^γ + t_io^γ)^(1/γ), fitted to the confirmations."""
    if overlap is None or not overlap.n:
        return ""
    if overlap.value is None:
        return "completely (γ = ∞)"
    return f"γ = {interval_text(overlap, _four)} (1: not at all, ∞: completely)"


def confirmation_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Return `(size, predicted, measured, measured / predicted)` of the confirmed sizes."""
    return [
        (
            size_text(confirmation.batch_size),
            seconds_text(confirmation.predicted_seconds),
            seconds_text(confirmation.measured_seconds),
            interval_text(confirmation.ratio, times_text),
        )
        for confirmation in summary.confirmation
    ]


def landmark_facts(analysis: Analysis) -> Facts:
    """Return the notable sizes besides the recommended one, as far as the run determines them.

    A run of one size has none.
    """
    if len(analysis.summary.cells) == 1:
        return []
    marks = analysis.landmarks
    overhead = ""
    if marks.overhead_20:
        overhead = f"{_rows(marks.overhead_20)} (a fifth of B_crit)"
    facts = (
        ("fewest rows to the target", _fewest_rows(marks)),
        ("fewest steps (within 10 %)", _fewest_steps(marks)),
        ("20 % more rows than needed", overhead),
        ("steps follow", _steps_law(marks.laws.steps)),
        ("the laws' optimum, √(B_crit·α/β)", _optimum(marks.laws)),
        ("why the recommended size differs", marks.premise or ""),
        ("goodput: useful rows per second, 1/(1 + B/B_crit) of all", _goodput(marks)),
        ("a growing minibatch", _growth(marks.growth)),
        ("with more rows", more_rows_text(analysis.summary)),
    )
    return [(name, text) for name, text in facts if text]


def _fewest_rows(marks: Landmarks) -> str:
    if marks.fewest_rows is None:
        return ""
    tied = ", ".join(map(size_text, marks.fewest_rows_tied))
    return size_text(marks.fewest_rows) + (f" (not shown to differ: {tied})" if tied else "")


def _fewest_steps(marks: Landmarks) -> str:
    if marks.fewest_steps is not None:
        return size_text(marks.fewest_steps)
    if marks.ten_percent_steps:
        return f"none of those tried; {_rows(marks.ten_percent_steps)} or more by the law"
    return ""


def _steps_law(law: StepsLaw) -> str:
    steps, critical = law.steps_min, law.critical_batch_size
    if steps is None or critical is None or critical.value is None:
        return ""
    if law.known is None:
        return (
            "S_min (1 + B_crit/B), but these sizes do not determine B_crit, nor the sizes that"
            f" follow from it: B_crit = {interval_text(critical, _rows)}"
        )
    return (
        f"S_min (1 + B_crit/B): S_min = {interval_text(steps, _rows)},"
        f" B_crit = {interval_text(critical, _rows)}"
    )


def _optimum(laws: Laws) -> str:
    """Return the optimum of the laws where delivery is free, then where it is not."""
    law = laws.throughput
    free, best, seconds = law.free_batch_size, law.best_batch_size, law.best_seconds
    if best is None or best.value is None:
        return ""
    if free is None or free.value is None:
        text = "unbounded: a row costs nothing to compute"
        is_limited = True
    else:
        text = interval_text(free, _rows, " rows")
        is_limited = abs(best.value - free.value) > 0.01 * free.value
    if is_limited:
        text += f"; limited by the delivery rate {interval_text(best, _rows)}"
    if seconds and seconds.value:
        text += f"; {interval_text(seconds, format_seconds)} to the target at that size"
    return text


def _goodput(marks: Landmarks) -> str:
    """Return the three sizes with the most goodput."""
    entries = sorted(marks.goodput.items(), key=lambda entry: -entry[1])[:3]
    return ", ".join(f"{size_text(size)}: {format_count(rate)}/s" for size, rate in entries)


def _growth(local: LocalGrowth | None) -> str:
    """Return how B_crit grew along the run, and the rows that a growing minibatch could save."""
    if local is None:
        return ""
    growth, saving = local.growth, 100 * (1 - local.gamma)
    text = (
        f"B_crit changed by a factor of {interval_text(growth, times_text)}, from"
        f" {_rows(local.local_critical[0])} rows at loss {loss_text(local.losses[0])} to"
        f" {_rows(local.local_critical[-1])} at {loss_text(local.losses[-1])}: growing the"
        f" minibatch could save at most {saving:.0f} % of the rows"
    )
    if not local.doublings:
        is_shown = (growth.lo or 0) > 1 or growth.n < 2
        return text if is_shown else f"{text}; it is not shown to grow"
    times = "twice" if local.doublings == 2 else f"{local.doublings} times"
    return (
        f"{text}. It grew more than 4 ×: double the minibatch {times} during training, each time"
        " with the rate × 2 (SGD) or × √2 (Adam)"
    )


def measure_facts(measures: Json) -> Facts:
    """Return the measurements of the trained models, each with a figure to compare it with."""
    return [
        *_noise_facts(measures),
        *_curvature_facts(section(measures, "curvature")),
        *_sharpness_facts(section(measures, "sharpness")),
        *_shuffle_facts(section(measures, "shuffle")),
    ]


def _noise_facts(measures: Json) -> FactIterator:
    noise = section(measures, "noise_scale")
    if text := scale_text(estimate_of(noise)):
        size = noise.get("batch_size")
        model = f" (model trained at {size_text(size)})" if size else ""
        yield (
            "B_simple, tr Σ / |G|²",
            f"{text}{model}; near the noise floor of SGD it is about 2B·tr C/(η·tr C²) and"
            " reflects the run's own η/B",
        )
    if text := scale_text(estimate_of(noise.get("weighted"))):
        yield "B_noise, tr HΣ / GᵀHG", text
    if text := scale_text(estimate_of(noise.get("preconditioned"))):
        yield "B_simple in the coordinates of Adam", text
    slope = estimate_of(section(measures, "sqrt_m_slope"))
    if slope and slope.value is not None:
        holds = slope.lo is not None and slope.hi is not None and slope.lo <= -0.5 <= slope.hi
        verdict = (
            "not 1/√m: rows of a minibatch are not independent, or their noise has heavy tails"
        )
        if holds:
            verdict = "consistent with 1/√m"
        yield "√m law, slope", f"{interval_text(slope, _three)}; {verdict}"


def scale_text(scale: Estimate | None) -> str:
    """Return a noise scale, `105 [88, 131] rows`; empty without one.

    It is `≥ 88` where the gradient is not significantly different from zero.
    """
    if scale is None or (scale.value is None and not scale.lo):
        return ""
    if is_without_bounds(scale):
        return "not determined: the gradient is not distinguishable from noise"
    if scale.kind == LOWER_BOUND:
        least = _rows(scale.lo or 0.0)
        return f"≥ {least} rows (the gradient is not distinguishable from noise: no upper bound)"
    return interval_text(scale, _rows, " rows")


def _curvature_facts(curvature: Json) -> FactIterator:
    largest = estimate_of(curvature)
    if largest and largest.value is not None:
        yield (
            "largest curvature λ",
            f"{interval_text(largest, _four)} (bounds of the eigenvalue on {curvature['rows']:,}"
            " rows, which is biased upwards)",
        )
    rayleigh = estimate_of(curvature.get("rayleigh"))
    if rayleigh and rayleigh.value is not None:
        yield (
            "λ along that direction, on other rows",
            f"{interval_text(rayleigh, _four)} (the true λ is at least that large)",
        )
    preconditioned = estimate_of(curvature.get("preconditioned"))
    if preconditioned and preconditioned.value is not None:
        yield "λ in the coordinates of Adam", _four(preconditioned.value)
    share = curvature.get("share_of_stability_line")
    if share is not None:
        side = "below it" if share < 1 else "above it: at the edge of stability or beyond"
        yield (
            "stability line at this rate",
            f"{curvature['stability_line']:.4g} (learning rate {rate_text(curvature['lr'])});"
            f" training ended at {format_percent(share)} of it, {side}",
        )


def _sharpness_facts(sharpness: Json) -> FactIterator:
    if sharpness.get("value") is not None:
        yield (
            "Keskar's sharpness φ",
            f"{_each_epsilon(sharpness['full'])}, a lower bound: the best of {sharpness['n']}"
            " restarts",
        )
        if sharpness.get("subspace"):
            yield "φ in a random subspace of 100 dimensions", _each_epsilon(sharpness["subspace"])
        yield "adaptive φ (without the +1)", _each_epsilon(sharpness["adaptive"])
        for equal in sharpness.get("at_targets") or ():
            yield _sharpness_at_target(equal)
        yield (
            "what sharpness is measured on",
            f"{sharpness['rows']:,} rows, the same for every size, target standardised"
            f" (its sd is {sharpness['target_sd']:.4g}); it follows the learning rate more than"
            " generalisation, and never enters the recommendation",
        )
    gap = estimate_of(sharpness.get("generalization_gap"))
    if gap and gap.value is not None:
        yield (
            "generalisation gap",
            f"{interval_text(gap, _two_digits)} in loss, held-out minus training rows",
        )
    for name, word in (("keskar", "Keskar's φ"), ("adaptive", "adaptive φ")):
        ratio = section(sharpness, "invariance_audit", name).get("ratio")
        if ratio is not None:
            verdict = "do not compare sizes by it"
            if ratio < 1.05:
                verdict = "the same function, the same sharpness"
            yield (
                f"audit of {word}",
                f"changes by a factor of {times_text(ratio)} when weights are rescaled without"
                f" changing the function: {verdict}",
            )


def _sharpness_at_target(equal: Json) -> tuple[str, str]:
    """Return the sharpness of the largest over the smallest size, trained to the same loss."""
    sizes = sorted(map(int, equal["by_batch_size"]))
    phi, adaptive, curvature = (
        interval_text(estimate_of(equal["largest_over_smallest"][name]), _two)
        for name in ("phi", "adaptive", "curvature")
    )
    loss, largest, smallest = equal["target_loss"], size_text(sizes[-1]), size_text(sizes[0])
    return (
        f"at loss {loss_text(loss)}, {largest} over {smallest}",
        f"φ {phi}, adaptive φ {adaptive}, largest curvature {curvature}",
    )


def _each_epsilon(by_epsilon: Json) -> str:
    return ", ".join(
        f"{change['value']:.4g} % (ε = {epsilon})"
        for epsilon, change in by_epsilon.items()
        if change.get("value") is not None
    )


def _shuffle_facts(shuffle: Json) -> FactIterator:
    effect = estimate_of(shuffle.get("deff"))
    if effect is None or effect.value is None:
        return
    verdict = "as good as independent rows"
    if shuffle.get("is_bad"):
        verdict = (
            "these statistics describe your shuffle as much as the batch size: rows of a minibatch"
            " are similar to one another; streamtrain ingest --shuffle mixes them"
        )
    yield "shuffle, design effect", f"{interval_text(effect, _two)} (1 is perfect); {verdict}"


def _rows(value: float) -> str:
    if value < 10:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value < 1e6 else format_count(value)


def _nanoseconds(seconds: float) -> str:
    return f"{seconds * 1e9:.3g} ns"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _two_digits(value: float) -> str:
    return f"{value:.2g}"


def _four(value: float) -> str:
    return f"{value:.4g}"
