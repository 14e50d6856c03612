"""`streamtrain sweep`."""

from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.flag_groups import DryRun, Out, Output, Resume, Sources, SweepFlags
from streamtrain.cli.run_verbs import run

DATA_HELP = (
    "a file, a folder or a glob of Parquet or Zarr shards; left out: data.path of the config"
)


def sweep(
    data: Annotated[str | None, Parameter(help=DATA_HELP)] = None,
    /,
    *,
    flags: SweepFlags = SweepFlags(),
    sources: Sources = Sources(),
    out: Out = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    output: Output = Output(),
) -> None:
    """Compare minibatch sizes on the same rows and recommend one."""
    run("sweep", data, flags, sources, output, out=out, resume=resume, dry_run=dry_run)
