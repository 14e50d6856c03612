"""`streamtrain sweep`."""

from streamtrain.cli.flag_groups import (
    ConfigDataPath,
    DryRun,
    NoReport,
    Out,
    Output,
    Resume,
    Sources,
    SweepFlags,
)
from streamtrain.cli.run_verbs import run


def sweep(
    data: ConfigDataPath = None,
    /,
    *,
    flags: SweepFlags = SweepFlags(),
    sources: Sources = Sources(),
    out: Out = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    no_report: NoReport = False,
    output: Output = Output(),
) -> None:
    """Compare minibatch sizes on the same rows and recommend one."""
    run(
        "sweep",
        data,
        flags,
        sources,
        output,
        out=out,
        resume=resume,
        dry_run=dry_run,
        report=not no_report,
    )
