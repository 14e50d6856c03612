"""Names that are not UTF-8 are refused before any work is done."""

import os

import pytest

import data_gen
import streamtrain
from streamtrain.base.user_cache import user_cache
from streamtrain.base.utf8_names import is_utf8
from streamtrain.cli.main import run
from streamtrain.errors import ConfigError
from streamtrain.run.directory import RunDirectory

#: `größe` in Latin-1.
NAME = os.fsdecode(b"gr\xf6\xdfe")


def test_what_utf8_is():
    assert is_utf8("größe 数 \n '[1]%")
    assert not is_utf8(NAME)


@pytest.mark.parametrize(
    "words",
    [
        ["train", NAME],
        ["train", "d", "--out", NAME],
        ["train", "d", "-c", f"{NAME}.yaml"],
        ["generate", NAME, "--rows", "10"],
        ["predict", "m", "d", "--out", f"{NAME}.csv"],
        ["report", NAME],
    ],
    ids=["data", "out", "config", "generate", "predict", "report"],
)
def test_a_command_refuses_them_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: gr\\udcf6\\udcdfe")
    assert said.endswith(": the name is not UTF-8. Rename it.\n")
    assert os.listdir(tmp_path) == []


def test_functions_refuse_them_too(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    data_gen.generate(tmp_path / "d", kind="linear", rows=100)
    with pytest.raises(ConfigError, match="not UTF-8"):
        streamtrain.train(tmp_path / "d", out=tmp_path / NAME / "run")
    with pytest.raises(ConfigError, match="not UTF-8"):
        RunDirectory(tmp_path / NAME)
    monkeypatch.chdir(tmp_path / NAME)
    with pytest.raises(ConfigError, match="not UTF-8"):
        streamtrain.open_stream("t.csv", batch_size=4)


@pytest.mark.parametrize("path", ["a\0b", "a\0b/t.csv", "*\0"])
def test_a_path_with_a_nul_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"\\x00.*: a path has no NUL"):
        streamtrain.train(path)
    with pytest.raises(ConfigError, match=r"\\x00.*: a path has no NUL"):
        streamtrain.train("t.csv", out=path)


def test_a_home_folder_that_is_not_utf8_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / NAME))
    cache = user_cache()
    assert cache is None or cache.name == f"streamtrain-{os.getuid()}"
