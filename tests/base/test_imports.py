"""Garbage is not collected while a command imports its libraries."""

import gc

from streamtrain.base.imports import importing_without_gc


def test_nothing_is_collected_meanwhile_and_the_collector_runs_afterwards(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))  # not in the process of tests
    with importing_without_gc("no_such_module"):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen


def test_what_is_imported_already_changes_nothing(monkeypatch):
    monkeypatch.setattr(gc, "freeze", lambda: 1 / 0)
    with importing_without_gc("gc"):
        assert gc.isenabled()
