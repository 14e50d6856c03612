"""The page in a real browser, opened from disk, for every kind of run.

It makes no request, logs no error, and its table has the figures of summary.json.
"""

import json
import re

import pytest

from streamtrain.report import write
from streamtrain.report.charts import NAMES
from streamtrain.report.render import Drawing
from tests.report import browser as chromium
from tests.report.synthetic import make_records, with_measures
from tests.report.test_summary import MANY
from tests.report.undrawn import Undrawn

pytestmark = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="no Chromium here: apt-get install chromium"
)

RUNS = {
    "everything": lambda: with_measures(
        make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05, 0.03])
    ),
    "one size, one seed": lambda: make_records([1024], trials=1, lrs=[0.004], verb="train"),
    "no hold-out": lambda: make_records([1024], trials=1, holdout="none", verb="train"),
    "NaN loss": lambda: make_records((256, 1024), nan_sizes=[1024]),
    "all NaN": lambda: make_records((256, 1024), nan_sizes=[256, 1024]),
    "nothing reached": lambda: make_records((256, 1024), target_loss=[0.005]),
    "failed cells": lambda: make_records(
        (256, 1024, 4096, 65536), outcomes={256: "failed", 4096: "out_of_memory", 65536: "diverged"}
    ),
    "interrupted": lambda: make_records((256, 1024))[:200],
    "eight sizes": lambda: eight_sizes(),
    "200 sizes": lambda: make_records(MANY, lrs=[0.004], trials=1, train_rows=200_000),
    "hostile names": lambda: make_records(
        (256, 1024),
        features=["<script>alert(1)</script>", "</script>", "{{ 7*7 }}", "\x1b]0;x\x07\u202e"],
    ),
}
#: The texts of the charts that overlap: chart, text, text. A halo has the text of its label.
OVERLAPS = """[...document.querySelectorAll(".chart")].flatMap(chart => {
  const boxes = [...chart.querySelectorAll("svg text")].filter(text => {
    const style = getComputedStyle(text);
    return text.textContent && style.opacity !== "0" && style.visibility !== "hidden";
  }).map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([one, a], k) => boxes.slice(k + 1).filter(([other, b]) =>
    a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom
    && !(one === other && Math.abs(a.left - b.left) < 1 && Math.abs(a.top - b.top) < 1)
  ).map(([other]) => [chart.dataset.spec, one, other]));
})"""

#: The texts of the charts that are cut off at an edge: chart, text.
CUT_OFF = """[...document.querySelectorAll(".chart svg")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    return text.textContent && getComputedStyle(text).opacity !== "0"
      && (box.left < frame.left - 1 || frame.right + 1 < box.right
          || box.top < frame.top - 1 || frame.bottom + 1 < box.bottom);
  }).map(text => [svg.closest(".chart").dataset.spec, text.textContent]);
})"""


def eight_sizes():
    """Return the records of eight sizes whose losses end close together, with measurements.

    Larger sizes reach fewer of the losses. Both sharpnesses fall to the last size.
    """
    sizes = [2**power for power in range(4, 12)]
    records = with_measures(
        make_records(sizes, trials=2, train_rows=65_536, target_loss=[0.085]), sizes[2:]
    )
    for record in records:
        if record["event"] == "evaluation" and record["rows"]:
            slow = record["batch_size"] ** 0.7 / record["rows"]
            record["holdout_loss"] = 0.0826 * (1 + 20 * slow) * 1.001 ** record["trial"]
            record["holdout_rmse"] = 374.2 * record["holdout_loss"] ** 0.5
        if record["event"] == "timing":
            record["seconds"] = 0.1 * (1.5 + 12 / record["batch_size"]) * 1.2 ** record["repeat"]
        if record["event"] == "measures":
            found = record["measures"]
            by_size = list(found["sharpness"]["by_batch_size"].values())
            found["sharpness"]["by_batch_size"] = {
                str(size): by_size[k % len(by_size)] for k, size in enumerate(sizes)
            }
    return records


