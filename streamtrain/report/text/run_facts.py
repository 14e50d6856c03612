"""The facts about the run itself: the machine, the data, the rows read, and their cost."""

from streamtrain.base.units import format_bytes, format_seconds
from streamtrain.base.words import plural
from streamtrain.report.analysis import Summary
from streamtrain.report.text.facts import Facts
from streamtrain.types import Json

#: `data.holdout_source` → where the held-out rows are from, in words.
_HOLDOUTS = {
    "rows": "rows of this data set that are never trained on",
    "eval_data": "rows of another data set (--eval-data)",
}
#: The versions shown, in this order.
_VERSIONS = ("streamtrain", "python", "torch", "numba", "dask")


def run_facts(summary: Summary) -> Facts:
    """Return the facts of the page's last section."""
    data, env = summary.data, summary.env
    versions = [f"{name} {env[name]}" for name in _VERSIONS if env.get(name)]
    rows = ""
    if data.num_rows is not None and data.num_shards is not None:
        rows = f"{data.num_rows:,} in {plural(data.num_shards, 'shard')}"
    held_out = "nothing"
    if data.holdout_rows:
        held_out = f"{data.holdout_rows:,} rows: {holdout_text(summary)}"
    facts = (
        ("machine", _machine(env)),
        ("versions", ", ".join(versions) or summary.version),
        ("data", data.url),
        ("rows", rows),
        ("features → target", f"{', '.join(data.features)} → {data.target}"),
        ("held out", held_out),
        ("fingerprint", data.fingerprint),
        *integrity_facts(summary),
        *cost_facts(summary),
    )
    return [(name, str(text)) for name, text in facts if text]


def holdout_text(summary: Summary) -> str:
    """Return where the held-out rows are from; empty where nothing was held out."""
    return _HOLDOUTS.get(summary.data.holdout_source, "")


def _machine(env: Json) -> str:
    cores = f"{env['cores']} cores" if "cores" in env else ""
    return ", ".join(filter(None, (env.get("cpu"), cores, env.get("system"))))


def integrity_facts(summary: Summary) -> Facts:
    """Return how the data was verified, and which parts of it were left out."""
    quarantined = summary.quarantined or {}
    spans = ", ".join(
        f"{span['url']} rows {span['start']:,} to {span['stop']:,} ({span['cause']})"
        for span in quarantined.get("first", ())
    )
    files = [f"{file['url']} ({file['cause']})" for file in quarantined.get("left_out", ())]
    lost = ""
    if quarantined.get("rows"):
        lost = (
            f"{quarantined['rows']:,} rows that could not be read,"
            f" in {quarantined['spans']:,} spans: {spans}"
        )
    facts = (
        ("integrity", summary.integrity or ""),
        ("quarantined", lost),
        ("left out", ", ".join(files)),
    )
    return [(name, text) for name, text in facts if text]


def cost_facts(summary: Summary) -> Facts:
    """Return the rows and bytes read, and the memory and time used."""
    peak, projected = summary.peak_rss_bytes, summary.projected_bytes
    fetched, fetch_seconds = summary.read_bytes, summary.stream_seconds.get("read_seconds")
    facts: Facts = []
    if summary.rows_read is not None:
        passes = "1 pass" if summary.passes == 1 else f"{summary.passes} passes"
        facts.append(("rows read", f"{summary.rows_read:,} in {passes}"))
    if summary.rows_saved is not None and summary.verb == "sweep":
        saved = f"{summary.rows_saved:,} rows, since a pass feeds every size and rate"
        facts.append(("reading saved", saved))
    if fetched and fetch_seconds:
        rate = format_bytes(round(fetched / fetch_seconds))
        facts.append(("from the object store", f"{format_bytes(fetched)}, {rate}/s per request"))
    if summary.seconds:
        facts.append(("duration", format_seconds(summary.seconds)))
    if peak and projected:
        text = f"{format_bytes(peak)} / {format_bytes(projected)}"
        facts.append(("memory: peak / projected", text))
    return facts
