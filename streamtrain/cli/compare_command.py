"""`streamtrain compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from streamtrain.cli.flag_groups import Output
from streamtrain.cli.terminal import note, show
from streamtrain.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from streamtrain.science.run_log import Run

COMPARE = Group("Compare", sort_key=1)
_FAIL_ON = (
    'limits on the change from A to B, like "rows_per_second<-5%,holdout_loss>+1%"; exit 5 where'
    " one is crossed beyond doubt"
)


def compare(
    a: Annotated[str, Parameter(help="the directory of a run: what was")],
    b: Annotated[str, Parameter(help="the directory of a run: what is")],
    /,
    *,
    fail_on: Annotated[
        str | None, Parameter(group=COMPARE, metavar="LIMITS", show_default=False, help=_FAIL_ON)
    ] = None,
    output: Output = Output(),
) -> None:
    """Say what changed from one run to another: for every batch size the change of each figure with
    its interval.
    """
    from streamtrain.report import compare as runs
    from streamtrain.report.fail_on import check_limits, parse_limits

    # an empty text is refused: a check of nothing must not pass
    limits = [] if fail_on is None else parse_limits(fail_on)
    document = runs.compare(read_run(a), read_run(b))
    failures, doubts = check_limits(document, limits)
    document |= {
        "fail_on": [str(limit) for limit in limits],
        "failures": failures,
        "doubts": doubts,
    }
    show(runs.render_comparison(document, (a, b)), document, as_json=output.json)
    if not output.quiet:
        for doubt in doubts:
            note(
                f"warning: beyond a limit, but not beyond doubt: {doubt}. [--trials]"
                if "limit is" in doubt
                else f"warning: {doubt}"
            )
    if failures:
        raise CheckFailed("\n".join(failures))
    if limits and not doubts and not output.quiet:
        note(f"within limits: {', '.join(map(str, limits))}")


def read_run(folder: str) -> "Run":
    """The records of a run's directory, sorted."""
    from streamtrain.report.write import read_records
    from streamtrain.science.run_log import collect

    records = Path(folder) / "events.jsonl"
    if not records.is_file():
        raise ConfigError(
            f"{folder}: no events.jsonl there; name the directory that sweep or train wrote"
        )
    return collect(read_records(records))
