"""`streamtrain bench stream`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import aligned, plural
from streamtrain.cli.flag_groups import (
    ConfigDataPath,
    Output,
    Sources,
    StreamFlags,
    count,
    load_config,
)
from streamtrain.cli.terminal import format_interval, plain_warnings, show
from streamtrain.errors import ConfigError

BENCH = Group("Bench", sort_key=3)
_ROWS = "most rows per program and repeat; default: 20M"
_REPEATS = "timed repeats after the warm-up"
Rows = Annotated[
    int | None, Parameter(group=BENCH, metavar="N", converter=count, n_tokens=1, help=_ROWS)
]
Repeats = Annotated[
    int, Parameter(group=BENCH, metavar="N", converter=count, n_tokens=1, help=_REPEATS)
]

#: What is compared: prefix of its keys in the document → name in the table. Our own keys have no
#: prefix.
_SIDES = {
    "": "streamtrain",
    "first_epoch": "its first epoch",
    "decode": "raw decode, {readers}, {through}",
    "expert_loop": "expert's loop",
    "tuned_loop": "expert's loop, tuned",
    "in_ram_gather": "gather in memory, torch",
}


def stream(
    data: ConfigDataPath = None,
    /,
    *,
    flags: StreamFlags = StreamFlags(),
    sources: Sources = Sources(),
    rows: Rows = None,
    repeats: Repeats = 5,
    output: Output = Output(),
) -> None:
    """Compare shuffled delivery with raw decode, an expert's loop and a gather in memory.

    All of them take turns in one run.
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
    """Return what was measured, the sides in a table, memory, first minibatch and bottleneck."""
    head = (
        f"{document['data']} ({document['format']}): {plural(document['rows'], 'row')} per side,"
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
        key = f"{side}_rows_per_second".removeprefix("_")
        measured = (
            figure_texts(document, key, format_count) if document[key] else ["not measured", ""]
        )
        ratio = figure_texts(document, f"ratio_to_{side}", "{:.3g} ×".format)
        lines.append([_name(document, side), *measured, *ratio])
    return aligned(lines, right=frozenset({1, 3}))


def _name(document: Mapping[str, Any], side: str) -> str:
    return _SIDES[side].format(
        readers=plural(document["readers"], "thread"), through=document["decode_through"]
    )


def figure_texts(document: Mapping[str, Any], key: str, form: Callable[[float], str]) -> list[str]:
    """Return a value and its interval; empty texts where there is none."""
    figure = document["intervals"].get(key)
    if figure is None:
        return ["", ""]
    return [form(figure["value"]), format_interval(figure, form)]


def _facts(document: Mapping[str, Any]) -> str:
    parts = document["parts"]
    seconds = {
        "decode": parts["decode_seconds"],
        "shuffle": parts["deal_seconds"] + parts["permute_seconds"],
        "consumer": parts["consumer_seconds"],
        "consumer waits": parts["wait_seconds"],
    }
    times = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items())
    first_minibatch = format_seconds(document["first_minibatch_seconds"])
    peak = format_bytes(document["peak_rss_bytes"])
    projected = format_bytes(document["projected_bytes"])
    budget = format_bytes(document["memory_budget_bytes"])
    readers = plural(document["readers"], "reader")
    facts = {
        "first minibatch": f"after {first_minibatch}, opening included",
        "memory": f"{peak} at the peak beyond the imports; {projected} projected; {budget} allowed",
        "bottleneck": f"{document['bottleneck']} (seconds per pass, over {readers}: {times})",
    }
    return aligned([[name, fact] for name, fact in facts.items()])
