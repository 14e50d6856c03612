"""What stands beside the charts in words.

`(name, text)` pairs for the page and for `report.md`, from the summary alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.report.number_format import (
    NOTHING,
    loss_text,
    rate_text,
    seconds_text,
    size_text,
    times_text,
)

Summary = Mapping[str, Any]
Facts = list[tuple[str, str]]
#: A step that stands still for no more than this share of the time hardly waits.
_HARDLY = 0.05


def speed_facts(summary: Summary) -> Facts:
    """The line that a step's time follows, delivery, where reading becomes the limit, and the
    bottleneck by name.
    """
    laws = _laws(summary)
    alpha, beta, roof, kink = (
        laws.get(name)
        for name in ("alpha_seconds", "beta_seconds_a_row", "rows_per_second", "kink")
    )
    facts: Facts = []
    if alpha and beta:
        row = _interval(beta, lambda seconds: f"{seconds * 1e9:.3g} ns")
        facts.append(
            (
                "a step of B rows takes",
                f"α + βB: α = {_interval(alpha, format_seconds)} and β = {row} a row",
            )
        )
    if roof and roof["value"]:
        facts.append(("the stream delivers", f"{_interval(roof, format_count)} rows/s"))
    if alpha and beta:
        waits = any((cell["wait_fraction"]["value"] or 0) > _HARDLY for cell in summary["cells"])
        never = (
            "at no size: a step is always the slower part"
            + "; it waits because reading takes the same processor cores" * waits
        )
        facts.append(
            (
                "reading is the limit",
                f"from B = {_interval(kink, _rows)}" if kink and kink["value"] else never,
            )
        )
    if text := _overlap(laws.get("overlap") or {}):
        facts.append(("reading and computing overlap", text))
    if text := bottleneck(summary):
        facts.append(("bottleneck", text))
    return facts


def bottleneck(summary: Summary) -> str:
    """What a run at the recommended size, or at the fastest one, would wait for."""
    timed = [cell for cell in summary["cells"] if cell["rows_per_second"]["value"]]
    if not timed:
        return ""
    chosen = [
        cell for cell in timed if cell["batch_size"] == summary["recommendation"]["batch_size"]
    ]
    cell = (chosen or [max(timed, key=lambda cell: cell["rows_per_second"]["value"])])[0]
    share = cell["wait_fraction"]["value"]
    if share is None:
        return ""
    size = size_text(cell["batch_size"])
    if share > 0.5:
        return f"reading: at {size} the step waits {share:.0%} of the time for rows"
    if share > _HARDLY:
        return (
            f"both: at {size} the step takes most of the time, and waits {share:.0%} of it for rows"
        )
    return f"the training step: at {size} it hardly waits for rows ({share:.0%})"


def _overlap(overlap: Summary) -> str:
    """γ of (t_c^γ + t_io^γ)^(1/γ), fitted to the confirmations."""
    if not overlap.get("n"):
        return ""
    return (
        f"γ = {_interval(overlap, _four)} (1: not at all, ∞: wholly)"
        if overlap["value"] is not None
        else "wholly (γ = ∞)"
    )


def confirmation_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """`(size, predicted, measured, measured / predicted)` of the sizes that were trained from end
    to end.
    """
    return [
        (
            size_text(one["batch_size"]),
            seconds_text(one["predicted_seconds"]),
            seconds_text(one["measured_seconds"]),
            _interval(one["ratio"], times_text),
        )
        for one in summary["confirmation"]
    ]


def landmark_facts(summary: Summary) -> Facts:
    """Sizes to know beside the recommended one; what the run cannot tell is left out, all of it
    where there is one size.
    """
    if len(summary.get("cells", ())) == 1:
        return []
    marks, laws = summary["landmarks"] or {}, _laws(summary)
    critical, steps = (laws.get(name) for name in ("critical_batch_size", "steps_min"))
    known = (
        ("fewest rows to the target", _fewest_rows(marks)),
        ("fewest steps (within 10 % of S_min)", _fewest_steps(marks)),
        (
            "20 % more rows than needed",
            marks.get("overhead_20") and f"{_rows(marks['overhead_20'])} (a fifth of B_crit)",
        ),
        (
            "steps follow",
            steps
            and critical
            and critical["value"] is not None
            and f"S_min (1 + B_crit/B): S_min = {_interval(steps, _rows)},"
            f" B_crit = {_interval(critical, _rows)}",
        ),
        ("the laws' optimum, √(B_crit·α/β)", _optimum(laws)),
        ("why it is another size", marks.get("premise")),
        ("goodput: rows a second that count, 1/(1 + B/B_crit) of them", _goodput(marks)),
        ("a batch that grows", _growth(marks)),
    )
    return [(name, str(text)) for name, text in known if text]


def _fewest_rows(marks: Summary) -> str:
    if not marks.get("fewest_rows"):
        return ""
    tied = ", ".join(map(size_text, marks["fewest_rows_tied"]))
    return size_text(marks["fewest_rows"]) + (f" (not shown to differ: {tied})" if tied else "")


def _fewest_steps(marks: Summary) -> str:
    if marks.get("fewest_steps"):
        return size_text(marks["fewest_steps"])
    return (
        f"none of those tried; by the law from {_rows(marks['steps_10'])} on"
        if marks.get("steps_10")
        else ""
    )


def _optimum(laws: Summary) -> str:
    free, best = laws.get("free_batch_size") or {}, laws.get("best_batch_size") or {}
    if best.get("value") is None:
        return ""
    text = (
        f"{_interval(free, _rows)} rows"
        if free.get("value") is not None
        else "without end: a row costs nothing to compute"
    )
    if free.get("value") is None or abs(best["value"] - free["value"]) > 0.01 * free["value"]:
        text += f"; behind the roof of delivery {_interval(best, _rows)}"
    seconds = laws.get("best_seconds") or {}
    return text + (
        f"; {_interval(seconds, format_seconds)} to the target there"
        if seconds.get("value")
        else ""
    )


def _goodput(marks: Summary) -> str:
    each = sorted(marks.get("goodput") or (), key=lambda one: -one["rows_per_second"])[:3]
    return ", ".join(
        f"{size_text(one['batch_size'])}: {format_count(one['rows_per_second']).strip()}/s"
        for one in each
    )


def _growth(marks: Summary) -> str:
    """Whether B_crit grew along the run, what a growing batch could save, and how it would grow."""
    found = marks.get("growth")
    if not found:
        return ""
    first, last, saving = (
        found["local_critical"][0],
        found["local_critical"][-1],
        100 * (1 - found["gamma"]),
    )
    text = (
        f"B_crit went from {_rows(first)} to {_rows(last)} between loss"
        f" {loss_text(found['losses'][0])} and {loss_text(found['losses'][-1])}"
        f" ({_interval(found['growth'], times_text)} ×): growing the batch could save at most"
        f" {saving:.0f} % of the rows"
    )
    if not found["doublings"]:
        return text + (
            ""
            if (found["growth"]["lo"] or 0) > 1 or found["growth"]["n"] < 2
            else "; it is not shown to grow"
        )
    times = "twice" if found["doublings"] == 2 else f"{found['doublings']} times"
    return (
        f"{text}. It grew more than 4 ×: double the minibatch {times} on the way, each time with"
        " the rate × 2 (SGD) or × √2 (Adam)"
    )


def measure_facts(summary: Summary) -> Facts:
    """What was measured of the trained models, each with its interval and what to compare it
    with.
    """
    measures = summary["measures"] or {}
    return [
        *_noise_facts(measures),
        *_curvature_facts(measures),
        *_sharpness_facts(measures),
        *_shuffle_facts(measures),
    ]


def integrity_facts(summary: Summary) -> Facts:
    """What vouches for the data, and what was left out."""
    quarantined = summary.get("quarantined") or {}
    spans = ", ".join(
        f"{one['url']} rows {one['start']:,} to {one['stop']:,} ({one['cause']})"
        for one in quarantined.get("first", ())
    )
    files = ", ".join(f"{one['url']} ({one['cause']})" for one in quarantined.get("left_out", ()))
    known = (
        ("integrity", summary.get("integrity")),
        (
            "quarantined",
            quarantined.get("rows")
            and f"{quarantined['rows']:,} rows that could not be read,"
            f" in {quarantined['spans']:,} spans: {spans}",
        ),
        ("left out", files),
    )
    return [(name, str(text)) for name, text in known if text]


def cost_facts(summary: Summary) -> Facts:
    """What the run read and used."""
    peak, projected = summary["peak_rss_bytes"], summary["projected_bytes"]
    came, waited = summary.get("read_bytes"), summary["stream_seconds"].get("read_seconds")
    known = (
        (
            "rows read",
            summary["rows_read"] is not None
            and f"{summary['rows_read']:,} in {summary['passes']} passes",
        ),
        (
            "rows not read, thanks to sharing",
            summary["rows_saved"] is not None and f"{summary['rows_saved']:,}",
        ),
        (
            "from the object store",
            came
            and waited
            and f"{format_bytes(came)}, {format_bytes(round(came / waited))}/s a request",
        ),
        ("duration", summary["seconds"] and format_seconds(summary["seconds"])),
        (
            "memory: peak / projected",
            peak and projected and f"{format_bytes(peak)} / {format_bytes(projected)}",
        ),
    )
    return [(name, str(text)) for name, text in known if text]


def _noise_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    noise, slope = measures.get("noise_scale") or {}, measures.get("sqrt_m_slope") or {}
    of = f" (of the model of {size_text(noise['batch_size'])})" if noise.get("batch_size") else ""
    if text := scale_text(noise):
        caveat = (
            "; near the floor of SGD it is about 2B·tr C/(η·tr C²) and reports the run's own η/B"
        )
        yield "B_simple, tr Σ / |G|²", f"{text} rows{of}{caveat}"
    if text := scale_text(noise.get("weighted")):
        yield "B_noise, tr HΣ / GᵀHG", f"{text} rows"
    if text := scale_text(noise.get("preconditioned")):
        yield "B_simple as Adam steps", f"{text} rows"
    if slope.get("value") is not None:
        holds = slope["lo"] is not None and slope["lo"] <= -0.5 <= slope["hi"]
        verdict = (
            "consistent with 1/√m"
            if holds
            else "not 1/√m: rows of a minibatch are not independent, or their noise has heavy tails"
        )
        yield "√m law, slope", f"{_interval(slope, lambda value: f'{value:.3f}')}; {verdict}"


def scale_text(scale: Mapping[str, Any] | None) -> str:
    """A noise scale in rows, `105 [88, 131]`, or `≥ 88` where its gradient is not significantly
    other than zero; empty without one.
    """
    if not scale or (scale.get("value") is None and not scale.get("lo")):
        return ""
    if scale["kind"] == "fieller lower bound":
        return f"≥ {_rows(scale['lo'] or 0.0)} (the gradient is lost in its noise: no upper end)"
    return _interval(scale, _rows)


def _curvature_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    curvature = measures.get("curvature") or {}
    if curvature.get("value") is not None:
        yield (
            "largest curvature λ",
            (
                f"{_interval(curvature, _four)} (bracket of the eigenvalue on {curvature['rows']:,}"
                " rows, which is biased up)"
            ),
        )
    if (curvature.get("rayleigh") or {}).get("value") is not None:
        yield (
            "λ along that direction, on other rows",
            f"{_interval(curvature['rayleigh'], _four)} (the true λ is at least that)",
        )
    if (curvature.get("preconditioned") or {}).get("value") is not None:
        yield (
            "λ in the coordinates in which Adam steps",
            f"{curvature['preconditioned']['value']:.4g}",
        )
    if curvature.get("share_of_stability_line") is not None:
        share, line = curvature["share_of_stability_line"], curvature["stability_line"]
        side = "below it" if share < 1 else "above it: at the edge of stability or beyond"
        yield (
            "stability line at this rate",
            (
                f"{line:.4g} (learning rate {rate_text(curvature['lr'])}); training ended at"
                f" {share:.0%} of it, {side}"
            ),
        )


def _sharpness_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    sharpness = measures.get("sharpness") or {}
    if sharpness.get("value") is not None:
        yield (
            "Keskar's sharpness φ",
            (
                f"{_each_epsilon(sharpness['full'])}, a lower bound: the best of {sharpness['n']}"
                " restarts"
            ),
        )
        if sharpness.get("subspace"):
            yield "φ in a random subspace of 100 dimensions", _each_epsilon(sharpness["subspace"])
        yield "adaptive φ (without the +1)", _each_epsilon(sharpness["adaptive"])
        for equal in sharpness.get("at_targets") or ():
            ratios, sizes = equal["largest_over_smallest"], sorted(map(int, equal["by_batch_size"]))
            yield (
                (
                    f"at loss {loss_text(equal['target_loss'])}, {size_text(sizes[-1])} over"
                    f" {size_text(sizes[0])}"
                ),
                (
                    f"φ {_interval(ratios['phi'], _two)}, adaptive φ"
                    f" {_interval(ratios['adaptive'], _two)}, largest curvature"
                    f" {_interval(ratios['curvature'], _two)}"
                ),
            )
        yield (
            "what sharpness is measured on",
            (
                f"{sharpness['rows']:,} rows, the same ones for every size, target standardised"
                f" (its sd is {sharpness['target_sd']:.4g}); it follows the learning rate more than"
                " generalisation, and never enters the recommendation"
            ),
        )
    gap = sharpness.get("generalization_gap") or {}
    if gap.get("value") is not None:
        yield (
            "generalisation gap",
            f"{_interval(gap, lambda value: f'{value:.2g}')} in loss, held out minus trained on",
        )
    audit = sharpness.get("invariance_audit") or {}
    for name, word in (("keskar", "Keskar's φ"), ("adaptive", "adaptive φ")):
        ratio = (audit.get(name) or {}).get("ratio")
        if ratio is not None:
            verdict = (
                "the same function, the same sharpness"
                if ratio < 1.05
                else "so sizes must not be compared by it"
            )
            yield (
                f"audit of {word}",
                (
                    f"changes by a factor of {times_text(ratio)} when weights are rescaled and the"
                    f" function is not: {verdict}"
                ),
            )


def _each_epsilon(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{one['value']:.4g} % (ε = {epsilon})"
        for epsilon, one in found.items()
        if one.get("value") is not None
    )


def _shuffle_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    deff = (measures.get("shuffle") or {}).get("deff") or {}
    if deff.get("value") is not None:
        bad = measures["shuffle"].get("is_bad")
        verdict = (
            "these statistics are of your shuffle, not of the batch size: rows of a minibatch"
            " resemble one another; smaller --span-rows (for ingest too), or a larger"
            " --window-rows, mix them"
            if bad
            else "as good as independent rows"
        )
        yield (
            "shuffle, design effect",
            f"{_interval(deff, lambda value: f'{value:.2f}')} (1 is perfect); {verdict}",
        )


def _interval(found: Mapping[str, Any] | None, text: Callable[[float], str]) -> str:
    """A value with its 95 % interval in brackets, both in the words of `text`, and the kind and n
    of the interval where it tells them.
    """
    if not found or found["value"] is None:
        return NOTHING
    if found["lo"] is None or found["hi"] is None:
        return text(found["value"]) + (" (1 run)" if found.get("kind") == "1 run" else "")
    of = f" ({found['kind']}, n = {found['n']:,})" if found.get("kind") else ""
    return f"{text(found['value'])} [{text(found['lo'])}, {text(found['hi'])}]{of}"


def _rows(value: float) -> str:
    return f"{value:.3g}" if value < 10 else f"{value:,.0f}" if value < 1e6 else format_count(value)


def _two(value: float) -> str:
    return f"{value:.2f}"


def _four(value: float) -> str:
    return f"{value:.4g}"


def _laws(summary: Summary) -> Mapping[str, Any]:
    return (summary["landmarks"] or {}).get("laws") or {}
