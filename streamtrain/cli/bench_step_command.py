"""`streamtrain bench step` and `streamtrain bench train`."""

from collections.abc import Mapping
from typing import Any

from streamtrain.base.units import format_count, format_seconds
from streamtrain.base.words import aligned, plural
from streamtrain.cli.bench_command import Repeats
from streamtrain.cli.flag_groups import (
    ConfigDataPath,
    FedFlags,
    Output,
    Sources,
    StepFlags,
    load_config,
)
from streamtrain.cli.terminal import format_interval, plain_warnings, show
from streamtrain.errors import ConfigError


def step(
    *,
    flags: StepFlags = StepFlags(),
    sources: Sources = Sources(),
    repeats: Repeats = 5,
    output: Output = Output(),
) -> None:
    """Compare training steps with a plain PyTorch loop and single-thread sgemm.

    All of them take turns on the same rows in memory.
    """
    config, _ = load_config(None, flags, sources)
    from streamtrain.bench.step_bench import measure_step

    with plain_warnings(quiet=output.quiet):
        document = measure_step(config, repeats=repeats)
    show(step_page(document), document, as_json=output.json)


def train(
    data: ConfigDataPath = None,
    /,
    *,
    flags: FedFlags = FedFlags(),
    sources: Sources = Sources(),
    repeats: Repeats = 5,
    output: Output = Output(),
) -> None:
    """Compare a learner fed from shards with the same one fed from a block in memory.

    Both take turns in one run.
    """
    config, _ = load_config(data, flags, sources)
    if config.data.path is None:
        raise ConfigError(
            "bench train needs DATA: a file, a folder or a glob of Parquet or Zarr shards, or"
            " data.path in the config"
        )
    from streamtrain.bench.train_bench import measure_train

    with plain_warnings(quiet=output.quiet):
        document = measure_train(config, repeats=repeats)
    show(train_page(document), document, as_json=output.json)


def step_page(document: Mapping[str, Any]) -> str:
    """Return engines compared with torch, threads compared with one, and what limits them."""
    compiled = ", ".join(
        f"{name} {format_seconds(seconds)}" for name, seconds in document["compile_seconds"].items()
    )
    head = (
        f"{plural(document['parameters'], 'parameter')}, {document['optimizer']},"
        f" {document['loss']}; {plural(document['repeats'], 'repeat')}; sgemm"
        f" {document['sgemm_gflops']:.1f} GFLOP/s; ready after {compiled}, not counted"
    )
    parts = [head, _engines_table(document)]
    if document["scaling"]:
        parts.append(_threads_table(document))
    return "\n\n".join([*parts, document["limit"]])


def _engines_table(document: Mapping[str, Any]) -> str:
    on_gpu = len({cell["rows_on"] for cell in document["cells"]}) > 1
    lines = [
        [
            "batch size",
            "engine",
            *(["rows on"] if on_gpu else []),
            "rows/s",
            "[95 %]",
            "torch eager",
            "engine is",
            "[95 %]",
            "GFLOP/s",
            "of sgemm",
        ]
    ]
    for cell in document["cells"]:
        gflops, intervals = cell["gflops"], cell["intervals"]
        eager_rate = format_count(cell["torch_eager_rows_per_second"])
        eager_threads = plural(cell["torch_eager_threads"], "thread")
        lines.append(
            [
                f"{cell['batch_size']:,}",
                cell["engine"],
                *([cell["rows_on"]] if on_gpu else []),
                format_count(cell["rows_per_second"]),
                format_interval(intervals["rows_per_second"], format_count),
                f"{eager_rate} on {eager_threads}",
                f"{cell['ratio']:.3g} ×",
                format_interval(intervals["ratio"], "{:.3g} ×".format),
                "" if gflops is None else f"{gflops:.1f}",
                "" if gflops is None else f"{gflops / document['sgemm_gflops']:.2f}",
            ]
        )
    rates = {2, 5, 7, 8}
    return aligned(lines, right=frozenset({0} | {column + on_gpu for column in rates}))


def _threads_table(document: Mapping[str, Any]) -> str:
    lines = [["fused", "on one thread", f"on {document['threads']} threads", "faster", "[95 %]"]]
    for row in document["scaling"]:
        if row["replicas"] == 1:
            name = f"rows of {row['batch_sizes'][0]:,}"
        else:
            name = plural(row["replicas"], "replica")
        lines.append(
            [
                name,
                format_count(row["one_thread_rows_per_second"]),
                format_count(row["rows_per_second"]),
                f"{row['ratio']:.2f} ×",
                format_interval(row["intervals"]["ratio"], "{:.2f} ×".format),
            ]
        )
    return aligned(lines, right=frozenset({1, 2, 3}))


def train_page(document: Mapping[str, Any]) -> str:
    """Return what was measured, streaming compared with resident in a table, and what limits it."""
    head = (
        f"{document['data']}: {plural(document['rows'], 'row')} of"
        f" {plural(document['features'], 'feature')}; {document['engine']} engine,"
        f" {plural(document['readers'], 'reader')}, {plural(document['cores'], 'core')},"
        f" {plural(document['repeats'], 'repeat')}; delivery alone"
        f" {format_count(document['delivery_rows_per_second'])} rows/s,"
        f" {document['delivery_core_nanoseconds']:.1f} ns of core time per row; ready after"
        f" {format_seconds(document['compile_seconds'])}, not counted"
    )
    lines = [
        ["batch size", "threads", "from shards, rows/s", "from memory", "ratio", "[95 %]", "bound"]
    ]
    on_gpu = any(cell["on_gpu_rows_per_second"] for cell in document["cells"])
    if on_gpu:
        lines[0].append("on the GPU")
    for cell in document["cells"]:
        lines.append(
            [
                f"{cell['batch_size']:,}",
                str(cell["threads"]),
                format_count(cell["streaming_rows_per_second"]),
                format_count(cell["resident_rows_per_second"]),
                f"{cell['ratio']:.3f}",
                format_interval(cell["intervals"]["ratio"], "{:.3f}".format),
                f"{cell['bound']:.3f}",
                *([format_count(cell["on_gpu_rows_per_second"])] if on_gpu else []),
            ]
        )
    return "\n\n".join(
        [head, aligned(lines, right=frozenset(range(5)) | {6, 7}), document["limit"]]
    )
