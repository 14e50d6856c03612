"""What a person's terminal shows: where lines break."""

import os
import sys

import pytest

from streamtrain.cli import terminal

COMMAND = "Next: streamtrain train --from runs/a-folder-with-a-long-name"
ANSWER = f"Use 64: it is as fast as the others.\n{COMMAND}\nIt trains on 46,341 rows in 1 s."


@pytest.fixture
def narrow(monkeypatch):
    """Make stdout a terminal of 24 columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: os.terminal_size((24, 40)))


def test_the_command_to_copy_stays_on_a_line_of_its_own(narrow):
    assert terminal.fit(ANSWER).splitlines() == [
        "Use 64: it is as fast as",
        "  the others.",
        COMMAND,
        "It trains on 46,341 rows",
        "  in 1 s.",
    ]


def test_off_a_terminal_no_line_is_broken():
    assert terminal.fit(ANSWER) == ANSWER
