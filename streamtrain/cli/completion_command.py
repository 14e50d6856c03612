"""`streamtrain completion`: the script that makes a shell complete verbs and flags."""

from typing import Annotated, Literal

from cyclopts import Parameter

from streamtrain.cli.flag_groups import Output
from streamtrain.cli.terminal import show

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell, Parameter(help="the shell that will read it")],
    /,
    *,
    output: Output = Output(),
) -> None:
    """Print a completion script.

    `eval "$(streamtrain completion bash)"`, or put it where your shell looks for such files.
    """
    from streamtrain.cli.main import build_app

    script = build_app().generate_completion(prog_name="streamtrain", shell=shell)
    show(script, {"shell": shell, "script": script}, as_json=output.json)
