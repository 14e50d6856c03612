"""Paths and URLs as text."""

import os

import pytest

import streamtrain
from streamtrain.errors import ConfigError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.foreign.foreign_source import absolute_source
from streamtrain.storage.remote.urls import normal_url
from streamtrain.storage.verify import verify

from .layouts import numbers, write_parquet


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("FILE:///a/../b/", "/b"),
        ("file://localhost/a", "/a"),
        ("file:///a%20b/50%25/gr%C3%B6%C3%9Fe", "/a b/50%/größe"),
        ("file:///a b/run[1]/#?*.parquet", "/a b/run[1]/#?*.parquet"),
    ],
)
def test_the_url_of_a_local_file_is_its_path(url, path):
    assert normal_url(url) == path


def test_the_folder_above_a_link_is_that_of_its_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/b", "c"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "c" / "link").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "d").symlink_to(tmp_path / "a")
    for source in ("c/link/../t.csv", "c/link/./../t.csv", f"{tmp_path}/c/link/../t.csv"):
        assert normal_url(source) == f"{tmp_path}/a/t.csv"
        assert absolute_source(f"duckdb:{source}?table=t") == f"duckdb:{tmp_path}/a/t.csv?table=t"
    assert normal_url("c/link/..") == f"{tmp_path}/a"
    # other paths keep their links, and names that begin with dots are names
    for source, path in [("d/b/../t.csv", "d/t.csv"), ("d/..t", "d/..t"), ("../x", "../x")]:
        assert normal_url(source) == os.path.normpath(tmp_path / path)


@pytest.mark.parametrize("url", ["file://host/a", "file://a", "file://"])
def test_a_url_that_is_no_local_file_is_refused(url):
    with pytest.raises(ConfigError, match="not the URL of a local file"):
        normal_url(url)


def test_local_data_are_read_by_their_url(tmp_path):
    write_parquet(tmp_path / "a b" / "x.parquet", numbers())
    (tmp_path / "a b" / "t.csv").write_text("a,y\n1,2\n3,4\n")
    url = (tmp_path / "a b").as_uri()
    assert url.startswith("file:///")
    assert "%20" in url
    assert open_shards(f"{url}/*.parquet").num_rows == 1000
    assert len(streamtrain.open_stream(f"{url}/t.csv", batch_size=1, holdout=0)) == 2
    assert verify(f"{url}/x.parquet")
