"""One offline HTML page: the answer first, everything a researcher checks below; opens from disk,
loads nothing.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from streamtrain.base.units import format_seconds
from streamtrain.report.chart_data import Row, compact
from streamtrain.report.charts import Spec, theme
from streamtrain.report.markdown import markdown_table, verdict_text
from streamtrain.report.measure_data import used_tables
from streamtrain.report.number_format import (
    count_text,
    loss_figure_text,
    loss_text,
    rate_text,
    rmse_text,
    seconds_text,
    share_text,
    size_text,
    speed_text,
)
from streamtrain.report.render import vega_bundle
from streamtrain.report.text.captions import captions, confirmation_note
from streamtrain.report.text.facts import (
    confirmation_rows,
    cost_facts,
    integrity_facts,
    landmark_facts,
    measure_facts,
    speed_facts,
)
from streamtrain.report.text.headline import ladder, tiles
from streamtrain.report.workers import worker_facts

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
    ("held-out loss", "holdout_loss", loss_figure_text),
    ("held-out RMSE", "holdout_rmse", rmse_text),
    ("loss at equal steps", "holdout_loss_at_steps", loss_figure_text),
    ("loss at equal time", "holdout_loss_at_seconds", loss_figure_text),
    ("rows per second", "rows_per_second", speed_text),
    ("waiting", "wait_fraction", share_text),
    ("rows to target", "rows_to_target", count_text),
    ("steps to target", "steps_to_target", count_text),
)


def render_html(
    summary: Mapping[str, Any],
    specs: Mapping[str, Spec],
    tables: Mapping[str, Sequence[Row]],
    csv_text: str,
) -> str:
    """The page as text.

    Scripts are allowed by their hash only, and none needs `eval`; all names are escaped.
    """
    bundle, script = vega_bundle(), _asset("report.js")
    sections = _sections(summary, specs)
    page = {
        "specs": {
            name: {key: value for key, value in spec.items() if key != "title"}
            for name, spec in specs.items()
        },
        "tables": {name: compact(rows) for name, rows in used_tables(tables).items()},
        "themes": {name: theme(name) for name in ("light", "dark")},
        "texts": {
            "markdown": markdown_table(summary),
            "csv": csv_text,
            "command": str(summary["command"]),
        },
        "points": len(tables["curves"]),
    }
    return (
        _environment()
        .get_template("template.html.j2")
        .render(
            s=summary,
            specs=specs,
            policy=_policy(bundle, script),
            style=Markup(_asset("report.css")),
            bundle=Markup(bundle),
            script=Markup(script),
            page=page,
            sections=sections,
            title_of=lambda name: _title(specs[name]),
            contents=[(name, word) for name, word in _CONTENTS.items() if name in sections],
            speed_facts=speed_facts(summary),
            worker_facts=worker_facts(summary),
            confirmed=confirmation_rows(summary),
            landmark_facts=landmark_facts(summary),
            measure_facts=measure_facts(summary),
            captions=captions(summary, tables),
            confirmation_note=confirmation_note(summary),
            figures=_FIGURES,
            tiles=tiles(summary),
            ladder=ladder(summary),
            holdout_name=_HOLDOUTS.get(summary["data"].get("holdout_source", ""), ""),
            unfinished=summary["seconds"] is None,
            verdict=lambda cell: verdict_text(summary, cell),
            run_facts=_run_facts(summary),
            details=[
                (name, json.dumps(summary[key], indent=2, ensure_ascii=False))
                for name, key in _DETAILS
                if summary.get(key)
            ],
        )
    )


#: Where the held-out rows come from, as the records name it → in words.
_HOLDOUTS = {
    "rows": "rows of this data set that are never trained on",
    "eval_data": "rows of another data set (--eval-data)",
}

_DETAILS = (
    ("Configuration", "config"),
    ("Machine and versions", "env"),
    ("Data", "data"),
    ("Standardisation", "standard"),
    ("Receipts", "receipts"),
)


def _title(spec: Spec) -> str:
    """A chart's title, which the page sets in its own type."""
    title = spec.get("title", "")
    return title["text"] if isinstance(title, dict) else title


def _sections(summary: Mapping[str, Any], specs: Mapping[str, Spec]) -> set[str]:
    """Those with something in them."""
    of_charts = {
        "picture": {"tradeoff", "seconds_to_target"},
        "curves": {"loss_by_rows", "loss_by_steps"},
        "throughput": {"throughput", "parts"},
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
    found = {"table", "warnings", "understanding", "run"} | {
        name for name, charts in of_charts.items() if charts & set(specs)
    }
    more = {
        "throughput": speed_facts(summary) + worker_facts(summary),
        "measures": measure_facts(summary) + landmark_facts(summary) + summary["why"],
    }
    return found | {name for name, content in more.items() if content}


def _environment() -> jinja2.Environment:
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
        "duration": format_seconds,
    }
    return environment


def _run_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, env = summary["data"], summary["env"] or {}
    held_out = _HOLDOUTS.get(data.get("holdout_source", ""), "")
    known = (
        (
            "machine",
            ", ".join(
                filter(
                    None,
                    (
                        env.get("cpu"),
                        f"{env['cores']} cores" if "cores" in env else "",
                        env.get("system"),
                    ),
                )
            ),
        ),
        (
            "versions",
            ", ".join(
                f"{name} {env[name]}"
                for name in ("streamtrain", "python", "torch", "numba", "dask")
                if env.get(name)
            )
            or summary["version"],
        ),
        ("data", data.get("url")),
        (
            "rows",
            (
                f"{data['num_rows']:,} in {data['num_shards']:,}"
                f" {'shard' if data['num_shards'] == 1 else 'shards'}"
                if "num_rows" in data
                else None
            ),
        ),
        (
            "features → target",
            ", ".join(data.get("features", [])) + " → " + str(data.get("target")),
        ),
        (
            "held out",
            f"{data['holdout_rows']:,} rows: {held_out}" if data.get("holdout_rows") else "nothing",
        ),
        ("fingerprint", data.get("fingerprint")),
        *integrity_facts(summary),
        *cost_facts(summary),
    )
    return [(name, str(value)) for name, value in known if value]


def _policy(*scripts: str) -> str:
    """The Content-Security-Policy: these scripts and no others, no network, no eval.

    Vega sets styles inline.
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
