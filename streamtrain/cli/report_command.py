"""`streamtrain report`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.compare_command import log_path
from streamtrain.cli.flag_groups import Out, Output
from streamtrain.cli.run_verbs import result_text
from streamtrain.cli.terminal import show, writing
from streamtrain.records import Record, RunStarted
from streamtrain.report.render import Drawing


def report(
    run: Annotated[str, Parameter(help="the directory of a sweep or train")],
    /,
    *,
    out: Out = None,
    output: Output = Output(),
) -> None:
    """Make the report of a run again from its records (events.jsonl), and print the answer.

    It goes into the directory of the run, or into --out.
    """
    log, folder = log_path(run), Path(out or run)
    with writing(folder), Drawing() as drawing:
        from streamtrain.report.run_files import naming_damage, read_records
        from streamtrain.report.write import write_report

        with naming_damage(log):
            summary = write_report(_placed(read_records(log), run), folder, drawing=drawing)
            text = result_text(summary, folder)
    show(text, summary, as_json=output.json)


def _placed(records: list[Record], run: str) -> list[Record]:
    """Return the records with the folder that the run has now, for the command that names it."""
    started = records[0] if records else None
    if isinstance(started, RunStarted) and os.path.realpath(started.folder) != os.path.realpath(
        run
    ):
        return [replace(started, folder=str(Path(run))), *records[1:]]
    return records
