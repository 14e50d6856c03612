"""What stands below each chart of the page: no word of a mark, a line or a bar that this run's
chart does not have.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.report.chart_data import Row
from streamtrain.report.number_format import size_text
from streamtrain.report.text.advice import LEAST_OFF_SECONDS

Summary = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]


def captions(summary: Summary, tables: Tables) -> dict[str, str]:
    """Chart → its caption; `curves` is that of all three loss curves."""
    told = {
        "tradeoff": _tradeoff(summary, tables),
        "seconds_to_target": _seconds(summary, tables),
        "curves": _curves(summary, tables),
        "throughput": _throughput(tables),
        "parts": [
            "Seconds on all threads, all passes together; parts run side by side, so they do not"
            " add up to the duration."
        ],
        "noise_scale": [
            "Far below the noise scale a larger minibatch saves steps almost in proportion; far"
            " above it saves none."
        ],
        "sqrt_m": ["Independent rows follow the dashed line, slope −½ through the first point."],
        "learning_rates": _rates(summary, tables),
        "rules": ["Rules that say a rate for each size, at the same rows."],
        "curvature": [
            "Above the dashed line a step of the size's learning rate grows along that direction."
        ],
        "sharpness": [
            "A lower bound; compare sizes by the adaptive one, which does not change when weights"
            " are rescaled and the function is not."
        ],
        "line": [
            "A wide valley round the one and a narrow one round the other is what “sharp” means"
            " here."
        ],
    }
    return {name: " ".join(filter(None, sentences)) for name, sentences in told.items()}


def confirmation_note(summary: Summary) -> str:
    """What the seconds predicted and measured leave out; and that a training of milliseconds tells
    little of its rate.
    """
    text = "The time before the first block (opening, the first window) is in neither."
    off = [
        abs(one["measured_seconds"]["value"] - one["predicted_seconds"]["value"])
        for one in summary["confirmation"]
    ]
    longest = max(
        (one["measured_seconds"]["value"] for one in summary["confirmation"]), default=0.0
    )
    if off and longest < LEAST_OFF_SECONDS and max(off) > 0.1 * longest:
        text += (
            f" These trainings took less than {LEAST_OFF_SECONDS:g} s: so short a time is mostly"
            " that of starting, and says little about the rate of steps."
        )
    return text


def _tradeoff(summary: Summary, tables: Tables) -> list[str]:
    missing = [
        cell
        for cell in summary["cells"]
        if cell["holdout_loss"]["value"] is None and cell["rows_per_second"]["value"]
    ]
    names = [
        f"{size_text(cell['batch_size'])} ({cell['status'].replace('_', ' ')})" for cell in missing
    ]
    return [
        "Right is faster, down is better.",
        _ring(tables),
        "Bars: 95 %.",
        (
            "Hollow marks at the edge have no loss:"
            f" {', '.join(names) if len(names) <= 6 else f'{len(names)} sizes'}."
            if names
            else ""
        ),
    ]


def _seconds(summary: Summary, tables: Tables) -> list[str]:
    away = [row for row in tables["cells"] if not row["seconds_to_target"]]
    some = [
        row for row in tables["cells"] if row["seconds_to_target"] and row["status"] != "reached"
    ]
    return [
        "Down is better.",
        _ring(tables),
        "A hollow mark at the top edge did not reach the target." if away else "",
        "A hollow mark on the line reached it in some trials only." if some else "",
        "Squares: trained from end to end, against the clock." if summary["confirmation"] else "",
        (
            "Dashed: what the laws of steps and of time predict."
            if any(row["seconds"] for row in tables.get("law", ()))
            else ""
        ),
    ]


def _ring(tables: Tables) -> str:
    return (
        "Ringed: the recommended size."
        if any(row["recommended"] for row in tables["cells"])
        else ""
    )


def _curves(summary: Summary, tables: Tables) -> list[str]:
    trials = len({row["trial"] for row in tables["curves"]})
    of = "the median, and every trial as a thin line" if trials > 1 else "the one trial"
    if len(summary["cells"]) < 2:
        return ["Evaluated at growing distances: both scales are logarithmic."]
    rate = (
        "at its best learning rate"
        if summary["lr_rules"][0] == "tuned"
        else f"at the learning rate of the rule “{summary['lr_rules'][0]}”"
    )
    return [
        f"Each size {rate}: {of}.",
        (
            "A budget of rows flatters small minibatches, a budget of steps large ones: look at all"
            " axes."
        ),
    ]


def _throughput(tables: Tables) -> list[str]:
    turns = ", sizes taking turns" if len(tables["cells"]) > 1 else ""
    law = "; dashed, B / (α + βB) through them" if tables.get("law") else ""
    return [
        f"Each mark is one timing repeat of the step alone{turns}{law}.",
        "Above the delivery line a step waits for rows." if tables.get("roof") else "",
    ]


def _rates(summary: Summary, tables: Tables) -> list[str]:
    lines = {row["line"] for row in tables.get("stability", ())}
    without = sorted({row["outcome"] for row in tables["tried"] if not row["loss"]})
    halved = (summary["config"] or {}).get("sweep", {}).get("halving")
    return [
        "Each square is a size at one rate, coloured by the median loss where its trials ended;"
        " framed: chosen." + (f" Crosses: no loss ({', '.join(without)})." if without else ""),
        "Rates that lost early were stopped early." if halved else "",
        (
            "Dashed: the rate at which the measured curvature becomes unstable."
            if "curvature" in lines
            else ""
        ),
        (
            "Dotted: mean-square stability of SGD on a linear model of these features, were they"
            " Gaussian; at small minibatches a single run can shrink beyond it although the mean"
            " square grows."
            if "mean-square stability" in lines
            else ""
        ),
    ]
