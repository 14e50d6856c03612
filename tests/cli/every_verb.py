"""Runs every verb that reads or writes files in one folder; see test_places.py.

`python -m tests.cli.every_verb FOLDER` is the same in a process of its own, for another user.
"""

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy as np

from streamtrain.cli.main import run

_SMALL = ("--holdout", "200", "--hidden", "4", "--max-rows", "2000", "--memory", "64MiB", "-q")
_SWEEP = ("--batch-sizes", "64,256", "--lr-grid", "1", "--trials", "1", "--measure", "none")


def run_every_verb(folder: Path, *, pictures: bool) -> None:
    """Run the verbs with the folder as the current one, and raise where one fails or warns.

    Data are named relative, absolute, and by `file://` in turn. `pictures`: with a whole report.
    """
    os.chdir(folder)
    # as many features as other tests have, whose kernels are compiled already
    rows = np.random.default_rng(0).normal(size=(2_000, 4)).round(3)
    lines = [f"{a},{b},{c},{d},{round(2 * a - b, 3)}" for a, b, c, d in rows.tolist()]
    Path("t.csv").write_text("\n".join(["a,b,c,d,y", *lines]))
    page = () if pictures else ("--no-report",)
    absolute, url = str(folder / "d"), (folder / "d").as_uri()
    for words in (
        ["generate", url, "--kind", "linear", "--rows", "2000"],
        ["ingest", f"{folder.as_uri()}/t.csv", "i"],
        ["inspect", url],
        ["inspect", "t.csv"],
        ["verify", absolute],
        ["init", "t.csv", "--out", "c.yaml"],
        ["train", url, *_SMALL, *page, "--out", "r"],
        ["train", "t.csv", *_SMALL, "--no-report", "--tensorboard"],
        ["train", "d/*.parquet", *_SMALL, "--no-report", "--out", "g", "--seed", "3"],
        ["train", "--resume", str(folder / "g"), "-q"],
        ["sweep", absolute, *_SMALL, *_SWEEP, "--no-confirm", "--no-report", "--out", "s"],
        *([["report", str(folder / "s")]] if pictures else []),
        ["compare", "r", "g"],
        ["predict", "r", url, "--out", "p.parquet"],
        ["predict", str(folder / "r"), "d"],
        ["evaluate", "r", absolute],
        ["export", "r"],
    ):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words)
        notes = err.getvalue()
        if code or "warning" in notes or "Traceback" in notes:
            raise AssertionError(f"{words}: {code} {notes}")
    if pictures and not Path("r/charts/loss_by_rows.png").exists():
        raise AssertionError("no charts")
    if left := [path for path in Path().rglob("*.tmp") if path.is_file()]:
        raise AssertionError(f"left behind: {left}")


if __name__ == "__main__":
    run_every_verb(Path(sys.argv[1]), pictures=True)
