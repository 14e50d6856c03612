"""`streamtrain bench stream`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.cli.flag_groups import Output, Sources, StreamFlags, count, load_config
from streamtrain.cli.terminal import plain_warnings, plural, show, table
from streamtrain.errors import ConfigError

BENCH = Group("Bench", sort_key=3)
DATA_HELP = (
    "a file, a folder or a glob of Parquet or Zarr shards; left out: data.path of the config"
)
_ROWS, _REPEATS = (
    "each side takes at most this many rows a repeat; left out: 20M",
    "timed rounds after the warm-up",
)
Rows = Annotated[
    int | None, Parameter(group=BENCH, metavar="N", converter=count, n_tokens=1, help=_ROWS)
]
Repeats = Annotated[
    int, Parameter(group=BENCH, metavar="N", converter=count, n_tokens=1, help=_REPEATS)
]

#: Side, as in the names of keys → its words; the names of our own keys have no side in front.
_SIDES = {
    "": "streamtrain",
    "first_epoch": "its first epoch",
    "decode": "raw decode, {readers}, {through}",
    "expert_loop": "expert's loop",
    "tuned_loop": "expert's loop, tuned",
    "in_ram_gather": "gather in memory, torch",
}


def stream(
    data: Annotated[str | None, Parameter(help=DATA_HELP)] = None,
    /,
    *,
    flags: StreamFlags = StreamFlags(),
    sources: Sources = Sources(),
    rows: Rows = None,
    repeats: Repeats = 5,
    output: Output = Output(),
) -> None:
    """Measure shuffled delivery beside raw decode, an expert's loop and a gather in memory, taking
    turns in one run.
    """
    config, _ = load_config(data, flags, sources)
    if config.data.path is None:
        raise ConfigError(
            "bench stream needs DATA: a file, a folder or a glob of Parquet or Zarr shards, or"
            " data.path in the config"
        )
    from streamtrain.bench.stream_bench import measure_stream

    with plain_warnings(quiet=output.quiet):
        document = measure_stream(config, rows=rows, repeats=repeats)
    show(page(document), document, as_json=output.json)


def page(document: Mapping[str, Any]) -> str:
    """What was measured, the sides in a table, memory, the first minibatch, the bottleneck."""
    head = (
        f"{document['data']} ({document['format']}): {plural(document['rows'], 'row')} a side,"
        f" minibatches of {document['batch_size']:,}, {plural(document['readers'], 'reader')},"
        f" {plural(document['repeats'], 'repeat')} after a warm-up"
    )
    reasons = [f"{_name(document, side)}: {reason}" for side, reason in document["reasons"].items()]
    return "\n\n".join(
        part for part in (head, _table(document), _facts(document), "\n".join(reasons)) if part
    )


def _table(document: Mapping[str, Any]) -> str:
    lines = [["side", "rows/s", "[95 %]", "streamtrain is", "[95 %]"]]
    for side in _SIDES:
        rate = f"{side}_rows_per_second".removeprefix("_")
        measured = _figure(document, rate, format_count) if document[rate] else ["not measured", ""]
        lines.append(
            [
                _name(document, side),
                *measured,
                *_figure(document, f"ratio_to_{side}", "{:.3g} ×".format),
            ]
        )
    return table(lines, right=frozenset({1, 3}))


def _name(document: Mapping[str, Any], side: str) -> str:
    return _SIDES[side].format(
        readers=plural(document["readers"], "thread"), through=document["decode_through"]
    )


def _figure(document: Mapping[str, Any], key: str, text: Callable[[float], str]) -> list[str]:
    """A value and its interval; empty where there is none."""
    figure = document["intervals"].get(key)
    if figure is None:
        return ["", ""]
    return [
        text(figure["value"]),
        "" if figure["lo"] is None else f"[{text(figure['lo'])}, {text(figure['hi'])}]",
    ]


def _facts(document: Mapping[str, Any]) -> str:
    parts = document["parts"]
    seconds = {
        "decode": parts["decode_seconds"],
        "shuffle": parts["deal_seconds"] + parts["permute_seconds"],
        "consumer": parts["consumer_seconds"],
        "consumer waits": parts["wait_seconds"],
    }
    shares = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items())
    peak, projected, budget = (
        format_bytes(document[name])
        for name in ("peak_rss_bytes", "projected_bytes", "memory_budget_bytes")
    )
    return table(
        [
            [
                "first minibatch",
                f"after {format_seconds(document['first_minibatch_seconds'])}, opening included",
            ],
            [
                "memory",
                f"{peak} at the peak beyond the imports; {projected} projected; {budget} allowed",
            ],
            [
                "bottleneck",
                (
                    f"{document['bottleneck']} (seconds a pass, over"
                    f" {plural(document['readers'], 'reader')}: {shares})"
                ),
            ],
        ]
    )
