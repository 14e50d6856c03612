"""Write the report of a run; every file appears complete, by a temporary name and a rename."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from streamtrain.base.atomic_files import write_atomically
from streamtrain.errors import DataError, ResourceError
from streamtrain.records import Record, parse_record
from streamtrain.report.analysis import Summary
from streamtrain.report.chart_data import make_tables
from streamtrain.report.charts import chart_specs, whole_spec
from streamtrain.report.html import render_html
from streamtrain.report.markdown import flat_rows, render_markdown
from streamtrain.report.render import draw
from streamtrain.report.summary import analyze
from streamtrain.science.run_log import collect
from streamtrain.types import Json


def write_report(records: Iterable[Record], out_dir: Path) -> Json:
    """Write `summary.json`, `summary.csv`, `report.md`, `report.html` and `charts/*.svg, *.png`.

    Returns the content of `summary.json`, which is written last: if it is there, the report is
    complete. Where drawing fails, the rest is written and a warning says so. Raises DataError when
    the records contain no run.
    """
    analysis = analyze(collect(records))
    tables = make_tables(analysis)
    specs = chart_specs(analysis.summary, tables)
    csv_text = _csv_text(analysis.summary)
    page = None
    pictures: dict[str, tuple[str, bytes]] = {}
    try:
        pictures = draw({name: whole_spec(spec, tables) for name, spec in specs.items()})
        page = render_html(analysis, specs, tables, csv_text)
    except ResourceError as failure:  # the figures are worth more than their pictures
        pictures = {}
        analysis = analysis.warn(
            f"No report.html and no charts: {failure}", flag="streamtrain report"
        )
    charts = out_dir / "charts"
    charts.mkdir(parents=True, exist_ok=True)
    for name, (svg, png) in pictures.items():
        write_atomically(charts / f"{name}.svg", svg.encode())
        write_atomically(charts / f"{name}.png", png)
    write_atomically(out_dir / "summary.csv", csv_text.encode())
    write_atomically(out_dir / "report.md", render_markdown(analysis).encode())
    if page is not None:
        write_atomically(out_dir / "report.html", page.encode())
    document = analysis.to_json()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(out_dir / "summary.json", f"{text}\n".encode())
    return document


def read_records(path: Path | str) -> list[Record]:
    """Return the records of an `events.jsonl`; a last line that a crash cut short is ignored.

    Raises DataError for a file that cannot be read, and for any other line that is not a record
    (naming the line).
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as failure:
        raise DataError(
            f"{path}: cannot be read ({failure.strerror}). Give a run's directory or its"
            " events.jsonl."
        ) from None
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _parse(line)
        except DataError as failure:
            raise DataError(f"{path}: line {number}: {failure}") from None
        if record is not None:
            records.append(record)
        # a complete line ends with a newline, so the last piece is empty or cut short
        elif number < len(lines):
            raise DataError(
                f"{path}: line {number} is not a record. The file is damaged; run again, or remove"
                " the line."
            )
    return records


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return parse_record(record) if isinstance(record, dict) and "event" in record else None


def _csv_text(summary: Summary) -> str:
    rows, buffer = flat_rows(summary), io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
