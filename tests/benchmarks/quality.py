"""Seconds to a good model of friedman2, by streamtrain, XGBoost and a plain torch loop.

Run by hand.

    pip install -e '.[peers]'
    streamtrain generate runs/quality-data --kind friedman2 --rows 10M --noise 0.1
    python tests/benchmarks/quality.py runs/quality-data --out runs/quality.json

Excess is the mean squared difference from the noiseless target on 131,072 other rows, in units of
the noiseless target's variance. Each side is a separate process, sides take turns, and figures are
medians. Imports, compilation and scoring are not timed.

- streamtrain, with a constant and with a growing minibatch size, is timed from opening the Parquet
  files to the last step of `streamtrain train`: the survey of the data, the first window, and
  training. The row at which it reaches the target is found first, in a run that is scored as it
  trains; a second run, which trains up to that row and is not scored, is timed.
- The torch loop has its rows in memory, as standardised tensors, before its clock starts: one
  permutation per epoch, slices of it, Adam(fused).
- XGBoost grows histogram trees on two threads; its reading and binning are timed.

All networks are 4-32-32-1 with SiLU, trained by Adam with a cosine schedule. Batch size, learning
rate and length are the best of each side, found by trying sizes 16 to 2,048, rates 0.008 to 0.06
and lengths 0.3 M to 2 M rows. At a given length all sizes from 16 to 64 do about equally well, and
larger ones need more rows, so the time of a step decides. A step of ours takes 2 µs + 0.13 µs per
row, and minibatches of 32 rows and 0.6 M rows in all win; a step of the loop takes 300 µs before
its first row, and 1,024 rows and 1.25 M in all win, on one thread (two are slower). The growing
size takes 0.3 M rows in all at rate 0.06, chosen from eight schedules, four rates and four lengths
on five seeds. XGBoost has depth 8 and its default rate, 0.3. A side ends when it reaches the
target, or after `TIMES` times streamtrain's seconds; a target that is not reached counts as more
than that.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TARGET = 7e-5
TEST_ROWS = 131_072
HIDDEN = (32, 32)

#: Rows between two scores of streamtrain's curve.
PART = 32 * 1024

#: The growing size, its rate, and rows in all. Sizes change at multiples of every size.
SCHEDULE = "16@0,32@45056,64@120832,128@210944"
GROWING_RATE, GROWING_ROWS = 0.06, 294_912

#: A side that has not reached the target after this many times streamtrain's seconds is stopped.
TIMES = {"torch_loop": 10.0, "xgboost": 20.0}


def test_set() -> tuple[np.ndarray, np.ndarray, float]:
    """Return features (rows, 4), the noiseless target, and its variance.

    The variance is over the distribution of the features.
    """
    from data_gen.friedman import friedman2

    kind = friedman2(0)
    x = kind.draw(np.random.default_rng(12345), TEST_ROWS)
    return (
        np.stack(x, axis=1).astype(np.float32),
        np.asarray(kind.function(x), dtype=np.float64),
        kind.variance,
    )


def read(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows, float32: features (rows, 4) and target."""
    import pyarrow.parquet as pq

    table = pq.read_table(data)
    return (
        np.stack([table[name].to_numpy() for name in ("x0", "x1", "x2", "x3")], axis=1),
        table["y"].to_numpy(),
    )


