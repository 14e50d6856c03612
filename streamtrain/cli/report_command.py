"""`streamtrain report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.flag_groups import Out, Output
from streamtrain.cli.run_verbs import result_text
from streamtrain.cli.terminal import show, writing
from streamtrain.errors import ConfigError


def report(
    run: Annotated[str, Parameter(help="the directory of a sweep or a train")],
    /,
    *,
    out: Out = None,
    output: Output = Output(),
) -> None:
    """Make the report of a run again, from its records (events.jsonl), and print the answer.

    DIR: left out, the run's own.
    """
    from streamtrain.report.write import read_records, write_report

    records = Path(run) / "events.jsonl"
    if not records.is_file():
        raise ConfigError(
            f"{run}: no events.jsonl there; name the directory that sweep or train wrote"
        )
    folder = Path(out or run)
    with writing(folder):
        summary = write_report(read_records(records), folder)
    show(result_text(summary, folder), summary, as_json=output.json)
