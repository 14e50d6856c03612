"""The captions of the page's charts: they mention only marks, lines and bars that were drawn."""

from streamtrain.report.analysis import Summary, section
from streamtrain.report.measure_data import Tables
from streamtrain.report.number_format import size_text, sizes_in_turn, sizes_text, status_text
from streamtrain.report.text.advice import LEAST_OFF_SECONDS


def captions(summary: Summary, tables: Tables) -> dict[str, str]:
    """Return the caption of every chart; `curves` is the caption of all three loss curves."""
    sentences = {
        "frontier": [
            "The time from the first row to each loss, at each size's best rate. Where lines cross,"
            " another size is best for a rougher model."
        ],
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
        "rules": ["Rules that set the rate of each size, compared at the same rows."],
        "curvature": [
            "Above the dashed line steps at the size's learning rate diverge along that direction."
        ],
        "sharpness": [
            "A lower bound; compare sizes by the adaptive one, which does not change when weights"
            " are rescaled without changing the function."
        ],
        "line": [
            "“Sharp” here means a wide valley around one model and a narrow one around the other."
        ],
    }
    return {name: " ".join(filter(None, parts)) for name, parts in sentences.items()}


def confirmation_note(summary: Summary) -> str:
    """Return a note on the time that predicted and measured seconds leave out.

    It also warns when training took so little time that it hardly shows the rate of steps.
    """
    text = "The time before the first block (opening, the first window) is in neither."
    if differing := [one for one in summary.confirmation if one.is_off]:
        sizes = sizes_text([one.batch_size for one in differing])
        text += f" At {sizes} they differ beyond the interval: the measured seconds count."
    measured = [confirmation.measured_seconds.value or 0.0 for confirmation in summary.confirmation]
    off = [confirmation.seconds_off for confirmation in summary.confirmation]
    longest = max(measured, default=0.0)
    if off and longest < LEAST_OFF_SECONDS and max(off) > 0.1 * longest:
        text += (
            f" These trainings took less than {LEAST_OFF_SECONDS:g} s: their first steps weigh"
            " so much that the difference says little about the rate of steps."
        )
    return text


def _tradeoff(summary: Summary, tables: Tables) -> list[str]:
    missing = [
        f"{size_text(cell.batch_size)} ({status_text(cell.status)})"
        for cell in summary.cells
        if cell.holdout_loss.value is None and cell.rows_per_second.value
    ]
    hollow = ""
    if missing:
        names = ", ".join(missing) if len(missing) <= 6 else f"{len(missing)} sizes"
        hollow = f"Hollow marks at the edge have no loss: {names}."
    return ["Right is faster, down is better.", _ring(tables), "Bars: 95 %.", hollow]


def _seconds(summary: Summary, tables: Tables) -> list[str]:
    sentences = ["Down is better.", _ring(tables)]
    cells = tables["cells"]
    if not all(row["seconds_to_target"] for row in cells):
        sentences.append("A hollow mark at the top edge did not reach the target.")
    if any(row["seconds_to_target"] and row["status"] != "reached" for row in cells):
        sentences.append("A hollow mark on the line reached it in some trials only.")
    if summary.confirmation:
        sentences.append("Squares: trained from start to end, measured in wall-clock time.")
    if any(row["seconds"] for row in tables.get("law", ())):
        sentences.append("Dashed: what the laws of steps and of time predict.")
    return [*sentences, _without_law(summary)]


def _without_law(summary: Summary) -> str:
    """Return why the curve of the laws is missing, where a fit did not determine B_crit."""
    fitted = section(section(summary.landmarks, "laws"), "critical_batch_size")
    if fitted.get("value") is None or summary.landmarks["steps_10"] is not None:
        return ""
    return (
        "Without the curve of the laws, since these sizes do not determine B_crit: see “steps"
        " follow” below."
    )


def _ring(tables: Tables) -> str:
    is_ringed = any(row["recommended"] for row in tables["cells"])
    return "Ringed: the recommended size." if is_ringed else ""


def _curves(summary: Summary, tables: Tables) -> list[str]:
    if len(summary.cells) < 2:
        grown = ""
        if len(summary.sizes_used) > 1:
            grown = f"Minibatches of {sizes_in_turn(summary.sizes_used)} rows."
        return ["Evaluated at growing intervals: both scales are logarithmic.", grown]
    trials, rule = len({row["trial"] for row in tables["curves"]}), summary.lr_rules[0]
    shown = "the median, and every trial as a thin line" if trials > 1 else "the one trial"
    rate = f"at the learning rate of the rule “{rule}”"
    if rule == "tuned":
        rate = "at its best learning rate"
    return [
        f"Each size {rate}: {shown}.",
        (
            "A budget of rows favours small minibatches, a budget of steps large ones: look at all"
            " axes."
        ),
    ]


def _throughput(tables: Tables) -> list[str]:
    turns = ", sizes taking turns" if len({row["size"] for row in tables["repeats"]}) > 1 else ""
    law = "; dashed, B / (α + βB) through them" if tables.get("law") else ""
    return [
        f"Each mark is one timing repeat of the step alone{turns}{law}.",
        "Above the delivery line a step waits for rows." if tables.get("delivery") else "",
    ]


def _rates(summary: Summary, tables: Tables) -> list[str]:
    lines = {row["line"] for row in tables.get("stability", ())}
    outcomes = sorted({row["outcome"] for row in tables["tried"] if not row["loss"]})
    sentences = [
        "Each square is a size at one rate, coloured by the median loss where its trials ended;"
        " framed: chosen."
    ]
    if outcomes:
        sentences.append(f"Crosses: no loss ({', '.join(outcomes)}).")
    if section(summary.config, "sweep").get("halving"):
        sentences.append("Rates that lost early were stopped early.")
    if "curvature" in lines:
        sentences.append("Dashed: the rate at which the measured curvature becomes unstable.")
    if "mean-square stability" in lines:
        sentences.append(
            "Dotted: mean-square stability of SGD on a linear model of these features, taken as"
            " Gaussian; at small minibatches a single run can converge beyond it although the"
            " mean square grows."
        )
    return sentences
