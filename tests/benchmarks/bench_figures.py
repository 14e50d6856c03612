"""From what a benchmark command printed to its figures; pure functions."""

from collections.abc import Iterator, Sequence
from typing import Any

from streamtrain.science.intervals import Estimate, paired_ratio
from streamtrain.types import Json
from tests.benchmarks.bench_file import Better, Figure, Unit
from tests.benchmarks.bench_rounds import over_rounds
from tests.benchmarks.quality import TARGET

#: The sides of `bench stream` that are this project's own.
_OURS = {"rows_per_second", "first_epoch_rows_per_second"}

#: Curves of the race by side: a list per turn of (seconds, excess).
Curves = dict[str, list[list[Sequence[float]]]]


def figure(name: str, values: Json, unit: Unit, better: Better) -> Figure:
    """Return a figure from the JSON form of an Estimate."""
    return Figure(name=name, estimate=Estimate.from_json(values), unit=unit, better=better)


def stream_figures(document: Json) -> Iterator[Figure]:
    """Yield the figures of `bench stream`."""
    for key, values in document["intervals"].items():
        name = f"stream/{key}"
        if key.startswith("ratio_to_"):
            yield figure(name, values, "x", "more")
        elif key == "first_minibatch_seconds":
            yield figure(name, values, "s", "less")
        else:
            yield figure(name, values, "rows/s", "more" if key in _OURS else "yardstick")
    yield figure("stream/peak_rss_bytes", {"value": document["peak_rss_bytes"]}, "bytes", "less")


def step_figures(document: Json) -> Iterator[Figure]:
    """Yield the figures of `bench step`."""
    yield figure("step/sgemm_gflops", document["intervals"]["sgemm_gflops"], "GFLOP/s", "yardstick")
    for cell in document["cells"]:
        where = f"step/{cell['engine']}/{cell['batch_size']}"
        intervals = cell["intervals"]
        yield figure(f"{where}/rows_per_second", intervals["rows_per_second"], "rows/s", "more")
        yield figure(f"{where}/ratio_to_torch_eager", intervals["ratio"], "x", "more")
        yield figure(
            f"{where}/torch_eager_rows_per_second",
            intervals["torch_eager_rows_per_second"],
            "rows/s",
            "yardstick",
        )
    for entry in document["scaling"]:
        sizes = "-".join(map(str, entry["batch_sizes"]))
        name = f"step/scaling/{sizes}/{entry['replicas']}_replicas/ratio_to_one_thread"
        yield figure(name, entry["intervals"]["ratio"], "x", "more")


def train_figures(document: Json) -> Iterator[Figure]:
    """Yield the figures of `bench train`."""
    delivery = document["intervals"]["delivery_rows_per_second"]
    yield figure("train/delivery_rows_per_second", delivery, "rows/s", "more")
    for cell in document["cells"]:
        where, intervals = (
            f"train/{cell['batch_size']}/{cell['threads']}_threads",
            cell["intervals"],
        )
        for side in ("streaming", "resident"):
            key = f"{side}_rows_per_second"
            yield figure(f"{where}/{key}", intervals[key], "rows/s", "more")
        yield figure(f"{where}/ratio_to_resident", intervals["ratio"], "x", "more")


def quality_figures(curves: Curves) -> Iterator[Figure]:
    """Yield the seconds of each side to its last point, and their ratio to streamtrain's.

    A side that was stopped before it reached the target has no seconds to it: its ratio is a lower
    bound, and named so.
    """
    ours = [run[-1][0] for run in curves["streamtrain"]]
    for side, runs in curves.items():
        seconds = [run[-1][0] for run in runs]
        reached = all(run[-1][1] <= TARGET for run in runs)
        key = "seconds" if reached else "seconds_without_reaching_the_target"
        own = side == "streamtrain"
        yield Figure(
            name=f"quality/{side}/{key}",
            estimate=over_rounds(seconds),
            unit="s",
            better="less" if own and reached else "yardstick",
        )
        if not own:
            name = "times_streamtrain" if reached else "times_streamtrain_at_least"
            yield Figure(
                name=f"quality/{side}/{name}",
                estimate=paired_ratio(seconds, ours),
                unit="x",
                better="more" if reached else "yardstick",
            )


def answer_figures(table: str, summary: Json) -> Iterator[Figure]:
    """Yield the recommendation of a sweep; nothing where it recommends no size.

    The batch size, its target and its speed have no better direction: a change of the answer moves
    all of them.
    """
    where, chosen = f"answer/{table}", summary["recommendation"]
    yield figure(f"{where}/sweep_seconds", {"value": summary["seconds"], "n": 1}, "s", "less")
    if not chosen or chosen["batch_size"] is None:
        return
    size = chosen["batch_size"]
    # its ends are the sizes that are tied with it, not a statistical interval, hence n = 0
    tied: list[int] = sorted({size, *chosen["equivalent"]})
    batch_size = {"value": size, "lo": tied[0], "hi": tied[-1], "n": 0}
    yield figure(f"{where}/batch_size", batch_size, "rows", "yardstick")
    if chosen["expected_loss"] is not None:
        yield figure(f"{where}/expected_loss", chosen["expected_loss"], "loss", "less")
    cell: dict[str, Any] = next(one for one in summary["cells"] if one["batch_size"] == size)
    for key, unit in (("seconds_to_target", "s"), ("rows_per_second", "rows/s")):
        if cell.get(key) is not None:
            yield figure(f"{where}/{key}", cell[key], unit, "yardstick")
