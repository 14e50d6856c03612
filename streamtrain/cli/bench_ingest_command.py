"""`streamtrain bench ingest`."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from streamtrain.base.units import format_bytes, format_count
from streamtrain.base.words import aligned, plural
from streamtrain.cli.bench_command import BENCH, Repeats, figure_texts
from streamtrain.cli.flag_groups import Output, ShuffleMemory, Target
from streamtrain.cli.terminal import plain_warnings, show


def ingest(
    source: Annotated[
        str, Parameter(help="CSV, Parquet, Arrow or Zarr: a file, a folder or a glob")
    ],
    /,
    *,
    target: Target = None,
    folder: Annotated[
        str | None,
        Parameter(
            group=BENCH, metavar="DIR", help="where to write and remove; default: this folder"
        ),
    ] = None,
    memory: ShuffleMemory = None,
    repeats: Repeats = 5,
    output: Output = Output(),
) -> None:
    """Compare the shuffle of ingest with a plain copy.

    Both take turns in one run.
    """
    from streamtrain.bench.ingest_bench import measure_ingest

    with plain_warnings(quiet=output.quiet):
        document = measure_ingest(source, folder, target=target, memory=memory, repeats=repeats)
    show(page(document), document, as_json=output.json)


def page(document: Mapping[str, Any]) -> str:
    """Return what was measured, both sides in a table, and memory."""
    head = (
        f"{document['data']}: {plural(document['rows'], 'row')} per side,"
        f" {plural(document['repeats'], 'repeat')} after a warm-up"
    )
    lines = [["side", "rows/s", "[95 %]", "part of a copy", "[95 %]"]]
    lines.append(
        [
            "ingest --shuffle",
            *figure_texts(document, "rows_per_second", format_count),
            *figure_texts(document, "ratio_to_copy", "{:.2f}".format),
        ]
    )
    lines.append(
        [
            "ingest --no-shuffle",
            *figure_texts(document, "copy_rows_per_second", format_count),
            "",
            "",
        ]
    )
    memory = (
        f"memory  {format_bytes(document['peak_rss_bytes'])} at the peak of the shuffle;"
        f" {format_bytes(document['memory_budget_bytes'])} allowed"
    )
    return "\n\n".join([head, aligned(lines, right=frozenset({1, 3})), memory])
