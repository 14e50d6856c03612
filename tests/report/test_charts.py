"""The charts as specs: axes cover all marks, labels do not overlap, and subtitles are true."""

import math
from itertools import combinations, pairwise

import altair as alt
import pytest
from jsonschema import ValidationError

from streamtrain.report.axis import with_intervals
from streamtrain.report.chart_data import make_tables
from streamtrain.report.charts import chart_specs
from streamtrain.report.charts.theme import reference_layers, round_ticks
from streamtrain.report.summary import analyze
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_growing, make_records, with_measures


def drawn(records):
    """Return the specs and the tables of a run."""
    analysis = analyze(collect(records))
    tables = make_tables(analysis)
    return chart_specs(analysis.summary, tables), tables


def domains(spec, channel):
    """Return the domain of every scale of a channel."""
    return [
        layer["encoding"][channel]["scale"]["domain"]
        for layer in spec["layer"]
        if "scale" in layer["encoding"].get(channel, {})
    ]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(
            lambda: with_measures(
                make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05, 0.03])
            ),
            id="everything",
        ),
        pytest.param(
            lambda: make_records([1024], trials=1, lrs=[0.004], verb="train"), id="one size"
        ),
        pytest.param(make_growing, id="a size that changes"),
        pytest.param(lambda: make_records((256, 1024), nan_sizes=[256, 1024]), id="all NaN"),
        pytest.param(
            lambda: make_records((256, 1024, 4096), outcomes={4096: "out_of_memory"}),
            id="a failed cell",
        ),
    ],
)
def test_every_spec_is_valid(records):
    """A report does not validate them: that takes as long as making them."""
    specs, _ = drawn(records())
    for spec in specs.values():
        alt.Root.validate(spec)


def test_a_spec_that_is_not_valid_is_found():
    with pytest.raises(ValidationError):
        alt.Root.validate({"mark": {"type": "point", "colour": "red"}})


def test_every_size_of_a_training_is_on_the_chart_of_its_speed():
    specs, tables = drawn(make_growing())
    rates = {
        size: [row["rows_per_second"] for row in tables["repeats"] if row["batch_size"] == size]
        for size in (1024, 4096)
    }
    assert rates[4096] == pytest.approx([2 * rate for rate in rates[1024]])
    assert len(tables["repeats"]) == len(rates[1024]) + len(rates[4096])
    ((low, high),) = {tuple(domain) for domain in domains(specs["throughput"], "x")}
    assert low < 1024 < 4096 < high
    ticks = [layer["encoding"]["x"]["axis"]["values"] for layer in specs["throughput"]["layer"]]
    assert ticks == [[1024, 4096]] * len(ticks)
    # the curve has no room for the names of several sizes
    assert {row["size"] for row in tables["curves"]} == {"1,024, then 4,096"}
    assert [cell["label"] for cell in tables["cells"]] == [""]


def noisy():
    """Return records whose intervals are far wider than the distances between sizes.

    Every other repeat takes six times as long, and losses differ between trials.
    """
    records = make_records((256, 1024), trials=3, target_loss=[0.2])
    for record in records:
        if record["event"] == "timing" and record["repeat"] % 2:
            record["seconds"] *= 6
        if record["event"] == "evaluation":
            record["holdout_loss"] *= 2 ** record["trial"]
    return records


@pytest.mark.parametrize(
    ("chart", "channel", "figure"),
    [
        ("tradeoff", "x", "rows_per_second"),
        ("tradeoff", "y", "holdout_loss"),
        ("seconds_to_target", "y", "seconds_to_target"),
    ],
)
def test_axes_hold_the_intervals(chart, channel, figure):
    specs, tables = drawn(noisy())
    ends = [cell[f"{figure}_{end}"] for cell in tables["cells"] for end in ("lo", "hi")]
    for low, high in domains(specs[chart], channel):
        assert low <= min(ends)
        assert max(ends) <= high


def test_an_interval_that_leaves_everything_open_does_not_stretch_the_axis():
    assert with_intervals(
        [{"a": 2.0, "a_lo": 1e-30, "a_hi": 1e30}, {"a": None, "a_lo": None, "a_hi": None}], "a"
    ) == [2.0, 0.2, 20.0]


def test_labels_of_sizes_lie_inside_the_picture():
    """Many sizes at one loss and one far above: labels moved apart are below every loss."""
    records = make_records(
        [2**power for power in range(2, 13)], trials=1, truth=False, train_rows=100_000
    )
    for record in records:
        if record["event"] == "evaluation" and record["batch_size"] < 4096:
            record["holdout_loss"] = 0.01
    specs, tables = drawn(records)
    heights = [cell["label_holdout_loss"] for cell in tables["cells"]]
    low, high = domains(specs["tradeoff"], "y")[0]
    assert low < min(heights)
    assert max(heights) < high


