"""What stands beside the charts in words: `(name, text)` pairs for the page and for `report.md`, from the summary alone."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streamtrain.report.figures import NOTHING, loss_text, rate_text, seconds_text, size_text, times_text
from streamtrain.units import format_bytes, format_count, format_seconds

Summary = Mapping[str, Any]
Facts = list[tuple[str, str]]


def speed_facts(summary: Summary) -> Facts:
    """The line that a step's time follows, delivery, where reading becomes the limit, and the bottleneck by name."""
    laws = _laws(summary)
    alpha, beta, roof, kink = (laws.get(name) for name in ("alpha_seconds", "beta_seconds_a_row", "rows_per_second", "kink"))
    facts: Facts = []
    if alpha and beta:
        row = _interval(beta, lambda seconds: f"{seconds * 1e9:.3g} ns")
        facts.append(("a step of B rows takes", f"α + βB: α = {_interval(alpha, _short_seconds)} and β = {row} a row"))
    if roof and roof["value"]:
        facts.append(("the stream delivers", f"{_interval(roof, format_count)} rows/s"))
    if alpha and beta:
        never = "at no size: a step is always the slower part"
        facts.append(("reading is the limit", f"from B = {_interval(kink, _rows)}" if kink and kink["value"] else never))
    if text := bottleneck(summary):
        facts.append(("bottleneck", text))
    return facts


def bottleneck(summary: Summary) -> str:
    """What a run at the recommended size, or at the fastest one, would wait for."""
    timed = [cell for cell in summary["cells"] if cell["rows_per_second"]["value"]]
    if not timed:
        return ""
    chosen = [cell for cell in timed if cell["batch_size"] == summary["recommendation"]["batch_size"]]
    cell = (chosen or [max(timed, key=lambda cell: cell["rows_per_second"]["value"])])[0]
    share = cell["wait_fraction"]["value"] or 0.0
    size = size_text(cell["batch_size"])
    if share > 0.5:
        return f"reading: at {size} the step waits {share:.0%} of the time for rows"
    if share > 0.05:
        return f"both: at {size} the step takes most of the time, and waits {share:.0%} of it for rows"
    return f"the training step: at {size} it hardly waits for rows ({share:.0%})"


def confirmation_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """`(size, predicted, measured, measured / predicted)` of the sizes that were trained from end to end."""
    return [
        (size_text(one["batch_size"]), seconds_text(one["predicted_seconds"]), seconds_text(one["measured_seconds"]),
         _interval(one["ratio"], times_text))
        for one in summary["confirmation"]
    ]  # fmt: skip


def landmark_facts(summary: Summary) -> Facts:
    """Sizes to know beside the recommended one; what the run cannot tell is left out."""
    marks, laws = summary["landmarks"] or {}, _laws(summary)
    best, critical, steps = (laws.get(name) for name in ("best_batch_size", "critical_batch_size", "steps_min"))
    known = (
        ("fewest rows to the target", marks.get("fewest_rows") and size_text(marks["fewest_rows"])),
        ("fewest steps (within 10 %)", marks.get("fewest_steps") and size_text(marks["fewest_steps"])),
        ("20 % more rows than needed", marks.get("overhead_20") and f"{_rows(marks['overhead_20'])} (a fifth of B_crit)"),
        ("steps follow", steps and critical and critical["value"] is not None
         and f"S_min (1 + B_crit/B): S_min = {_interval(steps, _rows)}, B_crit = {_interval(critical, _rows)}"),
        ("the laws' optimum", best and best["value"] is not None and f"{_interval(best, _rows)} rows"),
        ("why it is another size", marks.get("premise")),
    )  # fmt: skip
    return [(name, str(text)) for name, text in known if text]


def measure_facts(summary: Summary) -> Facts:
    """What was measured of the trained models, each with its interval and what to compare it with."""
    measures = summary["measures"] or {}
    return [*_noise_facts(measures), *_curvature_facts(measures), *_sharpness_facts(measures), *_shuffle_facts(measures)]


def integrity_facts(summary: Summary) -> Facts:
    """What vouches for the data, and what was left out."""
    quarantined = summary.get("quarantined") or {}
    spans = ", ".join(f"{one['url']} rows {one['start']:,} to {one['stop']:,} ({one['cause']})" for one in quarantined.get("first", ()))
    files = ", ".join(f"{one['url']} ({one['cause']})" for one in quarantined.get("left_out", ()))
    known = (
        ("integrity", summary.get("integrity")),
        ("quarantined", quarantined.get("rows") and f"{quarantined['rows']:,} rows that could not be read, in {quarantined['spans']:,} spans: {spans}"),
        ("left out", files),
    )
    return [(name, str(text)) for name, text in known if text]


