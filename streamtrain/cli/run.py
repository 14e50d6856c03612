"""What `sweep` and `train` share: config, dry run, progress, the result."""

import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from streamtrain.cli.flags import Output, Sources, load_config
from streamtrain.cli.progress import progress
from streamtrain.cli.terminal import note, plain_warnings, show
from streamtrain.errors import ConfigError, DataError
from streamtrain.redact import redact_command
from streamtrain.types import Record


def run(
    verb: Literal["sweep", "train"], data: str | None, flags: Any, sources: Sources, output: Output, *, out: str | None, resume: str, dry_run: bool,
    tensorboard: bool = False,
) -> None:  # fmt: skip
    """Do what the verb says with the config of all layers; raises the errors of `streamtrain.errors`.

    `--resume DIR` alone is enough: the config is then the one that the run keeps in DIR.
    """
    kept = Path(resume) / "config.resolved.yaml"
    if resume not in ("auto", "never") and sources.config is None and kept.is_file():
        sources = replace(sources, config=str(kept))
    config, _ = load_config(data, flags, sources)
    if config.data.path is None:
        raise ConfigError(f"{verb} needs DATA: a file, a folder or a glob of Parquet or Zarr shards, or data.path in the config")
    from streamtrain import api

    with plain_warnings(quiet=output.quiet):
        if dry_run:
            plan = api.plan_run(config, verb)
            show(api.plan_text(plan), plan, as_json=output.json)
            return
        folder, goes_on = api.choose_out(verb, config, out, resume)
        call = {"sweep": api.run_sweep, "train": api.run_train}[verb]
        with ExitStack() as open_ones:
            seen = [open_ones.enter_context(progress("none" if output.quiet else output.progress, verbose=output.verbose))]
            if tensorboard:
                from streamtrain.tensorboard import tensorboard as writer

                seen.append(open_ones.enter_context(writer(folder / "tensorboard")))

            def on_record(record: Record) -> None:
                for see in seen:
                    see(record)

            try:
                result = call(config, folder, resume=goes_on, command=shlex.join(["streamtrain", *redact_command(sys.argv[1:])]), on_record=on_record)
            except BaseException as failure:
                if not isinstance(failure, ConfigError | DataError) and api.list_checkpoints(folder / api.CHECKPOINTS):
                    note(f"{folder} was saved; go on with --resume {shlex.quote(str(folder))}")
                raise
    if result.was_finished:
        note(f"{folder} is finished: nothing was left to do")
    summary = {**result.summary, "warnings": []} if output.quiet else result.summary
    show(result_text(summary, result.out), result.summary, as_json=output.json)


def result_text(summary: Mapping[str, Any], out: Path) -> str:
    """The table and its sentence, the warnings with their flags, and where the report lies."""
    from streamtrain.report.table import render_table

    warnings = [f"warning: {warning['text']}" + (f" [{warning['flag']}]" if warning["flag"] else "") for warning in summary["warnings"]]
    page = out / "report.html"
    return "\n\n".join(part for part in (render_table(summary), "\n".join(warnings), f"report: {page if page.exists() else out / 'report.md'}") if part)