def test_labels_of_sizes_stand_apart_on_an_axis_that_intervals_stretch():
    specs, tables = drawn(noisy())
    heights = sorted(cell["label_holdout_loss"] for cell in tables["cells"])
    low, high = domains(specs["tradeoff"], "y")[0]
    lines = [
        math.log(above / below) / math.log(high / low) * 16 for below, above in pairwise(heights)
    ]
    assert min(lines) > 0.9  # a line of text, where the picture has sixteen


@pytest.mark.parametrize(
    ("marks", "align"),
    [
        ([(0.1, 0.17)], "right"),
        ([(0.9, 0.17)], "left"),
        ([(0.1, 0.17), (0.9, 0.169999)], "right"),
        ([], "left"),
    ],
)
def test_a_line_has_its_name_at_the_end_that_marks_leave_free(marks, align):
    name = reference_layers(
        alt.Y("loss:Q"),
        {"references": [{"name": "best linear 0.1700", "loss": 0.17002, "lowest": False}]},
        marks,
    )[1].to_dict()
    assert name["mark"]["align"] == align


@pytest.mark.parametrize("low", [0.0099, 1.02, 5.1e6, 0.35])
@pytest.mark.parametrize("reach", [1.02, 1.3, 1.9, 2.3, 5.0, 40.0, 400.0, 1e4])
def test_an_axis_has_ticks_enough_to_tell_distances(low, reach):
    ticks = round_ticks(low, low * reach)
    assert len(ticks) >= 3
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0]
    assert ticks[-1] <= low * reach
    assert len(ticks) <= 16
    assert reach < 10 or min(math.log(b / a) for a, b in pairwise(ticks)) > 0.4
    assert all(math.isclose(tick, float(f"{tick:.6g}"), rel_tol=1e-12) for tick in ticks)


def test_subtitles_speak_of_what_is_drawn():
    specs, _ = drawn(make_records([1024], trials=1, lrs=[0.004], verb="train"))
    assert specs["throughput"]["title"]["subtitle"] == "one mark per repeat"
    specs, _ = drawn(make_records((256, 1024), target_loss=[0.05]))
    assert "dashed" in specs["throughput"]["title"]["subtitle"]
    assert "hollow" not in specs["seconds_to_target"]["title"]["subtitle"]
    specs, _ = drawn(make_records((256, 1024), target_loss=[0.005]))
    assert "ring" not in specs["tradeoff"]["title"]["subtitle"]
    assert "hollow" in specs["seconds_to_target"]["title"]["subtitle"]


def test_bars_have_a_colour_that_dark_paper_shows():
    specs, _ = drawn(
        with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    )
    for name, spec in specs.items():
        rules = [layer for layer in spec["layer"] if layer["mark"]["type"] == "rule"]
        assert all(
            "color" in rule["encoding"] or rule["mark"].get("style") == "reference"
            for rule in rules
        ), name


def test_the_figure_of_the_longest_bar_has_room_beside_it():
    """Cut off, "14.7 ms" read "14.7 m"."""
    specs, tables = drawn(make_records((256, 1024), trials=3))
    longest = max(row["seconds"] for row in tables["parts"])
    (domain,) = {tuple(ends) for ends in domains(specs["parts"], "x")}
    assert domain[0] == 0
    assert domain[1] >= 1.3 * longest


def test_labels_of_the_frontier_do_not_overlap_where_the_chart_is_narrow():
    """Sizes nearly alike end at one loss, and others at the loss before it."""
    sizes = (256, 1000, 1024, 4096, 16_384, 20_000, 24_000)
    specs, tables = drawn(make_records(sizes, trials=3, target_loss=[0.05]))
    high_loss, low_loss = domains(specs["frontier"], "x")[0]
    low, high = domains(specs["frontier"], "y")[0]
    ends = [row for row in tables["frontier"] if row["last"]]
    assert len({row["error"] for row in ends}) > 1
    for one, other in combinations(ends, 2):
        across = abs(math.log(one["error"] / other["error"])) / math.log(high_loss / low_loss)
        down = abs(math.log(one["label_seconds"] / other["label_seconds"])) / math.log(high / low)
        assert across > 0.2 or down > 0.9 / 18  # a line of text, where the picture has eighteen
    assert all(low < row["label_seconds"] < high for row in ends)
