"""The charts as specs: axes cover all marks, labels do not overlap, and subtitles are true."""

import math
from itertools import combinations, pairwise

import altair as alt
import pytest
from jsonschema import ValidationError

from streamtrain.report.axis import with_intervals
from streamtrain.report.chart_data import make_tables
from streamtrain.report.charts import chart_specs
from streamtrain.report.charts.theme import round_ticks
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


def test_the_axis_of_seconds_holds_each_training_from_start_to_end():
    """One that took forty times as long as predicted was drawn above the chart."""
    records = with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    for record in records:
        if record["event"] == "confirmation":
            record["seconds"] *= 40
    specs, tables = drawn(records)
    seconds = [row["seconds"] for row in tables["confirmed"]]
    reached = [cell["seconds_to_target"] for cell in tables["cells"] if cell["seconds_to_target"]]
    assert max(seconds) > 30 * max(reached)
    assert all(high > max(seconds) for _, high in domains(specs["seconds_to_target"], "y"))


def test_an_interval_that_leaves_everything_open_does_not_stretch_the_axis():
    assert with_intervals(
        [{"a": 2.0, "a_lo": 1e-30, "a_hi": 1e30}, {"a": None, "a_lo": None, "a_hi": None}], "a"
    ) == [2.0, 0.2, 20.0]


def places(tables, chart):
    """Return the labels of a chart by their text."""
    return {row["text"]: row for row in tables["labels"] if row["chart"] == chart}


def check_labels(specs, tables, chart):
    """Check that the labels of a chart are inside it, and apart where it is narrow."""
    low, high = domains(specs[chart], "y")[0]
    left, right = domains(specs[chart], "x")[0]
    found = places(tables, chart)
    assert all(low < one["label_y"] < high for one in found.values())
    for one, other in combinations(found.values(), 2):
        across = 230 * math.log(one["x"] / other["x"]) / math.log(right / left)
        across += one["dx"] - other["dx"]
        down = 240 * math.log(one["label_y"] / other["label_y"]) / math.log(high / low)
        assert abs(across) > 3.2 * (len(one["text"]) + len(other["text"])) or abs(down) > 11.9


@pytest.mark.parametrize("chart", ["tradeoff", "loss_by_rows", "loss_by_steps", "loss_by_seconds"])
def test_labels_of_sizes_lie_inside_the_picture_and_apart(chart):
    """Many sizes at one loss and one far above, with intervals that stretch the axis."""
    sizes = [2**power for power in range(2, 13)]
    records = make_records(sizes, trials=2, truth=False, train_rows=100_000)
    for record in records:
        if record["event"] == "evaluation" and record["rows"] and record["batch_size"] < 4096:
            record["holdout_loss"] = 0.01 * 1.001 ** record["trial"]
        if record["event"] == "timing" and record["repeat"] % 2:
            record["seconds"] *= 3
    specs, tables = drawn(records)
    assert {"4", "2,048"} <= set(places(tables, chart))
    check_labels(specs, tables, chart)


def test_labels_of_the_frontier_do_not_overlap_where_the_chart_is_narrow():
    """Sizes nearly alike end at one loss, and others at the loss before it."""
    sizes = (256, 1000, 1024, 4096, 16_384, 20_000, 24_000)
    specs, tables = drawn(make_records(sizes, trials=3, target_loss=[0.05]))
    ends = {row["size"]: row["error"] for row in tables["frontier"] if row["last"]}
    assert len(set(ends.values())) > 1
    assert {text: row["x"] for text, row in places(tables, "frontier").items()} == ends
    check_labels(specs, tables, "frontier")


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


def test_sizes_that_have_no_label_elsewhere_have_none_on_the_frontier():
    """Two hundred of them would be a black bar."""
    sizes = [64 + 8 * k for k in range(40)]
    specs, tables = drawn(make_records(sizes, trials=2, lrs=[0.004], target_loss=[0.05]))
    assert "frontier" in specs
    labelled = {cell["label"] for cell in tables["cells"] if cell["label"]}
    assert 0 < len(places(tables, "frontier")) <= len(labelled) == 10
    assert set(places(tables, "frontier")) <= labelled
