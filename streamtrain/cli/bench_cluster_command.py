"""`streamtrain bench cluster`."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import aligned
from streamtrain.cli.bench_command import BENCH
from streamtrain.cli.flag_groups import Output, count, duration
from streamtrain.cli.terminal import show
from streamtrain.errors import ConfigError

_LIFE = "mean lifetime of a simulated worker; a new one replaces it one minute after it dies"
Simulate = Annotated[
    bool,
    Parameter(
        group=BENCH,
        negative=(),
        show_default=False,
        help="simulate the workers; required, because nothing else is measured yet",
    ),
]
Workers = Annotated[
    int,
    Parameter(
        group=BENCH, metavar="N", converter=count, n_tokens=1, help="number of simulated workers"
    ),
]
Rows = Annotated[
    int,
    Parameter(
        group=BENCH, metavar="N", converter=count, n_tokens=1, help="rows of the simulated data set"
    ),
]
ShardRows = Annotated[
    int,
    Parameter(
        group=BENCH, metavar="N", converter=count, n_tokens=1, help="rows of a simulated shard"
    ),
]
Life = Annotated[
    float, Parameter(group=BENCH, metavar="TIME", converter=duration, n_tokens=1, help=_LIFE)
]
Seed = Annotated[
    int,
    Parameter(
        group=BENCH,
        metavar="N",
        converter=count,
        n_tokens=1,
        help="seed of the workers' speeds and failures, and of the row order",
    ),
]


def cluster(
    *,
    simulate: Simulate = False,
    workers: Workers = 1000,
    rows: Rows = 10**12,
    shard_rows: ShardRows = 262_144_000,
    life: Life = 3600.0,
    seed: Seed = 0,
    output: Output = Output(),
) -> None:
    """Measure a cluster's driver (plan, rounds, leases, failures) against simulated workers."""
    if not simulate:
        raise ConfigError(
            "bench cluster measures the driver against simulated workers. Give --simulate."
        )
    if workers < 1 or rows < 1000 or shard_rows < 1:
        raise ConfigError(
            "bench cluster needs at least one worker, 1,000 rows, and one row in a shard;"
            f" --workers is {workers:,}, --rows is {rows:,}, --shard-rows is {shard_rows:,}."
        )
    from streamtrain.bench.cluster_bench import simulate as run_simulation
    from streamtrain.bench.simulated_backend import WorkerModel

    document = run_simulation(
        rows=rows,
        workers=workers,
        habits=WorkerModel(failure_seconds=life, hang_share=1e-5),
        seed=seed,
        shard_rows=shard_rows,
    )
    show(page(document), document, as_json=output.json)


def page(document: Mapping[str, Any]) -> str:
    """Return a table with one line per scale, and how the figures grow with the spans."""
    habits = document["habits"]
    head = (
        f"{document['workers']:,} simulated workers of about"
        f" {format_count(habits['rows_per_second'])} rows/s with a mean lifetime of"
        f" {format_seconds(habits['failure_seconds'])}; one epoch of local SGD in rounds; no rows"
        " are read"
    )
    lines = [
        [
            "rows",
            "shards",
            "opened by a worker",
            "spans",
            "plan",
            "plan memory",
            "rounds",
            "tasks",
            "lost workers",
            "failed tasks",
            "messages/s",
            "driver keeps up to",
            "took",
        ]
    ]
    for scale in document["scales"]:
        lines.append(
            [
                format_count(scale["rows"]),
                f"{scale['shards']:,}",
                f"{scale['shards_opened_per_worker']:,.0f}",
                f"{scale['spans']:,}",
                format_seconds(scale["plan_seconds"]),
                format_bytes(scale["plan_peak_bytes"]),
                f"{scale['rounds']:,}",
                f"{scale['tasks']:,}",
                f"{scale['lost_workers']:,}",
                f"{scale['failures']:,}",
                format_count(scale["messages_per_simulated_second"]),
                f"{format_count(scale['driver_messages_per_second'])}/s",
                format_seconds(scale["simulated_seconds"]),
            ]
        )
    growth = ", ".join(
        f"{name.replace('_', ' ')} {slope:.2f}" for name, slope in document["growth"].items()
    )
    parts = [head, aligned(lines, right=frozenset(range(13)))]
    if growth:
        parts.append(
            f"growth with the spans (1 is linear): {growth}; every window was trained on exactly"
            " once"
        )
    return "\n\n".join(parts)
