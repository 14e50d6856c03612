"""Take a picture of the top of a report, for the guide.

`python -m tests.report.picture runs/demo/report.html docs/images/report.png`.
"""

import sys
import tempfile
from pathlib import Path

from tests.report.browser import Browser

WIDTH, HEIGHT = 1240, 1290


def take(page: Path, picture: Path, *, height: int = HEIGHT) -> None:
    """Write the first `height` pixels of the page as PNG, light, in a window of WIDTH pixels."""
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            with browser.page(page.absolute(), width=WIDTH) as shown:
                picture.write_bytes(shown.screenshot(height=height))
        finally:
            browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
