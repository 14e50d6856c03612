"""One offline HTML page: the answer first, everything a researcher checks below; opens from disk, loads nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from streamtrain.report.charts import Spec, theme
from streamtrain.report.drawing import vega_bundle
from streamtrain.report.figures import count_text, loss_figure_text, rate_text, rmse_text, seconds_text, share_text, size_text, speed_text
from streamtrain.report.table import headings, markdown_table, references, row_texts, verdict_text
from streamtrain.report.measure_tables import used_tables
from streamtrain.report.tables import Row, compact
from streamtrain.units import format_bytes, format_count, format_seconds

_FIGURES = (
    ("seconds to target", "seconds_to_target", seconds_text),
    ("held-out loss", "holdout_loss", loss_figure_text),
    ("held-out RMSE", "holdout_rmse", rmse_text),
    ("rows per second", "rows_per_second", speed_text),
    ("waiting", "wait_fraction", share_text),
    ("rows to target", "rows_to_target", count_text),
    ("steps to target", "steps_to_target", count_text),
)


def render_html(summary: Mapping[str, Any], specs: Mapping[str, Spec], tables: Mapping[str, Sequence[Row]], csv_text: str) -> str:
    """The page as text. Scripts are allowed by their hash only, and none needs `eval`; all names are escaped."""
    bundle, script = vega_bundle(), _asset("report.js")
    page = {
        "specs": {name: {key: value for key, value in spec.items() if key != "title"} for name, spec in specs.items()},
        "tables": {name: compact(rows) for name, rows in used_tables(tables).items()},
        "themes": {name: theme(name) for name in ("light", "dark")},
        "texts": {"markdown": markdown_table(summary), "csv": csv_text},
        "points": len(tables["curves"]),
    }
    return _environment().get_template("template.html.j2").render(
        s=summary,
        specs=specs,
        policy=_policy(bundle, script),
        style=Markup(_asset("report.css")),
        bundle=Markup(bundle),
        script=Markup(script),
        page=page,
        headings=headings(summary),
        rows=[(cell, row_texts(summary, cell)) for cell in summary["cells"]],
        figures=_FIGURES,
        references=references(summary),
        unscored=_unscored(summary),
        verdict=lambda cell: verdict_text(summary, cell),
        run_facts=_run_facts(summary),
        details=[(name, json.dumps(summary[key], indent=2, ensure_ascii=False)) for name, key in _DETAILS if summary.get(key)],
    )


_DETAILS = (
    ("Configuration", "config"),
    ("Machine and versions", "env"),
    ("Data", "data"),
    ("Standardisation", "standard"),
    ("Receipts", "receipts"),
)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "ensure_ascii": False}
    environment.filters |= {"size": size_text, "rate": rate_text, "bytes": format_bytes, "duration": format_seconds, "count": format_count}
    return environment


def _run_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, peak, projected = summary["data"], summary["peak_rss_bytes"], summary["projected_bytes"]
    known = (
        ("data", data.get("url")),
        ("rows", f"{data['num_rows']:,} in {data['num_shards']:,} shards" if "num_rows" in data else None),
        ("features → target", ", ".join(data.get("features", [])) + " → " + str(data.get("target"))),
        ("held out", f"{data['holdout_rows']:,} rows ({data['holdout_source']})" if "holdout_rows" in data else None),
        ("fingerprint", data.get("fingerprint")),
        ("integrity", data.get("integrity")),
        ("rows read", f"{summary['rows_read']:,} in {summary['passes']} passes" if summary["rows_read"] is not None else None),
        ("rows not read, thanks to sharing", f"{summary['rows_saved']:,}" if summary["rows_saved"] is not None else None),
        ("duration", format_seconds(summary["seconds"]) if summary["seconds"] else None),
        ("memory: peak / projected", f"{format_bytes(peak)} / {format_bytes(projected)}" if peak and projected else None),
        ("streamtrain", summary["version"]),
        ("command", summary["command"]),
    )
    return [(name, str(value)) for name, value in known if value]


def _unscored(summary: Mapping[str, Any]) -> str:
    cells = [cell for cell in summary["cells"] if cell["holdout_loss"]["value"] is None]
    names = [f"{size_text(cell['batch_size'])} ({cell['status'].replace('_', ' ')})" for cell in cells]
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} sizes"


def _policy(*scripts: str) -> str:
    """The Content-Security-Policy: these scripts and no others, no network, no eval; Vega sets styles inline."""
    allowed = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("streamtrain.report").joinpath(name).read_text(encoding="utf-8")
