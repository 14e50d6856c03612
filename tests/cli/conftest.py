from collections.abc import Callable
from typing import NamedTuple

import pytest

from streamtrain.cli.main import run


class CommandResult(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., CommandResult]


@pytest.fixture
def command(capsys, monkeypatch, tmp_path) -> Command:
    """`command("sweep", "data", "--json")` runs a verb in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*tokens: str) -> CommandResult:
        code = run([str(token) for token in tokens])
        return CommandResult(code, *capsys.readouterr())

    return call
