"""Whether an engine takes the steps of the fused engine on the CPU.

A GPU or a compiler that computes wrong steps must not train.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.training.engine import Engine
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Shape


@lru_cache(maxsize=64)
def check_steps(
    make: Callable[..., Engine],
    shape: Shape,
    train: TrainConfig,
    batch_size: int,
) -> None:
    """Compare a few steps with those of the fused engine on the CPU, once per process.

    `make` constructs the engine. Raises ConfigError when the steps differ, and what the engines
    raise.
    """
    count = max(4096, 3 * batch_size + 1)  # whole minibatches, and some rows more
    rows = np.random.default_rng(0).standard_normal((count, shape.widths[0] + 1))
    rows = rows.astype(np.float32)
    start_P = shape.initial_parameters(0, 0)
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for constructor in (make, FusedEngine):
        engine = constructor(shape, start_P, batch_size, (train.rate,), train, 2 * len(rows))
        losses_R = engine.advance(rows, 0, 3 * batch_size + 1)
        engine.finish_epoch()
        taken.append((engine.parameters()[0] - start_P, losses_R))
    # Each by itself: the sum of the losses is a hundred times as large as all moves together.
    for ours, expected in zip(*taken, strict=True):
        # The negation also catches NaN.
        if not np.abs(ours - expected).mean() <= 0.01 * np.abs(expected).mean():
            raise ConfigError(
                f"--engine fused on {train.device}: its steps differ from those on the CPU. Use"
                " --engine torch, and report it."
            )
