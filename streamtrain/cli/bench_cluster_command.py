"""`streamtrain bench cluster`."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from streamtrain.base.units import format_bytes, format_count, format_seconds, parse_seconds
from streamtrain.cli.bench_command import BENCH
from streamtrain.cli.flag_groups import Output, count
from streamtrain.cli.terminal import show, table
from streamtrain.errors import ConfigError


def _duration(type_: Any, tokens: Any) -> float:
    return parse_seconds(tokens[0].value)


_LIFE = "mean life of a simulated worker; another takes its place a minute after its death"
Simulate = Annotated[
    bool,
    Parameter(
        group=BENCH,
        negative=(),
        show_default=False,
        help="simulate the workers: nothing else is measured yet",
    ),
]
Workers = Annotated[
    int, Parameter(group=BENCH, metavar="N", converter=count, n_tokens=1, help="simulated workers")
]
Rows = Annotated[
    int,
    Parameter(
        group=BENCH, metavar="N", converter=count, n_tokens=1, help="rows of the simulated data set"
    ),
]
Life = Annotated[
    float, Parameter(group=BENCH, metavar="TIME", converter=_duration, n_tokens=1, help=_LIFE)
]
Seed = Annotated[
    int,
    Parameter(
        group=BENCH, metavar="N", converter=count, n_tokens=1, help="of speeds, deaths and the plan"
    ),
]


def cluster(
    *,
    simulate: Simulate = False,
    workers: Workers = 1000,
    rows: Rows = 10**12,
    life: Life = 3600.0,
    seed: Seed = 0,
    output: Output = Output(),
) -> None:
    """Run a cluster's driver (plan, rounds, leases, failures) against simulated workers, and say
    what it costs.
    """
    if not simulate:
        raise ConfigError(
            "bench cluster measures the driver against simulated workers. Give --simulate."
        )
    if workers < 1 or rows < 1000:
        raise ConfigError(
            f"bench cluster needs a worker and 1,000 rows at least; --workers is {workers:,},"
            f" --rows is {rows:,}."
        )
    from streamtrain.bench.cluster_bench import simulate as run_simulation
    from streamtrain.bench.simulated_backend import WorkerModel

    document = run_simulation(
        rows=rows,
        workers=workers,
        habits=WorkerModel(failure_seconds=life, hang_share=1e-5),
        seed=seed,
    )
    show(page(document), document, as_json=output.json)


def page(document: Mapping[str, Any]) -> str:
    """A line for each scale, and how the figures grow with the spans."""
    habits = document["habits"]
    head = (
        f"{document['workers']:,} simulated workers of about"
        f" {format_count(habits['rows_per_second'])} rows/s that live"
        f" {format_seconds(habits['failure_seconds'])}; one epoch of local SGD in rounds; no row is"
        " read"
    )
    lines = [
        [
            "rows",
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
    for one in document["scales"]:
        lines.append(
            [
                format_count(one["rows"]),
                f"{one['spans']:,}",
                format_seconds(one["plan_seconds"]),
                format_bytes(one["plan_peak_bytes"]),
                f"{one['rounds']:,}",
                f"{one['tasks']:,}",
                f"{one['lost_workers']:,}",
                f"{one['failures']:,}",
                format_count(one["messages_per_simulated_second"]),
                f"{format_count(one['driver_messages_per_second'])}/s",
                format_seconds(one["simulated_seconds"]),
            ]
        )
    growth = ", ".join(
        f"{name.replace('_', ' ')} {slope:.2f}" for name, slope in document["growth"].items()
    )
    verdict = (
        f"growth with the spans (1 is linear): {growth}; every window was trained on exactly once"
        if growth
        else ""
    )
    return "\n\n".join(
        part for part in (head, table(lines, right=frozenset(range(11))), verdict) if part
    )
