"""Every document, section, link and test that code and pages refer to exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Folders in which to look for a document that is named without one.
_FOLDERS = ("", "docs", "streamtrain")
_DOCUMENT = re.compile(r"(?<![\w/.-])((?:[\w.-]+/)*\w+\.md)\b(?:[,:]? §\s*(\d+))?")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"((?:\w+/)*test_\w+\.py)::(\w+)")
#: What a run writes, and words of examples.
_NOT_DOCUMENTS = {"report.md"}


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository; without git, as in an unpacked sdist, those that are there."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = done.stdout.split("\n") if done.returncode == 0 else []
    paths = [ROOT / name for name in names if name]
    return paths or [path for pattern in patterns for path in ROOT.rglob(pattern)]


SOURCES = [p for p in tracked("*.py", "*.md", "*.yaml", "*.toml", "Makefile") if p.exists()]
PAGES = [path for path in SOURCES if path.suffix == ".md"]
TESTS = {
    path: set(re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    for path in SOURCES
    if path.name.startswith("test_") and path.suffix == ".py"
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def document(name: str, beside: Path) -> Path | None:
    places = [beside.parent / name, *(ROOT / folder / name for folder in _FOLDERS)]
    return next((place for place in places if place.is_file()), None)


def sections(page: Path) -> set[str]:
    headings = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    return {match[1] for text in headings if (match := re.match(r"(\d+)\.? ", text))}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    texts = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for text in texts)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in plain}


def broken_references(text: str, path: Path) -> list[str]:
    """Documents and sections that `text` of the file `path` names and that do not exist."""
    found = []
    for name, section in _DOCUMENT.findall(text):
        if name in _NOT_DOCUMENTS or "/report.md" in name:
            continue
        page = document(name, path)
        if page is None:
            found.append(f"{named(path)}: {name} does not exist")
        elif section and section not in sections(page):
            found.append(f"{named(path)}: {name} has no section {section}")
    return found


# without this file, whose planted references are wrong on purpose
@pytest.mark.parametrize("path", [p for p in SOURCES if p != Path(__file__)], ids=named)
def test_documents_and_sections_exist(path):
    assert broken_references(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_of_a_page_lead_somewhere(page):
    text, wrong = _FENCED.sub("", page.read_text(encoding="utf-8")), []
    for link in _LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else page.parent / name
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_that_a_page_names_exist(page):
    wrong = [
        f"{file}::{test}"
        for file, test in _TEST.findall(page.read_text(encoding="utf-8"))
        if not any(f"/{named(path)}".endswith(f"/{file}") and test in TESTS[path] for path in TESTS)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("see SCIENCES.md §7", "SCIENCES.md does not exist", id="document"),
        pytest.param("DESIGN.md §99", "no section 99", id="section"),
        pytest.param("docs/faults.md, row 3; docs/none.md", "docs/none.md", id="folder"),
    ],
)
def test_a_planted_reference_is_caught(text, words):
    (found,) = broken_references(text, ROOT / "streamtrain" / "planted.py")
    assert words in found
