"""README.md's tables of speed, made from one file of `make bench`.

    python -m tests.benchmarks.bench_markdown runs/bench.json                  # print them
    python -m tests.benchmarks.bench_markdown runs/bench.json --into README.md # put them there
    python -m tests.benchmarks.bench_markdown runs/bench.json --picture docs/images/quality.png

Each table stands between `<!-- bench NAME -->` and `<!-- bench end -->`; what a file lacks is left
as it is.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from streamtrain.base.units import format_count, format_seconds
from streamtrain.cli.bench_command import page as stream_page
from streamtrain.cli.terminal import format_interval
from streamtrain.errors import DataError, StreamTrainError
from streamtrain.science.intervals import Estimate
from streamtrain.types import Json
from tests.benchmarks import quality
from tests.benchmarks.bench_file import BenchFile, read_bench

END = "<!-- bench end -->"
_BLOCK = re.compile(rf"(<!-- bench (?!end)(\w+) -->\n)(?:(?!<!-- bench ).)*{END}", re.DOTALL)


def blocks(bench: BenchFile) -> dict[str, str]:
    """Return the text of each block that the file has figures for, by name."""
    makers: dict[str, Callable[[Json], str]] = {
        "stream": stream_block,
        "step": step_block,
        "train": train_block,
        "quality": quality.table,
    }
    texts = {"machine": machine_line(bench)}
    for name, make in makers.items():
        part = bench.part(name)
        if part is not None and part.document is not None:
            texts[name] = make(part.document)
    answers = answers_block(bench)
    return texts | ({"answers": answers} if answers else {})


def markdown(bench: BenchFile) -> str:
    """Return all blocks, each with its markers."""
    return "\n\n".join(
        f"<!-- bench {name} -->\n{text}\n{END}" for name, text in blocks(bench).items()
    )


def put_into(page: str, bench: BenchFile) -> str:
    """Return the page with its blocks replaced.

    Raises DataError for a block of the file that the page has no markers for.
    """
    texts = blocks(bench)
    missing = sorted(set(texts) - {match[2] for match in _BLOCK.finditer(page)})
    if missing:
        raise DataError(
            f"no markers for {', '.join(missing)}: write <!-- bench {missing[0]} --> and {END},"
            " each on a line of its own, where the table belongs"
        )
    return _BLOCK.sub(
        lambda match: f"{match[1]}{texts[match[2]]}\n{END}" if match[2] in texts else match[0], page
    )


def put_into_file(path: Path, bench: BenchFile) -> None:
    """Replace the blocks of a page. Raises DataError, also for a page that cannot be read."""
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise DataError(f"{path}: {reason}. Name a page that has the markers.") from error
    try:
        text = put_into(page, bench)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    path.write_text(text, encoding="utf-8")


def draw_race(bench: BenchFile, path: Path) -> None:
    """Draw the race to a good model. Raises DataError for a file without it."""
    part = bench.part("quality")
    if part is None or part.document is None:
        raise DataError("the file has no race to draw; measure it with make bench")
    quality.draw(part.document, path)


def machine_line(bench: BenchFile) -> str:
    """Return one sentence on the machine, the date, the commit and the versions."""
    machine = bench.machine
    gib = machine.memory_bytes / 2**30
    versions = ", ".join(
        f"{name} {machine.versions[name]}"
        for name in ("python", "torch", "numpy", "numba", "pyarrow")
        if name in machine.versions
    )
    rounds = max((part.rounds for part in bench.parts), default=1)
    method = f"; each figure from {rounds} processes" if rounds > 1 else ""
    warning = " Small inputs (--quick): these figures say nothing about speed." * bench.quick
    return (
        f"Measured on {machine.cores} cores, {machine.cpu}, {gib:.0f} GiB, {bench.date[:10]},"
        f" commit {bench.commit or 'unknown'}, warm page cache{method}; {versions}.{warning}"
    )


def stream_block(document: Json) -> str:
    """Return the table of `bench stream` as the command prints it."""
    _, tables = stream_page(document).split("\n\n", 1)
    rows = format_count(document["data_rows"]).replace(" ", "")
    command = (
        f"$ streamtrain bench stream DATA --batch-size {document['batch_size']}"
        f"      # DATA: generate DATA --rows {rows} --span-rows 250000"
    )
    return f"```\n{command}\n\n{tables}\n```"


def step_block(document: Json) -> str:
    """Return the fused engine, or the one measured first, beside eager torch, by batch size."""
    engine = document["cells"][0]["engine"]
    cells = [cell for cell in document["cells"] if cell["engine"] == engine]
    sgemm = document["sgemm_gflops"]
    rows = {
        "B": [f"{cell['batch_size']:,}" for cell in cells],
        f"{engine}, one thread, rows/s": [format_count(cell["rows_per_second"]) for cell in cells],
        "torch eager, rows/s": [
            format_count(cell["torch_eager_rows_per_second"]) for cell in cells
        ],
        "ratio": [f"{cell['ratio']:.3g} ×" for cell in cells],
        "95 %": [format_interval(cell["intervals"]["ratio"], "{:.3g}".format) for cell in cells],
    }
    if all(cell["gflops"] is not None for cell in cells):
        rows["share of one thread's sgemm"] = [
            f"{100 * cell['gflops'] / sgemm:.0f} %" for cell in cells
        ]
    return _table([[name, *values] for name, values in rows.items()])


def train_block(document: Json) -> str:
    """Return a sentence on the ratios of `bench train`."""
    by_threads: dict[int, list[float]] = {}
    for cell in document["cells"]:
        by_threads.setdefault(cell["threads"], []).append(cell["ratio"])
    ratios = "; ".join(
        f"{min(values):.2f} to {max(values):.2f} on {threads} thread{'s' * (threads > 1)}"
        for threads, values in by_threads.items()
    )
    sizes = sorted({cell["batch_size"] for cell in document["cells"]})
    return (
        "Rows per second of training from shards, relative to the same learner fed from memory:"
        f" {ratios}, over minibatches of {', '.join(f'{size:,}' for size in sizes)}"
        " (`streamtrain bench train`)."
    )


def answers_block(bench: BenchFile) -> str:
    """Return the recommendation of `sweep` for each table; "" where none was measured."""
    lines = [["table", "batch size", "expected loss [95 %]", "seconds of the sweep"]]
    figures = bench.figures()
    for part in bench.parts:
        words = part.name.split()
        if words[0] != "answer" or part.document is None:
            continue
        where = f"answer/{words[1]}"
        size, loss, seconds = (
            figures[name].estimate if name in figures else Estimate(value=None)
            for name in (f"{where}/batch_size", f"{where}/expected_loss", f"{where}/sweep_seconds")
        )
        lines.append([words[1], _size_text(size), _loss_text(loss), _seconds_text(seconds)])
    lead = "What `streamtrain sweep --budget 20s` recommends (`tests/benchmarks/bench_tables.py`):"
    return f"{lead}\n\n{_table(lines)}" if len(lines) > 1 else ""


def _size_text(size: Estimate) -> str:
    if size.value is None:
        return "none"
    tied = f" (tied: {size.lo:,.0f} to {size.hi:,.0f})" if size.lo != size.hi else ""
    return f"{size.value:,.0f}{tied}"


def _loss_text(loss: Estimate) -> str:
    if loss.value is None:
        return "unknown"
    ends = "" if loss.lo is None or loss.hi is None else f" [{loss.lo:.3g}, {loss.hi:.3g}]"
    return f"{loss.value:.3g}{ends}"


def _seconds_text(seconds: Estimate) -> str:
    return "unknown" if seconds.value is None else format_seconds(seconds.value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, cells in enumerate(rows):
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            yield "|" + "---|" * len(cells)


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into a page, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a file of make bench")
    parser.add_argument("--into", type=Path, help="replace the tables of this page")
    parser.add_argument("--picture", type=Path, help="draw the race here, .png or .svg")
    options = parser.parse_args(words)
    try:
        bench = read_bench(options.file)
        if options.into is not None:
            put_into_file(options.into, bench)
        if options.picture is not None:
            draw_race(bench, options.picture)
        if options.into is None and options.picture is None:
            print(markdown(bench))
    except StreamTrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
