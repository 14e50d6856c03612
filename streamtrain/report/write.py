"""Write the report of a run; every file appears complete, by a temporary name and a rename."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from streamtrain.base.atomic_files import make_folder, remove_temporaries, write_atomically
from streamtrain.errors import ResourceError
from streamtrain.records import Record
from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.chart_data import make_tables
from streamtrain.report.markdown import flat_rows, render_markdown
from streamtrain.report.render import Drawing
from streamtrain.report.summary import analyze
from streamtrain.science.run_log import collect
from streamtrain.types import Json


def write_report(records: Iterable[Record], out_dir: Path, *, pictures: bool = True) -> Json:
    """Write `summary.json`, `summary.csv`, `report.md`, `report.html` and `charts/*.svg, *.png`.

    Without `pictures` only the first three are written. Returns the content of `summary.json`,
    which is written last: if it is there, the report is complete. Where drawing fails, the rest is
    written and a warning says so. Raises DataError when the records contain no run.
    """
    run = collect(records)
    if not pictures:
        return _write_figures(analyze(run), out_dir)
    with Drawing() as drawing:  # its process loads its engine while the rest is computed
        # Altair and Jinja take half a second, which a run without pictures need not wait for.
        from streamtrain.report.pages import draw_pages

        analysis = analyze(run)
        try:
            page, charts = draw_pages(
                drawing, analysis, make_tables(analysis), _csv_text(analysis.summary)
            )
        except ResourceError as failure:  # the figures are worth more than their pictures
            page, charts = None, {}
            analysis = analysis.warn(
                f"No report.html and no charts: {failure}", flag="streamtrain report"
            )
    out_dir.mkdir(parents=True, exist_ok=True)
    folder = make_folder(out_dir / "charts", within=out_dir)
    remove_temporaries(folder, within=out_dir)
    for name, (svg, png) in charts.items():
        write_atomically(folder / f"{name}.svg", svg.encode(), within=out_dir)
        write_atomically(folder / f"{name}.png", png, within=out_dir)
    if page is not None:
        write_atomically(out_dir / "report.html", page.encode())
    return _write_figures(analysis, out_dir)


def _write_figures(analysis: Analysis, out_dir: Path) -> Json:
    """Write what a report has without pictures; return the content of `summary.json`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    remove_temporaries(out_dir)
    write_atomically(out_dir / "summary.csv", _csv_text(analysis.summary).encode())
    write_atomically(out_dir / "report.md", render_markdown(analysis).encode())
    document = analysis.to_json()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(out_dir / "summary.json", f"{text}\n".encode())
    return document


def _csv_text(summary: Summary) -> str:
    rows, buffer = flat_rows(summary), io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
