"""Settings of the documentation site, which `make docs` builds with Sphinx from Markdown.

The sources are read from the repository's root, so that links between these pages, README.md,
SECURITY.md and the configs are the same on the site and in the repository.
"""

import re
from typing import Any

import streamtrain

project = "streamtrain"
author = "the streamtrain developers"
version = release = streamtrain.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "streamtrain/DESIGN.md",
    "docs/*.md",
]
root_doc = "docs/README"
myst_heading_anchors = 4
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88

html_theme = "furo"
html_show_copyright = False
html_title = f"streamtrain {version}"


def _list_pages(app: Any, name: str, source: list[str]) -> None:
    """Append a table of contents to the guide's first page, of the pages that it links to."""
    if name == root_doc:
        pages = re.findall(r"\]\(([^)#:]+)\.md\)", source[0])
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```", ""])


def setup(app: Any) -> None:
    """Connect the events of this file; Sphinx calls it."""
    app.connect("source-read", _list_pages)
