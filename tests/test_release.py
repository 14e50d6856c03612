"""`.ci/release`: it sets the version, dates the changelog, commits and tags, or changes nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHANGES = """# Changelog

## [Unreleased]

### Added

- A verb.

## [0.1.0] - 2026-01-01

- The first.
"""


def git(folder, *words):
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", folder, *words],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with the three files that a release touches."""
    for name, value in {"AUTHOR": "a", "COMMITTER": "a"}.items():
        monkeypatch.setenv(f"GIT_{name}_NAME", value)
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b.c")
    for folder in (".ci", "streamtrain"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci" / "release")
    (tmp_path / "streamtrain" / "__init__.py").write_text('"""Doc."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "start")
    return tmp_path


def release(folder, version):
    return subprocess.run([folder / ".ci" / "release", version], capture_output=True, text=True)


def test_a_release_is_one_commit_and_a_tag_with_the_notes(clone):
    done = release(clone, "0.2.0")
    assert done.returncode == 0, done.stderr
    assert '__version__ = "0.2.0"' in (clone / "streamtrain" / "__init__.py").read_text()
    changes = (clone / "CHANGELOG.md").read_text()
    assert "## [Unreleased]\n\n## [0.2.0] - 20" in changes
    assert git(clone, "status", "--porcelain") == ""
    notes = git(clone, "tag", "-l", "--format=%(contents)", "v0.2.0")
    assert "### Added\n\n- A verb." in notes
    assert "The first" not in notes


@pytest.mark.parametrize(
    ("version", "before", "words"),
    [
        pytest.param("next", None, "usage", id="not a version"),
        pytest.param("0.2.0", "CHANGELOG.md", "not committed", id="changes"),
        pytest.param("0.1.0", "tag", "exists", id="tag"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_changes(clone, version, before, words):
    if before == "tag":
        git(clone, "tag", "v0.1.0")
    elif before:
        (clone / before).write_text(CHANGES + "\n- More.\n")
    refused = release(clone, version)
    assert refused.returncode != 0
    assert words in refused.stderr
    assert git(clone, "rev-list", "--count", "HEAD").strip() == "1"
    assert (clone / "streamtrain" / "__init__.py").read_text().endswith('"0.1.0"\n')


def test_a_release_without_news_is_refused(clone):
    assert release(clone, "0.2.0").returncode == 0
    assert "nothing" in release(clone, "0.3.0").stderr
