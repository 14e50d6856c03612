"""`streamtrain compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from streamtrain.cli.flag_groups import Output
from streamtrain.cli.terminal import fit, note, show
from streamtrain.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from streamtrain.science.run_log import Run

COMPARE = Group("Compare", sort_key=1)
_FAIL_ON = (
    'limits on the change from A to B, like "rows_per_second<-5%,holdout_loss>+1%"; exit 5 if the'
    " whole interval is beyond one"
)


def compare(
    a: Annotated[str, Parameter(help="the directory of the earlier run")],
    b: Annotated[str, Parameter(help="the directory of the later run")],
    /,
    *,
    fail_on: Annotated[
        str | None, Parameter(group=COMPARE, metavar="LIMITS", show_default=False, help=_FAIL_ON)
    ] = None,
    output: Output = Output(),
) -> None:
    """Show how run B differs from run A, as a whole and at every batch size, with intervals."""
    from streamtrain.report import compare as report
    from streamtrain.report.fail_on import check_limits, parse_limits
    from streamtrain.report.run_files import naming_damage

    # An empty text is refused, because a check without limits must not pass.
    limits = [] if fail_on is None else parse_limits(fail_on)
    with naming_damage(log_path(a), log_path(b)):
        document = report.compare(read_run(a), read_run(b))
        text = report.render_comparison(document, (a, b))
    failures, doubts = check_limits(document, limits)
    document |= {
        "fail_on": [str(limit) for limit in limits],
        "failures": failures,
        "doubts": doubts,
    }
    answer, _, rest = text.partition("\n\n")
    show(f"{fit(answer)}\n\n{rest}", document, as_json=output.json)
    if not output.quiet:
        for doubt in doubts:
            if "limit is" in doubt:
                note(f"warning: beyond a limit, but not beyond doubt: {doubt}. [--trials]")
            else:
                note(f"warning: {doubt}")
    if failures:
        raise CheckFailed("\n".join(failures))
    if limits and not doubts and not output.quiet:
        note(f"within limits: {', '.join(map(str, limits))}")


def read_run(folder: str) -> "Run":
    """Return the sorted records of a run's directory."""
    from streamtrain.report.run_files import read_records
    from streamtrain.science.run_log import collect

    return collect(read_records(log_path(folder)))


def log_path(folder: str) -> Path:
    """Return the path of a run's `events.jsonl`. Raises ConfigError when there is none."""
    path = Path(folder) / "events.jsonl"
    if not path.is_file():
        raise ConfigError(
            f"{folder}: no events.jsonl there; name the directory of a sweep or train"
        )
    return path
