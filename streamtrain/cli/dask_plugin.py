"""`dask streamtrain …`: the same command as a subcommand of Dask's own.

Dask's entry point `dask_cli` takes only click's commands.
"""

import sys

import click

from streamtrain.cli.main import run


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def streamtrain(words: tuple[str, ...]) -> None:
    """Train regressors on data larger than memory, and find the minibatch size that suits it."""
    sys.exit(run(words or ("--help",)))