def cost_facts(summary: Summary) -> Facts:
    """What the run read and used."""
    peak, projected = summary["peak_rss_bytes"], summary["projected_bytes"]
    came, waited = summary.get("read_bytes"), summary["stream_seconds"].get("read_seconds")
    known = (
        ("rows read", summary["rows_read"] is not None and f"{summary['rows_read']:,} in {summary['passes']} passes"),
        ("rows not read, thanks to sharing", summary["rows_saved"] is not None and f"{summary['rows_saved']:,}"),
        ("from the object store", came and waited and f"{format_bytes(came)}, {format_bytes(round(came / waited))}/s a request"),
        ("duration", summary["seconds"] and format_seconds(summary["seconds"])),
        ("memory: peak / projected", peak and projected and f"{format_bytes(peak)} / {format_bytes(projected)}"),
    )
    return [(name, str(text)) for name, text in known if text]


def _noise_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    noise, slope = measures.get("noise_scale") or {}, measures.get("sqrt_m_slope") or {}
    if noise.get("value") is not None:
        of = f" (of the model of {size_text(noise['batch_size'])})" if noise.get("batch_size") else ""
        yield "B_simple, tr Σ / |G|²", f"{_interval(noise, _rows)} rows{of}"
    if (noise.get("weighted") or {}).get("value") is not None:
        yield "B_noise, tr HΣ / GᵀHG", f"{_interval(noise['weighted'], _rows)} rows"
    if (noise.get("preconditioned") or {}).get("value") is not None:
        yield "B_simple as Adam steps", f"{_interval(noise['preconditioned'], _rows)} rows"
    if slope.get("value") is not None:
        holds = slope["lo"] is not None and slope["lo"] <= -0.5 <= slope["hi"]
        verdict = "consistent with 1/√m" if holds else "not 1/√m: rows of a minibatch are not independent, or their noise has heavy tails"
        yield "√m law, slope", f"{_interval(slope, lambda value: f'{value:.3f}')}; {verdict}"


def _curvature_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    curvature = measures.get("curvature") or {}
    if curvature.get("value") is not None:
        yield "largest curvature λ", f"{_interval(curvature, lambda value: f'{value:.4g}')} (bracket of the eigenvalue on {curvature['rows']:,} rows)"
    if (curvature.get("preconditioned") or {}).get("value") is not None:
        yield "λ in the coordinates in which Adam steps", f"{curvature['preconditioned']['value']:.4g}"
    if curvature.get("share_of_stability_line") is not None:
        share, line = curvature["share_of_stability_line"], curvature["stability_line"]
        side = "below it" if share < 1 else "above it: at the edge of stability or beyond"
        yield "stability line at this rate", f"{line:.4g} (learning rate {rate_text(curvature['lr'])}); training ended at {share:.0%} of it, {side}"


def _sharpness_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    sharpness = measures.get("sharpness") or {}
    if sharpness.get("value") is not None:
        yield "Keskar's sharpness φ (ε = 0.001)", f"{sharpness['value']:.4g} %, a lower bound: the best of {sharpness['n']} restarts"
    gap = sharpness.get("generalization_gap") or {}
    if gap.get("value") is not None:
        yield "generalisation gap", f"{_interval(gap, lambda value: f'{value:.2g}')} in loss, held out minus trained on"
    audit = sharpness.get("invariance_audit") or {}
    for name, word in (("keskar", "Keskar's φ"), ("adaptive", "adaptive φ")):
        ratio = (audit.get(name) or {}).get("ratio")
        if ratio is not None:
            verdict = "the same function, the same sharpness" if ratio < 1.05 else "so sizes must not be compared by it"
            yield f"audit of {word}", f"changes by a factor of {times_text(ratio)} when weights are rescaled and the function is not: {verdict}"


def _shuffle_facts(measures: Summary) -> Iterator[tuple[str, str]]:
    deff = (measures.get("shuffle") or {}).get("deff") or {}
    if deff.get("value") is not None:
        bad = measures["shuffle"].get("is_bad")
        verdict = "rows of a minibatch resemble one another: ingest, or a larger --window-rows, mixes them" if bad else "as good as independent rows"
        yield "shuffle, design effect", f"{_interval(deff, lambda value: f'{value:.2f}')} (1 is perfect); {verdict}"


def _interval(found: Mapping[str, Any] | None, text: Callable[[float], str]) -> str:
    """A value with its 95 % interval in brackets, both in the words of `text`."""
    if not found or found["value"] is None:
        return NOTHING
    if found["lo"] is None or found["hi"] is None:
        return text(found["value"])
    return f"{text(found['value'])} [{text(found['lo'])}, {text(found['hi'])}]"


def _rows(value: float) -> str:
    return loss_text(value) if value < 10 else f"{value:,.0f}" if value < 1e6 else format_count(value)


def _short_seconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else format_seconds(seconds)


def _laws(summary: Summary) -> Mapping[str, Any]:
    return (summary["landmarks"] or {}).get("laws") or {}
