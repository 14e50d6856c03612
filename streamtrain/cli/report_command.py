"""`streamtrain report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.compare_command import log_path
from streamtrain.cli.flag_groups import Out, Output
from streamtrain.cli.run_verbs import result_text
from streamtrain.cli.terminal import show, writing


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
    from streamtrain.report.run_files import naming_damage, read_records
    from streamtrain.report.write import write_report

    log, folder = log_path(run), Path(out or run)
    with writing(folder), naming_damage(log):
        summary = write_report(read_records(log), folder)
        text = result_text(summary, folder)
    show(text, summary, as_json=output.json)
