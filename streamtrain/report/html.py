"""The report as one offline HTML page: the answer first, everything a researcher checks below it.

It opens from disk and loads nothing.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from streamtrain.base.units import format_seconds
from streamtrain.report.analysis import Analysis, Summary, section
from streamtrain.report.chart_data import compact
from streamtrain.report.charts import Spec, theme
from streamtrain.report.markdown import answer_table, data_line, markdown_table, order_note
from streamtrain.report.measure_data import Tables, used_tables
from streamtrain.report.number_format import (
    cell_size_text,
    count_text,
    loss_figure_text,
    loss_text,
    rate_text,
    rmse_text,
    seconds_text,
    share_text,
    size_text,
    slower_figure_text,
    speed_text,
    target_word,
)
from streamtrain.report.table import frontier_table, verdict_text
from streamtrain.report.text.captions import captions, confirmation_note
from streamtrain.report.text.facts import (
    confirmation_rows,
    landmark_facts,
    measure_facts,
    speed_facts,
)
from streamtrain.report.text.headline import ladder, tiles
from streamtrain.report.text.run_facts import holdout_text, run_facts
from streamtrain.report.text.sentence import next_note
from streamtrain.report.workers import worker_facts
from streamtrain.science.contest import default_within
from streamtrain.types import Json

#: Section → its word in the contents.
_CONTENTS = {
    "picture": "the picture",
    "curves": "loss curves",
    "throughput": "throughput",
    "table": "all figures",
    "measures": "why",
    "warnings": "before you rely on it",
    "understanding": "understanding this report",
    "run": "this run",
}
_FIGURES = (
    ("seconds to target", "seconds_to_target", seconds_text),
    ("slower by", "slower_by", slower_figure_text),
    ("held-out loss", "holdout_loss", loss_figure_text),
    ("held-out RMSE", "holdout_rmse", rmse_text),
    ("loss at equal steps", "holdout_loss_at_steps", loss_figure_text),
    ("loss at equal time", "holdout_loss_at_seconds", loss_figure_text),
    ("rows per second", "rows_per_second", speed_text),
    ("waiting", "wait_fraction", share_text),
    ("rows to target", "rows_to_target", count_text),
    ("steps to target", "steps_to_target", count_text),
)
#: Figures that compare sizes: `train` has one, of which they say nothing.
_COMPARING = ("slower_by", "holdout_loss_at_steps", "holdout_loss_at_seconds")
#: Parts of `summary.json` that the page shows as they are.
_DETAILS = (
    ("Configuration", "config"),
    ("Machine and versions", "env"),
    ("Data", "data"),
    ("Standardisation", "standard"),
    ("Receipts", "receipts"),
)
#: Section → its charts.
_CHARTS = {
    "picture": {"frontier", "seconds_to_target"},
    "curves": {"loss_by_rows", "loss_by_steps"},
    "throughput": {"throughput", "parts", "tradeoff"},
    "measures": {
        "noise_scale",
        "sqrt_m",
        "learning_rates",
        "rules",
        "curvature",
        "sharpness",
        "line",
    },
}
_ALWAYS = {"table", "warnings", "understanding", "run"}


def render_html(
    analysis: Analysis,
    specs: Mapping[str, Spec],
    tables: Tables,
    csv_text: str,
    bundle: str,
) -> str:
    """Return the page as text; `bundle` is the script that draws its charts.

    Only its own scripts may run, allowed by their hash, and none needs `eval`; all names are
    escaped.
    """
    summary = analysis.summary
    script = _asset("report.js")
    sections = _sections(analysis, specs)
    context = {
        "s": summary,
        "specs": specs,
        "policy": _policy(bundle, script),
        "style": Markup(_asset("report.css")),
        "bundle": Markup(bundle),
        "script": Markup(script),
        "page": _page_data(summary, specs, tables, csv_text),
        "sections": sections,
        "title_of": lambda name: _title(specs[name]),
        "contents": [(name, word) for name, word in _CONTENTS.items() if name in sections],
        "speed_facts": speed_facts(analysis),
        "worker_facts": worker_facts(summary.workers),
        "confirmed": confirmation_rows(summary),
        "landmark_facts": landmark_facts(analysis),
        "measure_facts": measure_facts(summary.measures),
        "captions": captions(summary, tables),
        "confirmation_note": confirmation_note(summary),
        "figures": [
            figure for figure in _FIGURES if summary.verb == "sweep" or figure[1] not in _COMPARING
        ],
        "tiles": tiles(summary),
        "answer_table": answer_table(summary) if summary.verb != "train" else [],
        "order_note": order_note(summary),
        "next_note": next_note(summary),
        "frontier_table": frontier_table(summary) if summary.frontier else [],
        "data_line": data_line(summary),
        "within": section(summary.config, "sweep").get("within") or default_within(summary.goal),
        "averaged": section(summary.config, "train").get("average", False),
        "ladder": ladder(summary),
        "holdout_name": holdout_text(summary),
        "unfinished": summary.seconds is None,
        "verdict": lambda cell: verdict_text(summary, cell),
        "size_of": lambda cell: cell_size_text(cell.batch_size, summary.sizes_used),
        "run_facts": run_facts(summary),
        "details": _details(summary),
    }
    return _environment().get_template("template.html.j2").render(context)


def _page_data(
    summary: Summary,
    specs: Mapping[str, Spec],
    tables: Tables,
    csv_text: str,
) -> Json:
    """Return what `report.js` reads; the page sets the titles of charts itself."""
    untitled = {
        name: {key: value for key, value in spec.items() if key != "title"}
        for name, spec in specs.items()
    }
    return {
        "specs": untitled,
        "tables": {name: compact(rows) for name, rows in used_tables(tables).items()},
        "themes": {name: theme(name) for name in ("light", "dark")},
        "texts": {
            "markdown": markdown_table(summary),
            "csv": csv_text,
            "command": str(summary.command),
        },
        "points": len(tables["curves"]),
    }


def _details(summary: Summary) -> list[tuple[str, str]]:
    """Return `(heading, JSON)` of the parts of `summary.json` that the page shows as they are."""
    document = summary.to_json()
    return [
        (heading, json.dumps(document[key], indent=2, ensure_ascii=False))
        for heading, key in _DETAILS
        if document[key]
    ]


def _title(spec: Spec) -> str:
    title = spec.get("title", "")
    return title["text"] if isinstance(title, dict) else title


def _sections(analysis: Analysis, specs: Mapping[str, Spec]) -> set[str]:
    """Return the sections that are not empty."""
    summary = analysis.summary
    content = {
        "throughput": speed_facts(analysis) + worker_facts(summary.workers),
        "measures": [*measure_facts(summary.measures), *landmark_facts(analysis), *summary.why],
    }
    with_charts = {name for name, charts in _CHARTS.items() if charts & set(specs)}
    with_content = {name for name, items in content.items() if items}
    return _ALWAYS | with_charts | with_content


@cache
def _environment() -> jinja2.Environment:
    """Return the environment; it keeps the compiled template, which takes longer than a page."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "separators": (",", ":"),
        "ensure_ascii": False,
    }
    environment.filters |= {
        "size": size_text,
        "rate": rate_text,
        "loss": loss_text,
        "target": target_word,
        "duration": format_seconds,
    }
    return environment


def _policy(*scripts: str) -> str:
    """Return the Content-Security-Policy: these scripts only, no network, no eval.

    Inline styles are allowed because Vega sets them.
    """
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("streamtrain.report").joinpath(name).read_text(encoding="utf-8")
