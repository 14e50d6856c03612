"""`streamtrain completion`: a script with which a shell completes verbs and flags."""

from typing import Annotated, Literal

from cyclopts import Parameter

from streamtrain.cli.flag_groups import Output
from streamtrain.cli.terminal import show

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell, Parameter(help="the shell to make it for")],
    /,
    *,
    output: Output = Output(),
) -> None:
    """Print a completion script.

    Use `eval "$(streamtrain completion bash)"`, or put it where your shell looks for such scripts.
    """
    from streamtrain.cli.main import build_app

    script = build_app().generate_completion(prog_name="streamtrain", shell=shell)
    show(script, {"shell": shell, "script": script}, as_json=output.json)
