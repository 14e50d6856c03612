"""`streamtrain train`."""

from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.flag_groups import TRAINING, DryRun, Out, Output, Resume, Sources, TrainFlags
from streamtrain.cli.run_verbs import run
from streamtrain.cli.sweep_command import DATA_HELP

_TENSORBOARD = "write every evaluation to DIR/tensorboard too: tensorboard --logdir DIR"
TensorBoard = Annotated[
    bool, Parameter(group=TRAINING, negative=(), show_default=False, help=_TENSORBOARD)
]


def train(
    data: Annotated[str | None, Parameter(help=DATA_HELP)] = None,
    /,
    *,
    flags: TrainFlags = TrainFlags(),
    sources: Sources = Sources(),
    out: Out = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    tensorboard: TensorBoard = False,
    output: Output = Output(),
) -> None:
    """Train one model; its weights, with normalisation folded in, are in DIR/model.safetensors."""
    run(
        "train",
        data,
        flags,
        sources,
        output,
        out=out,
        resume=resume,
        dry_run=dry_run,
        tensorboard=tensorboard,
    )
