"""The drawing process, and the cache of the script that the page's charts need."""

import tempfile

import pytest

from streamtrain.report import render
from streamtrain.report.render import Drawing

CHART = {
    "data": {"values": [{"a": 1, "b": 2}]},
    "mark": "point",
    "encoding": {"x": {"field": "a", "type": "quantitative"}},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "streamtrain"


def draw(charts=None):
    with Drawing() as drawing:
        return drawing.draw(charts or {})


def test_the_bundle_is_made_once_and_made_again_where_the_file_is_damaged(cache, monkeypatch):
    asked, answers = [], {}
    ask = Drawing._ask

    def ask_once(self, request):
        """The process makes a bundle once only, since that takes seconds."""
        asked.append(with_bundle := request["bundle"])
        if with_bundle not in answers:
            answers[with_bundle] = ask(self, request)
        return answers[with_bundle]

    monkeypatch.setattr(Drawing, "_ask", ask_once)
    first = draw({"one": CHART})
    [file] = cache.iterdir()
    intact = file.read_bytes()
    assert first.pictures["one"][0].startswith("<svg")
    assert first.pictures["one"][1].startswith(b"\x89PNG")
    assert "window.vegaEmbed" in first.bundle
    assert "</script" not in first.bundle
    assert draw().bundle == first.bundle
    file.write_bytes(intact[:-1] + b"?")
    assert draw().bundle == first.bundle
    assert file.read_bytes() == intact
    assert asked == [True, False, True]


def test_each_kind_of_damage_is_noticed(tmp_path):
    file = tmp_path / "vega.js"
    render._keep_bundle(file, "script")
    intact = file.read_bytes()
    assert render._read_bundle(file) == "script"
    for damaged in (b"", b"script", intact[:-2], intact[1:], intact + b"x", b"\xff\n\xff"):
        file.write_bytes(damaged)
        assert render._read_bundle(file) is None
    assert render._read_bundle(tmp_path / "absent") is None
    assert render._read_bundle(tmp_path) is None


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private = render._cache_file()
    assert private is not None
    assert private.is_relative_to(tmp_path)
    unwritable = tmp_path / "file" / "vega.js"
    render._keep_bundle(unwritable, "script")
    assert render._read_bundle(unwritable) is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    home_file = render._cache_file()
    assert home_file is not None
    assert home_file.parent == tmp_path / ".cache" / "streamtrain"


def test_a_drawing_that_is_not_asked_leaves_no_process():
    with Drawing() as drawing:
        children = list(drawing._children)
        assert children
        assert [child.poll() for child in children] == [None] * len(children)
    assert None not in [child.returncode for child in children]


def test_processes_that_waited_too_long_are_started_again(cache):
    """They end by themselves, since a run may take days."""
    render._keep_bundle(render._cache_file(), "script")
    charts = dict.fromkeys(("c", "a", "b"), CHART)
    with Drawing() as drawing:
        first = list(drawing._children)
        for child in first:
            child.kill()
            child.wait()
        drawn = drawing.draw(charts)
    assert list(drawn.pictures) == list(charts)
    assert not set(first) & set(drawing._children)


def test_a_process_whose_run_was_killed_ends():
    with Drawing() as drawing:
        for child in drawing._children:
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(60)
