"""What `sweep` and `train` share: config, dry run, progress, the result."""

import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from streamtrain.base.redact import redact_command
from streamtrain.cli.flag_groups import Output, Sources, load_config
from streamtrain.cli.progress import progress
from streamtrain.cli.terminal import fit, note, plain_warnings, show
from streamtrain.errors import ConfigError, DataError, StreamTrainError
from streamtrain.records import Record

#: How a training may end that gives no model, and what it says then.
_FAILED = {
    "diverged": "diverged. Try a smaller --lr.",
    "out_of_memory": "ran out of memory.",
    "failed": "failed; the report says why.",
}


def run(
    verb: Literal["sweep", "train"],
    data: str | None,
    flags: Any,
    sources: Sources,
    output: Output,
    *,
    out: str | None,
    resume: str,
    dry_run: bool,
    tensorboard: bool = False,
) -> None:
    """Do what the verb says with the config of all layers; raises the errors of
    `streamtrain.errors`.

    `--resume DIR` alone is enough: the config is then the one that the run keeps in DIR.
    """
    kept = Path(resume) / "config.resolved.yaml"
    if resume not in ("auto", "never") and sources.config is None and kept.is_file():
        sources = replace(sources, config=str(kept))
    config, _ = load_config(data, flags, sources)
    if config.data.path is None:
        raise ConfigError(
            f"{verb} needs DATA: a file, a folder or a glob of Parquet or Zarr shards, or data.path"
            " in the config"
        )
    from streamtrain import api

    with plain_warnings(quiet=output.quiet):
        if dry_run:
            plan = api.plan_run(config, verb)
            show(api.plan_text(plan), plan, as_json=output.json)
            return
        folder, goes_on = api.choose_out(verb, config, out, resume)
        call = {"sweep": api.run_sweep, "train": api.run_train}[verb]
        with ExitStack() as open_ones:
            seen = [
                open_ones.enter_context(
                    progress("none" if output.quiet else output.progress, verbose=output.verbose)
                )
            ]
            if tensorboard:
                from streamtrain.run.tensorboard import tensorboard as writer

                seen.append(open_ones.enter_context(writer(folder / "tensorboard")))

            def on_record(record: Record) -> None:
                for see in seen:
                    see(record)

            def on_note(text: str) -> None:
                if not output.quiet:
                    note(text)

            try:
                command = shlex.join(["streamtrain", *redact_command(sys.argv[1:])])
                result = call(
                    config,
                    folder,
                    resume=goes_on,
                    command=command,
                    on_record=on_record,
                    on_note=on_note,
                )
            except BaseException as failure:
                if not isinstance(failure, ConfigError | DataError) and api.list_checkpoints(
                    folder / api.CHECKPOINTS
                ):
                    note(f"{folder} was saved; go on with --resume {shlex.quote(str(folder))}")
                    if isinstance(failure, KeyboardInterrupt):
                        _report_so_far(folder)
                raise
    if result.already_complete:
        note(f"{folder} is finished: nothing was left to do")
    summary = {**result.summary, "warnings": []} if output.quiet else result.summary
    show(result_text(summary, result.out), result.summary, as_json=output.json)
    ends = {cell["status"] for cell in result.summary["cells"]}
    if ends <= _FAILED.keys():  # of a sweep: of every size
        why = _FAILED[ends.pop()] if len(ends) == 1 else "failed; the report says why."
        raise StreamTrainError(
            f"{folder}: {'the training' if verb == 'train' else 'every size'} {why}"
        )


def _report_so_far(folder: Path) -> None:
    """The report of what an interrupted run has seen.

    A second Ctrl-C leaves it unwritten; whatever goes wrong, the run is saved.
    """
    from streamtrain.report.write import read_records, write_report

    with suppress(StreamTrainError, OSError):
        note("writing the report of what was seen; Ctrl-C leaves it out")
        write_report(read_records(folder / "events.jsonl"), folder)
        note(f"report so far: {_page(folder)}")


def result_text(summary: Mapping[str, Any], out: Path) -> str:
    """The table and its sentence, the warnings with their flags, and where the report lies."""
    from streamtrain.report.markdown import render_table

    table, _, answer = render_table(summary).rpartition("\n\n")
    warnings = [
        fit(f"warning: {warning['text']}" + (f" [{warning['flag']}]" if warning["flag"] else ""))
        for warning in summary["warnings"]
    ]
    return "\n\n".join(
        part for part in (table, fit(answer), "\n".join(warnings), f"report: {_page(out)}") if part
    )


def _page(out: Path) -> Path:
    """The page, or the text where charts could not be drawn."""
    page = out / "report.html"
    return page if page.exists() else out / "report.md"
