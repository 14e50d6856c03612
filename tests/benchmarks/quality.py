"""The race a user cares about: seconds to a good model of friedman2, by streamtrain, XGBoost and a plain torch loop. Run by hand.

    pip install -e . xgboost==3.1.1
    streamtrain generate runs/quality-data --kind friedman2 --rows 10M --noise 0.1
    python tests/benchmarks/quality.py runs/quality-data --out runs/quality.json

Excess is the mean squared difference from the noiseless target on 131,072 other rows, in units of the noiseless target's variance.
Each side is a process of its own; sides take turns; medians. Imports, compilation and scoring are outside the clock, reading
inside. streamtrain and the loop train the same network from standardised columns, each at the minibatch size, learning rate and
length that suit it; both let the rate fall along a cosine. The loop has all its rows in memory before its clock starts but for reading them.
XGBoost grows histogram trees on two threads until it is there. A side ends when it is, or after five times streamtrain's seconds.
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


def test_set() -> tuple[np.ndarray, np.ndarray, float]:
    """Features (rows, 4), the noiseless target, and its variance over the features' distribution."""
    from data_gen.friedman import friedman2

    kind = friedman2(0)
    x = kind.draw(np.random.default_rng(12345), TEST_ROWS)
    return np.stack(x, axis=1).astype(np.float32), np.asarray(kind.function(x), dtype=np.float64), kind.variance


def read(data: str) -> tuple[np.ndarray, np.ndarray]:
    """All rows, float32: features (rows, 4) and target."""
    import pyarrow.parquet as pq

    table = pq.read_table(data)
    return np.stack([table[name].to_numpy() for name in ("x0", "x1", "x2", "x3")], axis=1), table["y"].to_numpy()


