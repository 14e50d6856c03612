"""Garbage is not collected while a command imports its libraries."""

import gc

from streamtrain.base.imports import imports_kept


def test_nothing_is_collected_meanwhile_and_the_collector_runs_afterwards(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))  # not in the process of tests
    with imports_kept("no_such_module"):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen


def test_what_is_imported_already_changes_nothing(monkeypatch):
    monkeypatch.setattr(gc, "freeze", lambda: 1 / 0)
    with imports_kept("gc"):
        assert gc.isenabled()
