"""Where the arrays of a replica lie in the shared memory of its CUDA block: pure arithmetic.

Widths are padded to multiples of 4, so that everything is read 16 bytes at a time. The weights of
the padding are 0 and stay 0. All places are in float32 values.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

#: (rows of a tile, rows of a thread's patch), for large minibatches first. A tile holds an even
#: number of patches.
TILES = ((256, 8), (128, 4), (64, 2), (32, 2))

#: The most partial sums of a layer's gradient, tried in this order until all fits.
_MOST_SPLITS = (32, 8, 2, 1)

#: Minibatches of this many rows or more are shared by several blocks: two launches should cost
#: little in comparison. Not measured on a GPU yet; it should be `sharing_pays_from_1` of
#: `make gpu-check`. Another value changes rounding on GPUs, and the states that are saved there.
SPLIT_FROM = 16_384

#: Rows of a part of such a minibatch, two of the largest tiles. Parts are dealt to slots in turn.
PART_ROWS = 512

#: The most slots of a minibatch, about the multiprocessors of a large GPU, and the most values of a
#: replica's slots together.
MOST_SLOTS, MOST_SLOT_FLOATS = 128, 2**19

#: Values of the step that one thread computes for all.
SCALARS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlace:
    """One layer's weight (inputs, outputs), in rows `stride` apart, and its bias, from `begin` on.

    `splits` partial sums of its gradient lie from `sums` on, `size` values apart, each like the
    parameters. `quads` times 4 inputs by 4 outputs are a patch of the gradient.
    """

    inputs: int
    outputs: int
    stride: int
    begin: int
    size: int
    quads: int
    splits: int
    sums: int

    @property
    def bias(self) -> int:
        """Where the bias begins."""
        return self.begin + self.inputs * self.stride


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The places of one replica's arrays; parameters begin at 0.

    `values[n]` are the inputs of layer n, row after row `steps[n]` apart: features, then
    activations, over which deltas are written. `sources[n]` is what the derivative is computed
    from: the values themselves, or the layer's sums before the activation.
    """

    tile: int
    patch: int
    threads: int
    layers: tuple[LayerPlace, ...]
    num_parameters: int
    moments: int
    scalars: int
    targets: int
    residuals: int
    values: tuple[int, ...]
    steps: tuple[int, ...]
    sources: tuple[int, ...]
    floats: int

    @property
    def dynamic_bytes(self) -> int:
        """The bytes of dynamic shared memory: these arrays."""
        return 4 * self.floats

    @property
    def static_bytes(self) -> int:
        """The bytes of shared memory that the kernels declare: a float64 sum per thread."""
        return 8 * self.threads

    @property
    def shared_bytes(self) -> int:
        """The bytes of shared memory together."""
        return self.dynamic_bytes + self.static_bytes


def make_layout(
    widths: tuple[int, ...], keeps_sums: bool, tile: int, patch: int, threads: int, most_splits: int
) -> Layout:
    """Return the layout of a perceptron of these widths, from features to the one output.

    `keeps_sums`: the activation's derivative needs the sums before the activation.
    """
    assert widths[-1] == 1
    assert tile % (2 * patch) == 0
    padded = (*(_fours(width) for width in widths[:-1]), 1)
    at = 0
    layers: list[LayerPlace] = []
    for number, (inputs, outputs) in enumerate(pairwise(padded)):
        # Rows of a weight that deltas go through are 4 banks apart, so that lanes do not collide.
        is_inner = 0 < number < len(padded) - 2
        stride = outputs + 4 if is_inner else outputs
        quads = 2 if inputs % 8 == 0 else 1
        patches = inputs // 4 + 1
        if outputs > 1:
            patches = inputs // (4 * quads) * (outputs // 4)
        # some threads are left for the bias
        splits = max(1, min(most_splits, (threads - min(32, threads // 8)) // patches))
        size = _fours(inputs * stride + outputs)
        layers.append(
            LayerPlace(
                inputs=inputs,
                outputs=outputs,
                stride=stride,
                begin=at,
                size=size,
                quads=quads,
                splits=splits,
                sums=0,
            )
        )
        at += size
    num_parameters, moments = at, at
    at += 2 * num_parameters
    placed: list[LayerPlace] = []
    for layer in layers:
        fields = {name: getattr(layer, name) for name in layer.__slots__}
        placed.append(LayerPlace(**fields | {"sums": at}))
        at += layer.splits * layer.size
    scalars, at = at, at + SCALARS
    targets, at = at, at + tile
    residuals, at = at, at + tile
    steps = tuple(width + 4 for width in padded[:-1])
    values, sources = [0] * len(steps), [0] * len(steps)
    for number, step in enumerate(steps):
        values[number] = sources[number] = at
        at += tile * step
        if number and keeps_sums:
            sources[number] = at
            at += tile * step
    return Layout(
        tile=tile,
        patch=patch,
        threads=threads,
        layers=tuple(placed),
        num_parameters=num_parameters,
        moments=moments,
        scalars=scalars,
        targets=targets,
        residuals=residuals,
        values=tuple(values),
        steps=steps,
        sources=tuple(sources),
        floats=at,
    )


def choose_layout(
    widths: tuple[int, ...], keeps_sums: bool, batch_size: int, threads: int, limit_bytes: int
) -> Layout | None:
    """Return the layout with the largest tile that suits the batch size and fits, or None.

    The number of multiprocessors does not matter.
    """
    for tile, patch in TILES:
        if tile > max(64, batch_size):
            continue
        for most_splits in _MOST_SPLITS:
            layout = make_layout(widths, keeps_sums, tile, patch, threads, most_splits)
            if layout.shared_bytes <= limit_bytes:
                return layout
    return None


def choose_slots(batch_size: int, num_parameters: int) -> int:
    """Return how many blocks share the rows of a minibatch: 1 if one block takes all of them.

    It depends on the run only, never on the GPU.

    >>> [choose_slots(size, 1_249) for size in (4_096, 16_384, 65_536, 1_048_576)]
    [1, 32, 128, 128]
    """
    if batch_size < SPLIT_FROM:
        return 1
    return max(1, min(MOST_SLOTS, batch_size // PART_ROWS, MOST_SLOT_FLOATS // num_parameters))


def parameter_places(layout: Layout, widths: tuple[int, ...]) -> np.ndarray:
    """Return where each parameter of the flat vector lies among the padded ones: int64 (P,).

    The flat vector has for each layer the weight (inputs, outputs), then the bias (outputs).
    """
    pieces: list[np.ndarray] = []
    for layer, (inputs, outputs) in zip(layout.layers, pairwise(widths), strict=True):
        rows = layer.begin + layer.stride * np.arange(inputs)[:, None]
        pieces.append((rows + np.arange(outputs)).ravel())
        pieces.append(layer.bias + np.arange(outputs))
    return np.concatenate(pieces)


def _fours(count: int) -> int:
    return -(-count // 4) * 4