def streamtrain(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """(seconds, excess) at the ends of quarter blocks."""
    import data_gen
    from streamtrain.config import make_config
    from streamtrain.learners.cores import Cores
    from streamtrain.learners.fused_engine import one_blas_thread
    from streamtrain.passes import prepare, warm_up
    from streamtrain.stream.fetch import FetchStats

    train = {"batch_size": options.batch_size, "lr": options.lr, "epochs": options.epochs, "schedule": "cosine", "warmup_rows": 65536}
    values = {"model": {"hidden": HIDDEN, "activation": options.activation}, "train": train, "eval": {"eval_rows": 4096}}
    with tempfile.TemporaryDirectory() as folder:
        data_gen.generate(f"{folder}/few", rows=20_000)
        warm_up(prepare(make_config(values | {"data": {"path": f"{folder}/few"}}), learners=1, rates=1))
    x, y, variance = test_set()
    curve, paused, started = [], 0.0, time.perf_counter()
    prepared = prepare(make_config(values | {"data": {"path": data}}), learners=1, rates=1)
    standard = prepared.standard
    test = ((np.column_stack([x, y]) - standard.mean) * standard.scale).astype(np.float32)
    engine = prepared.learner(options.batch_size, (options.lr,), 0).engine
    blocks, done = prepared.blocks(0, FetchStats()), 0
    with one_blas_thread(), Cores(2) as cores:
        engine.cores = cores
        for block in blocks:
            for part in range(4):
                start, stop = len(block.rows) * part // 4, len(block.rows) * (part + 1) // 4
                stop = min(stop, start + prepared.last_row - done)
                engine.advance(block.rows, start, stop)
                done += stop - start
                now = time.perf_counter()
                excess = float(engine.evaluate(test)[0]) / standard.scale[-1] ** 2 / variance
                curve.append((now - started - paused, excess))
                paused += time.perf_counter() - now
                if excess <= TARGET or done >= prepared.last_row:
                    blocks.close()
                    return curve
    return curve


def torch_loop(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """The loop of the tutorials over tensors in memory: one permutation an epoch, slices of it, fused Adam."""
    import torch

    torch.set_num_threads(options.threads)
    x_test, y_test, variance = test_set()
    activation = {"relu": torch.nn.ReLU, "silu": torch.nn.SiLU, "tanh": torch.nn.Tanh}[options.activation]
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, HIDDEN[0]), activation(), torch.nn.Linear(HIDDEN[0], HIDDEN[1]), activation(), torch.nn.Linear(HIDDEN[1], 1)
    )
    size = options.torch_batch_size
    optimizer = torch.optim.Adam(model.parameters(), lr=options.torch_lr, fused=True)
    started = time.perf_counter()
    x, y = read(data)
    mean, sd, y_mean, y_sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64), y.mean(dtype=np.float64), y.std(dtype=np.float64)
    inputs = torch.from_numpy(((x - mean) / sd).astype(np.float32))
    targets = torch.from_numpy(((y - y_mean) / y_sd).astype(np.float32))[:, None]
    test = torch.from_numpy(((x_test - mean) / sd).astype(np.float32))
    steps = math.ceil(options.torch_epochs * len(inputs) / size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve, paused, step = [], 0.0, 0
    while True:
        for index in torch.randperm(len(inputs)).split(size):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs[index]), targets[index])
            loss.backward()
            optimizer.step()
            if step < steps:
                schedule.step()
            step += 1
            if step % max(1, 500_000 // size) == 0:
                now = time.perf_counter()
                with torch.no_grad():
                    error = model(test)[:, 0].double().numpy() * y_sd + y_mean - y_test
                excess = float(np.mean(error**2)) / variance
                curve.append((now - started - paused, excess))
                if excess <= TARGET or curve[-1][0] > options.limit_seconds:
                    return curve
                paused += time.perf_counter() - now


def xgboost(data: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Histogram trees, 256 bins, depth 8, learning rate 0.1, two threads."""
    import xgboost

    x_test, y_test, variance = test_set()
    test = xgboost.DMatrix(x_test)
    started = time.perf_counter()
    x, y = read(data)
    matrix = xgboost.QuantileDMatrix(x, y, nthread=2)
    booster = xgboost.Booster({"tree_method": "hist", "nthread": 2, "max_depth": 8, "eta": options.eta, "base_score": float(y.mean())}, [matrix])
    curve, paused = [], 0.0
    for tree in range(100_000):
        booster.update(matrix, tree)
        if tree % 10 == 9:
            now = time.perf_counter()
            excess = float(np.mean((booster.predict(test).astype(np.float64) - y_test) ** 2)) / variance
            curve.append((now - started - paused, excess))
            if excess <= TARGET or curve[-1][0] > options.limit_seconds:
                break
            paused += time.perf_counter() - now
    return curve


SIDES = {"streamtrain": streamtrain, "torch_loop": torch_loop, "xgboost": xgboost}


def options_from(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--side", choices=SIDES, help="one side alone, in this process: what the race starts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="write the curves here, as JSON")
    parser.add_argument("--activation", default="silu")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.008)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--torch-batch-size", type=int, default=1024)
    parser.add_argument("--torch-lr", type=float, default=0.008)
    parser.add_argument("--torch-epochs", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eta", type=float, default=0.1)
    parser.add_argument("--limit-seconds", type=float, default=600.0)
    return parser.parse_args(words)


def race(options: argparse.Namespace) -> dict:
    """Side → its curves; sides take turns, and none goes on beyond five times streamtrain's seconds of the same turn."""
    curves: dict[str, list] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        limit = options.limit_seconds
        for side in SIDES:
            words = [*sys.argv[1:], "--side", side, "--limit-seconds", str(limit)]
            done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
            curves[side].append(json.loads(done.stdout.splitlines()[-1]))
            if side == "streamtrain":
                limit = 5 * curves[side][-1][-1][0]
    return curves


def main() -> None:
    options = options_from()
    if options.side:
        print(json.dumps(SIDES[options.side](options.data, options)))
        return
    curves = race(options)
    print(f"| side | seconds to an excess of {TARGET:g} | excess reached |\n|---|---|---|")
    for side, runs in curves.items():
        reached = [run[-1][0] if run[-1][1] <= TARGET else math.inf for run in runs]
        seconds = statistics.median(reached)
        shown = f"{seconds:.2f}" if math.isfinite(seconds) else f"more than {statistics.median(run[-1][0] for run in runs):.1f}"
        print(f"| {side} | {shown} | {statistics.median(min(excess for _, excess in run) for run in runs):.2g} |")
    if options.out:
        Path(options.out).write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
