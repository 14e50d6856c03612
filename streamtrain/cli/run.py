"""What `sweep` and `train` share: config, dry run, progress, the result."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from streamtrain.cli.flags import Output, Sources, load_config
from streamtrain.cli.progress import progress
from streamtrain.cli.terminal import plain_warnings, show
from streamtrain.errors import ConfigError


def run(
    verb: Literal["sweep", "train"], data: str | None, flags: Any, sources: Sources, output: Output, *, out: str | None, dry_run: bool,
) -> None:  # fmt: skip
    """Do what the verb says with the config of all layers; raises the errors of `streamtrain.errors`."""
    config, _ = load_config(data, flags, sources)
    if config.data.path is None:
        raise ConfigError(f"{verb} needs DATA: a file, a folder or a glob of Parquet or Zarr shards, or data.path in the config")
    from streamtrain import api

    with plain_warnings(quiet=output.quiet):
        if dry_run:
            plan = api.plan_run(config, verb)
            show(api.plan_text(plan), plan, as_json=output.json)
            return
        folder = Path(out) if out else api.default_out(verb)
        call = {"sweep": api.run_sweep, "train": api.run_train}[verb]
        with progress("none" if output.quiet else output.progress, verbose=output.verbose) as on_record:
            result = call(config, folder, command=shlex.join(["streamtrain", *sys.argv[1:]]), on_record=on_record)
    summary = {**result.summary, "warnings": []} if output.quiet else result.summary
    show(result_text(summary, result.out), result.summary, as_json=output.json)


def result_text(summary: Mapping[str, Any], out: Path) -> str:
    """The table and its sentence, the warnings with their flags, and where the report lies."""
    from streamtrain.report.table import render_table

    warnings = [f"warning: {warning['text']}" + (f" [{warning['flag']}]" if warning["flag"] else "") for warning in summary["warnings"]]
    page = out / "report.html"
    return "\n\n".join(part for part in (render_table(summary), "\n".join(warnings), f"report: {page if page.exists() else out / 'report.md'}") if part)