#: The rows of the page's table: batch size, status, and figures by their key.
#: Figures that compare sizes, of which `train` has one.
COMPARING = ("slower_by", "holdout_loss_at_steps", "holdout_loss_at_seconds")
TABLE = """[...document.querySelectorAll("#cells tbody tr")].map(row => [
  Number(row.dataset.batchSize), row.querySelector("[data-status]").dataset.status,
  Object.fromEntries([...row.querySelectorAll("[data-key]")].map(
    cell => [cell.dataset.key, cell.dataset.value]))])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    instance = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield instance
    instance.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return the folder of a report by its name; it is written when first used.

    Pictures are left to test_write.py, and the script of the page is made once, since they take
    most of the time.
    """
    made = {}
    with Drawing() as drawing:
        script = drawing.draw({}).bundle

    class Scripted(Undrawn):
        bundle = script

    def report(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("report")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(write, "Drawing", Scripted)
                write.write_report(RUNS[name](), made[name])
        return made[name]

    return report


@pytest.mark.parametrize("name", RUNS)
def test_the_page_draws_without_a_request_or_a_complaint_and_shows_the_summary(
    browser, reports, name
):
    out = reports(name)
    summary = json.loads((out / "summary.json").read_text())
    with browser.page(out / "report.html") as page:
        assert (page.requests, page.complaints) == ([], [])
        assert page.evaluate(
            "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('.marks'))"
        )
        shown, is_sweep = page.evaluate(TABLE), summary["verb"] == "sweep"
        expected = [
            [
                cell["batch_size"],
                cell["status"],
                {
                    key: value["value"]
                    for key, value in cell.items()
                    if isinstance(value, dict) and (is_sweep or key not in COMPARING)
                },
            ]
            for cell in summary["cells"]
        ]
        read = [
            [size, status, {key: float(text) if text else None for key, text in row.items()}]
            for size, status, row in shown
        ]
        assert read == expected
        assert page.evaluate("document.querySelector('.answer').textContent") == summary["sentence"]
        # Nothing spills over the side, also on a telephone.
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_chart_of_a_whole_run_has_its_place(browser, reports):
    out = reports("everything")
    with browser.page(out / "report.html") as page:
        placed = set(
            page.evaluate(
                "[...document.querySelectorAll('[data-spec]')].map(one => one.dataset.spec)"
            )
        )
        switched = set(
            page.evaluate(
                "[...document.querySelectorAll('[data-axis]')].map(one => one.dataset.axis)"
            )
        )
    assert placed | switched == set(NAMES)


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(1240, True, id="dark"),
        pytest.param(390, False, id="narrow"),
        pytest.param(390, True, id="narrow and dark", marks=pytest.mark.slow),
    ],
)
def test_dark_and_narrow_pages_draw_too(browser, reports, width, dark):
    with browser.page(reports("everything") / "report.html", width=width, dark=dark) as page:
        assert (page.requests, page.complaints) == ([], [])
        paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == dark
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.screenshot()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("name", "width"), [("eight sizes", 390), ("200 sizes", 1240)])
def test_no_text_of_a_chart_is_cut_off(browser, reports, name, width):
    """The title of an axis may be long for a telephone; the last of 200 sizes is 1,054,024."""
    with browser.page(reports(name) / "report.html", width=width) as page:
        assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("width", [1240, 390])
def test_no_text_of_a_chart_covers_another(browser, reports, width):
    with browser.page(reports("eight sizes") / "report.html", width=width) as page:
        drawn = page.evaluate("document.querySelectorAll('.chart svg').length")
        assert drawn >= 9
        assert page.evaluate(OVERLAPS) == []
        for axis in ("loss_by_steps", "loss_by_seconds"):
            page.evaluate(f"document.querySelector('[data-axis={axis}]').click()")
            page.wait_for(
                f"document.querySelector('#curve svg').textContent.includes('{axis[8:]}')"
            )
            assert page.evaluate(OVERLAPS) == []


def test_a_closed_detail_of_the_run_is_not_printed(browser, reports):
    shown = "getComputedStyle(document.querySelector('#run details')).display !== 'none'"
    with browser.page(reports("everything") / "report.html") as page:
        assert page.evaluate(shown)
        page.print_view()
        assert not page.evaluate(shown)
        page.evaluate("document.querySelector('#run details').open = true")
        assert page.evaluate(shown)


def test_the_page_prints(browser, reports):
    with browser.page(reports("everything") / "report.html", dark=True) as page:
        pdf = page.pdf()
    assert pdf[:5] == b"%PDF-"
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 16


def test_the_axis_can_be_changed_by_keyboard_and_the_table_copied(browser, reports):
    out = reports("everything")
    with browser.page(out / "report.html") as page:
        before = page.evaluate("document.getElementById('curve').innerHTML")
        page.evaluate("document.querySelector('[data-axis=loss_by_steps]').focus()")
        page.press("Enter")
        page.wait_for(
            f"document.getElementById('curve').innerHTML !== {json.dumps(before)} &&"
            " document.getElementById('curve').dataset.spec === 'loss_by_steps'"
        )
        assert page.evaluate(
            "[...document.querySelectorAll('[aria-pressed=true]')].map(one => one.textContent)"
        ) == ["steps"]
        assert (
            page.evaluate("JSON.parse(document.getElementById('page').textContent).texts.csv")
            == (out / "summary.csv").read_text()
        )
        page.evaluate("document.querySelector('[data-copy=csv]').focus()")
        page.press("Enter")
        page.wait_for("document.querySelector('#table [role=status]').textContent === 'copied'")
        assert page.complaints == []


def test_nothing_of_a_hostile_name_runs(browser, reports):
    with browser.page(reports("hostile names") / "report.html") as page:
        assert page.evaluate("document.querySelectorAll('main script').length") == 0
        assert "<script>alert(1)</script>" in page.evaluate(
            "document.querySelector('main').textContent"
        )
        assert "49" not in page.evaluate(
            "[...document.querySelectorAll('#run dd')].map(one => one.textContent).find(text =>"
            " text.includes('→'))"
        )
