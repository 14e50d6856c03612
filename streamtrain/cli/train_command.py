"""`streamtrain train`."""

from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.flag_groups import (
    TRAINING,
    ConfigDataPath,
    DryRun,
    FromRun,
    NoReport,
    Out,
    Output,
    Resume,
    Sources,
    TrainFlags,
)
from streamtrain.cli.run_verbs import run

_TENSORBOARD = "also write every evaluation to DIR/tensorboard, for tensorboard --logdir DIR"
TensorBoard = Annotated[
    bool, Parameter(group=TRAINING, negative=(), show_default=False, help=_TENSORBOARD)
]


def train(
    data: ConfigDataPath = None,
    /,
    *,
    from_run: FromRun = None,
    flags: TrainFlags = TrainFlags(),
    sources: Sources = Sources(),
    out: Out = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    no_report: NoReport = False,
    tensorboard: TensorBoard = False,
    output: Output = Output(),
) -> None:
    """Train one model, and save it with normalisation folded in as DIR/model.safetensors."""
    run(
        "train",
        data,
        flags,
        sources,
        output,
        from_run=from_run,
        out=out,
        resume=resume,
        dry_run=dry_run,
        report=not no_report,
        tensorboard=tensorboard,
    )