def streamtrain(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return the curve of a constant size; see `_streamtrain`."""
    return _streamtrain(data, f"{options.batch_size}@0", options.lr, options.rows, options)


def streamtrain_growing(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return the curve of the growing size; see `_streamtrain`."""
    return _streamtrain(data, SCHEDULE, GROWING_RATE, GROWING_ROWS, options)


def _streamtrain(
    data: str, schedule: str, lr: float, all_rows: int, options: argparse.Namespace
) -> list[tuple[float, float]]:
    """Return (seconds, excess); the last is measured, those before are interpolated by rows.

    Rows and processor time go to stderr.
    """
    import data_gen
    from streamtrain.config import make_config
    from streamtrain.run.passes import run_pass
    from streamtrain.run.prepare import prepare
    from streamtrain.run.warm_up import warm_up
    from streamtrain.stream.fetch import FetchStats
    from streamtrain.training.batch_schedule import later_stages
    from streamtrain.training.compute_pool import ComputePool
    from streamtrain.training.fused_engine import one_blas_thread

    # The window is shorter than the run: 262,144 rows, from spans of the whole data set. With
    # twice as many rows the first step waits longer, and more rows are needed.
    values = {
        "model": {"hidden": HIDDEN, "activation": options.activation},
        "eval": {"eval_rows": 4096},
        "order": {"window_rows": 262_144},
        "train": {
            "batch_schedule": schedule,
            "lr": lr,
            "max_rows": all_rows,
            "schedule": "cosine",
            "warmup_rows": 8192,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        data_gen.generate(f"{folder}/few", rows=20_000)
        warm_up(
            prepare(make_config(values | {"data": {"path": f"{folder}/few"}}), learners=1, rates=1)
        )
    config = make_config(values | {"data": {"path": data}})
    x, y, variance = test_set()
    prepared = prepare(config, learners=1, rates=1)
    standard = prepared.standard
    test = ((np.column_stack([x, y]) - standard.mean) * standard.scale).astype(np.float32)

    def excess(engine) -> float:
        return float(engine.evaluate(test)[0] / standard.scale[-1] ** 2 / variance)

    first, stages = int(schedule.split("@")[0]), later_stages(config.train)
    engine, curve = prepared.learner(first, (lr,), 0).engine, []
    blocks, done, waiting = prepared.blocks(0, FetchStats()), 0, list(stages)
    with one_blas_thread(), ComputePool(2) as cores:
        engine.cores = cores
        rows, start = next(blocks).rows, 0
        while done < all_rows and not (curve and curve[-1][1] <= TARGET):
            if start == len(rows):
                rows, start = next(blocks).rows, 0
            # a multiple of the minibatch, so that a run that ends here takes the same steps
            mark = min((done // PART + 1) * PART, all_rows)
            edge = min(mark, waiting[0].first_row) if waiting else mark
            stop = min(len(rows), start + edge - done)
            engine.advance(rows, start, stop)
            done, start = done + stop - start, stop
            if waiting and done == waiting[0].first_row:
                stage = waiting.pop(0)
                engine.set_batch_size(stage.batch_size, stage.beta2)
            if done == mark:
                curve.append((done, excess(engine)))
    blocks.close()

    started, core_started = time.perf_counter(), time.process_time()
    prepared = prepare(config, learners=1, rates=1)
    opened = time.process_time()
    learner = prepared.learner(first, (lr,), 0, stop_row=done, watched=False, stages=stages)
    ended = run_pass(prepared, [learner], 0, lambda record: None)
    seconds = time.perf_counter() - started
    ended_at = time.process_time()
    print(
        f"{schedule}: {done:,} rows; processor time {ended_at - core_started:.3f} s, of which"
        f" opening {opened - core_started:.3f} s; training {ended.training_seconds:.3f} s",
        file=sys.stderr,
    )
    opening_seconds = seconds - ended.training_seconds
    before = [
        (opening_seconds + ended.training_seconds * rows / done, level)
        for rows, level in curve[:-1]
    ]
    # scored again: the timed run cuts its rows at other places, and so rounds differently
    return [*before, (seconds, excess(learner.engine))]


def torch_loop(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return (seconds, excess) of the loop of the tutorials over tensors in memory.

    One permutation per epoch, slices of it, fused Adam; as many epochs as it needs.
    """
    import torch

    torch.set_num_threads(options.threads)
    x_test, y_test, variance = test_set()
    activation = {"relu": torch.nn.ReLU, "silu": torch.nn.SiLU, "tanh": torch.nn.Tanh}[
        options.activation
    ]
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, HIDDEN[0]),
        activation(),
        torch.nn.Linear(HIDDEN[0], HIDDEN[1]),
        activation(),
        torch.nn.Linear(HIDDEN[1], 1),
    )
    size = options.torch_batch_size
    optimizer = torch.optim.Adam(model.parameters(), lr=options.torch_lr, fused=True)
    x, y = read(data)
    mean, sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    y_mean, y_sd = y.mean(dtype=np.float64), y.std(dtype=np.float64)
    inputs = torch.from_numpy(((x - mean) / sd).astype(np.float32))
    targets = torch.from_numpy(((y - y_mean) / y_sd).astype(np.float32))[:, None]
    test = torch.from_numpy(((x_test - mean) / sd).astype(np.float32))
    steps = math.ceil(options.torch_rows / size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, steps, eta_min=options.torch_lr / 100
    )
    for _ in range(3):  # warms torch up
        torch.nn.functional.mse_loss(model(inputs[:size]), targets[:size]).backward()
    curve, paused, step, started = [], 0.0, 0, time.perf_counter()
    while True:
        for index in torch.randperm(len(inputs)).split(size):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs[index]), targets[index])
            loss.backward()
            optimizer.step()
            if step < steps:
                schedule.step()
            step += 1
            if step % max(1, PART // size) == 0:
                now = time.perf_counter()
                with torch.no_grad():
                    error = model(test)[:, 0].double().numpy() * y_sd + y_mean - y_test
                excess = float(np.mean(error**2)) / variance
                curve.append((now - started - paused, excess))
                if excess <= TARGET or curve[-1][0] > options.limit_seconds:
                    return curve
                paused += time.perf_counter() - now


def xgboost(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return (seconds, excess) of histogram trees: 256 bins, depth 8, rate 0.3, two threads."""
    import xgboost  # pyright: ignore[reportMissingImports]  # of the extra `peers`

    x_test, y_test, variance = test_set()
    test = xgboost.DMatrix(x_test)
    started = time.perf_counter()
    x, y = read(data)
    matrix = xgboost.QuantileDMatrix(x, y, nthread=2)
    booster = xgboost.Booster(
        {
            "tree_method": "hist",
            "nthread": 2,
            "max_depth": 8,
            "eta": options.eta,
            "base_score": float(y.mean()),
        },
        [matrix],
    )
    curve, paused = [], 0.0
    for tree in range(100_000):
        booster.update(matrix, tree)
        if tree < 20 or tree % 10 == 9:
            now = time.perf_counter()
            excess = (
                float(np.mean((booster.predict(test).astype(np.float64) - y_test) ** 2)) / variance
            )
            curve.append((now - started - paused, excess))
            if excess <= TARGET or curve[-1][0] > options.limit_seconds:
                break
            paused += time.perf_counter() - now
    return curve


SIDES = {
    "streamtrain": streamtrain,
    "streamtrain_growing": streamtrain_growing,
    "torch_loop": torch_loop,
    "xgboost": xgboost,
}


def options_from(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument(
        "--side", choices=SIDES, help="run one side in this process, as the race does for each"
    )
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--json", action="store_true", help="print the curves, not the table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="write the curves here, as JSON")
    parser.add_argument("--picture", help="draw the curves here, as PNG or SVG")
    parser.add_argument("--activation", default="silu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--torch-batch-size", type=int, default=1024)
    parser.add_argument("--torch-lr", type=float, default=0.06)
    parser.add_argument("--torch-rows", type=int, default=1_250_000)
    parser.add_argument("--threads", type=int, default=1, help="of the torch loop")
    parser.add_argument("--eta", type=float, default=0.3)
    parser.add_argument("--limit-seconds", type=float, default=600.0)
    return parser.parse_args(words)


def race(options: argparse.Namespace) -> dict[str, list]:
    """Return the curves of each side.

    Sides take turns. Each is stopped after `TIMES` times streamtrain's seconds of the same turn.
    """
    curves: dict[str, list] = {side: [] for side in options.sides}
    for _ in range(options.repeats):
        ours = math.inf
        for side in options.sides:
            limit = min(options.limit_seconds, TIMES.get(side, math.inf) * ours)
            words = [*sys.argv[1:], "--side", side, "--limit-seconds", str(limit)]
            done = subprocess.run(
                [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True
            )
            curve = json.loads(done.stdout.splitlines()[-1])
            curves[side].append(curve)
            seconds, excess = curve[-1]
            if side == "streamtrain":
                ours = seconds
            print(f"{side}: {seconds:.2f} s, excess {excess:.2g}", file=sys.stderr)
    return curves


def table(curves: dict[str, list]) -> str:
    """Return a Markdown table: median seconds to the target, and their ratio to the first side's.

    The ratios are of the same turn.
    """
    first = next(iter(curves))
    lines = [
        f"| side | seconds to an excess of {TARGET:g} | times {first}'s | excess reached |",
        "|---|---:|---:|---:|",
    ]
    for side, runs in curves.items():
        last, ours = [run[-1] for run in runs], [run[-1][0] for run in curves[first]]
        more = "" if all(excess <= TARGET for _, excess in last) else "more than "
        ratios = [seconds / own for (seconds, _), own in zip(last, ours, strict=True)]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        name = side.replace("_", " ")
        lines.append(
            f"| {name} | {more}{statistics.median(seconds for seconds, _ in last):.2f} |"
            f" {more}{spread} | {statistics.median(e for _, e in last):.2g} |"
        )
    return "\n".join(lines)


def draw(curves: dict[str, list], path: Path) -> None:
    """Draw excess against seconds, with a line per run."""
    import altair as alt
    import vl_convert

    rows = [
        {"side": side.replace("_", " "), "run": number, "seconds": seconds, "excess": excess}
        for side, runs in curves.items()
        for number, run in enumerate(runs)
        for seconds, excess in run
    ]
    highest = [
        max((row for row in rows if row["side"] == side), key=lambda row: row["excess"])
        for side in {row["side"] for row in rows}
    ]
    x = alt.X("seconds:Q", title="seconds", scale=alt.Scale(type="log"))
    y = alt.Y(
        "excess:Q",
        title="excess mean squared error, in units of the noiseless variance",
        scale=alt.Scale(type="log"),
    )
    chart = alt.layer(
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.5, point={"size": 8})
        .encode(x=x, y=y, color=alt.Color("side:N", legend=None), detail="run:N"),
        alt.Chart(alt.Data(values=highest))
        .mark_text(dy=-9)
        .encode(x=x, y=y, text="side:N", color=alt.Color("side:N", legend=None)),
        alt.Chart(alt.Data(values=[{"excess": TARGET}]))
        .mark_rule(strokeDash=[4, 4])
        .encode(y="excess:Q"),
    ).properties(width=560, height=320, title="friedman2, 10 M rows: excess against seconds")
    if path.suffix == ".svg":
        path.write_text(vl_convert.vegalite_to_svg(chart.to_dict()))
    else:
        path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))


def main() -> None:
    options = options_from()
    if options.side:
        print(json.dumps(SIDES[options.side](options.data, options)))
        return
    curves = race(options)
    print(json.dumps(curves) if options.json else table(curves))
    if options.out:
        Path(options.out).write_text(json.dumps(curves))
    if options.picture:
        draw(curves, Path(options.picture))


if __name__ == "__main__":
    main()
