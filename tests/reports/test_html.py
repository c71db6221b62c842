"""The HTML page of a board: what its text promises, and what a real browser makes of it.

The browser is Chromium with its driver. Without them these tests are skipped, unless CAKDBENCH_BROWSER=1 is set.
"""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cakdbench.grid.experiments import load_experiment
from cakdbench.reports.board import Board, Section
from cakdbench.reports.html import board_html
from cakdbench.reports.page_experiment import experiment_board
from cakdbench.results.load import Evidence
from cakdbench.store import Store
from tests.reports.boards import A, B, M, answers, board, prints, runs
from tests.reports.synthetic import TestRules

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
WANTED = os.environ.get("CAKDBENCH_BROWSER") == "1"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class HostileRules(TestRules):
    def title(self, label):
        return f"{super().title(label)} {HOSTILE}"

    def refusal(self, label, column):
        return HOSTILE if label.startswith("fbt") else None


def made():
    """Two pairs, one with fewer methods; printed values; an unmeasured method, a refusal."""
    records = [*runs((A, B)), *runs((M,), accuracies={"scratch": 70.0, "kd": 69.0})]
    return board(records, (A, B, M), prints(), tests=answers)


@pytest.fixture(scope="module")
def text():
    return board_html(made())


@pytest.fixture(scope="module")
def hostile():
    records = [*runs((A,), versions={"torch": HOSTILE}, device=HOSTILE)]
    return board_html(board(records, (A,), title=HOSTILE, rules=HostileRules(prints())))


class Tags(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def attributes(self, tag):
        return next(attributes for name, attributes in self.found if name == tag)


class TestText:
    def test_equal_boards_give_equal_bytes(self, text):
        assert board_html(made()) == text

    def test_nothing_is_loaded(self, text):
        loading = ("src", "srcset", "action", "data", "poster", "background")
        for tag, attributes in Tags(text).found:
            assert tag not in ("iframe", "object", "embed", "base", "img")
            assert not any(name in attributes for name in loading)
            for name in ("href", "xlink:href"):
                assert attributes.get(name, "#").startswith(("#", "data:,"))
        assert not re.search(r"@import|url\((?!#)", text)
        policy = next(a["content"] for t, a in Tags(text).found if a.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy and "unsafe-inline" not in policy.partition("script-src")[2]

    def test_ids_are_unique(self, text):
        ids = [attributes["id"] for _, attributes in Tags(text).found if "id" in attributes]
        assert len(ids) == len(set(ids))
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
        assert {a or b for a, b in used} <= set(ids)

    def test_hostile_text_makes_no_element(self, text, hostile):
        def kinds(page):
            return {tag for tag, _ in Tags(page).found}

        assert kinds(hostile) <= kinds(text)
        assert hostile.count("<script") == 2
        assert not any("onerror" in attributes for _, attributes in Tags(hostile).found)

    def test_details_of_the_cells(self, text):
        data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
        cells = {cell["title"]: cell for cell in data["cells"].values()}
        kd = cells["KD on swin_t → resnet18"]
        assert [run[:4] for run in kd["runs"]] == [
            ["0", "72.00", "+2.00", "72.50"],
            ["1", "72.10", "+2.00", "72.60"],
            ["2", "72.20", "+2.00", "72.70"],
        ]
        assert kd["command"] is None
        ofa = cells["OFA on swin_t → mlp_mini"]
        assert ofa["runs"] == [] and ofa["command"] == (
            "cakdbench run --methods ofa --pairs 'swin_t>mlp_mini@cifar100' --recipe demo --seeds 0,1,2"
        )
        assert [each[0] for each in cells["OFA on swin_t → resnet18"]["printed"]] == ["80.54", "80.5"]
        refused = cells["FBT on swin_t → mlp_mini"]
        assert refused["command"] is None and refused["notes"] == ["Refused: fbt needs four stages of four sizes"]
        assert cells["unknown on vit_s → mobilenetv2"]["command"] is None

    def test_a_board_without_runs_or_plots(self):
        assert (
            Tags(board_html(Board("x", "X", (Section("Text", notes=("- a",)),)))).attributes("form")["hidden"] is None
        )
        empty = board_html(board([], (A,)))
        assert "hidden" not in Tags(empty).attributes("form")
        assert "<figure" not in empty and "Not measured yet: 6 runs" in empty


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not WANTED:
        pytest.importorskip("selenium")
        if not (program and driver):
            pytest.skip("no Chromium with its driver here")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page from disk, on a screen of some size; returns a function that runs a script in it."""

    def opened(text, width=1280, height=900):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        path = tmp_path / "board.html"
        path.write_text(text)
        browser.get("about:blank")
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get(path.as_uri())
        return browser.execute_script

    return opened


def click(browser, selector, place=0):
    browser.find_elements("css selector", selector)[place].click()


ROWS = "[...document.querySelectorAll('.board tbody:last-child tr')].filter(row => !row.hidden)"
NAMES = f"return {ROWS}.map(row => row.cells[0].dataset.value)"
SORTS = "return [...document.querySelectorAll('.board thead th')].map(h => h.getAttribute('aria-sort'))"


class TestBrowser:
    def test_it_loads_nothing_and_complains_of_nothing(self, browser, show, text):
        run = show(text)
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert [url.rpartition("/")[2] for url in asked] == ["board.html"]
        assert run("return performance.getEntriesByType('resource').length") == 0
        assert browser.get_log("browser") == []

    def test_rows_that_are_of_no_kind_are_shown(self, show, text):
        """Those of a table of a paper are pairs, or parts of a method: there is nothing to choose them by."""
        run = show(board_html(experiment_board(load_experiment("tas_table12"), Evidence(Store(Path("no-runs")), None))))
        assert len(run(NAMES)) == 9 and run("return document.querySelector('.count').textContent") == ""
        assert "5 of 5 methods shown" in show(text)("return document.querySelector('.count').textContent")

    def test_plots_are_visible(self, show, text):
        run = show(text)
        sizes = run(
            "return [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
            ".map(b => [b.width, b.height])"
        )
        assert len(sizes) == 4
        assert all(width > 300 and height > 60 for width, height in sizes)

    def test_a_head_sorts_by_number_missing_last_and_turns_around(self, browser, show, text):
        run = show(text)
        assert run(NAMES) == ["scratch", "KD", "FBT", "OFA", "unknown"]
        click(browser, ".sort", 1)
        assert run(NAMES) == ["FBT", "OFA", "KD", "scratch", "unknown"]
        assert run(SORTS)[:3] == ["none", "descending", "none"]
        click(browser, ".sort", 1)
        assert run(NAMES) == ["scratch", "KD", "OFA", "FBT", "unknown"]
        assert run(SORTS)[1] == "ascending"
        click(browser, ".sort", 0)
        assert run(NAMES) == ["FBT", "KD", "OFA", "scratch", "unknown"]
        assert run(SORTS)[:2] == ["ascending", "none"]
        click(browser, "#start-over")
        assert run(NAMES) == ["scratch", "KD", "FBT", "OFA", "unknown"] and set(run(SORTS)) == {"none"}

    def test_a_head_sorts_by_the_keyboard(self, browser, show, text):
        run = show(text)
        browser.find_elements("css selector", ".sort")[4].send_keys("\ue007")
        assert run(SORTS)[4] == "descending" and run(NAMES)[0] == "FBT"

    def test_the_gain_view_sorts_by_gain(self, browser, show, text):
        run = show(text)
        click(browser, ".sort", 3)
        assert run(NAMES)[:2] == ["scratch", "KD"]  # 70.1 before 69.1
        click(browser, "[value=gains]")
        assert run(NAMES)[0] == "KD"  # scratch has no gain
        shown = run(
            "return ['.accuracy', '.gain', '.printed'].map(s => [...document.querySelectorAll('.board ' + s)]"
            ".some(e => e.checkVisibility()))"
        )
        assert shown == [False, True, False]

    def test_filters(self, browser, show, text):
        run = show(text)
        browser.find_element("id", "search").send_keys("Of")
        assert run(NAMES) == ["OFA"]
        assert run("return document.querySelector('.count').textContent") == "1 of 5 methods shown"
        click(browser, "#start-over")
        for summary in browser.find_elements("css selector", ".filters summary"):
            summary.click()
        click(browser, "[name=kind][value=logits]")
        assert run(NAMES) == ["scratch", "FBT", "unknown"]
        click(browser, "#start-over")
        click(browser, "[name=measured]")
        assert run(NAMES) == ["scratch", "KD", "FBT", "OFA"]
        click(browser, "[name=pair][value='vit_s → mobilenetv2']")
        heads = run("return [...document.querySelectorAll('.board th.pair')].filter(h => h.checkVisibility()).length")
        assert heads == 2

    def test_printed_values_can_be_hidden(self, browser, show, text):
        run = show(text)
        count = "return [...document.querySelectorAll('.printed')].filter(e => e.checkVisibility()).length"
        assert run(count) >= 3
        click(browser, "[name=printed]")
        assert run(count) == 0

    def test_a_cell_tells_the_command_that_measures_it(self, browser, show, text):
        run = show(text)
        row = "[...document.querySelectorAll('.board tr')].find(r => r.dataset.name === 'ofa')"
        run(f"{row}.cells[3].querySelector('button').click()")
        dialog = browser.find_element("id", "detail")
        assert dialog.is_displayed() and "OFA on swin_t → mlp_mini" in dialog.text
        assert "cakdbench run --methods ofa --pairs 'swin_t>mlp_mini@cifar100'" in dialog.text
        click(browser, "#detail .copy")
        assert dialog.find_element("css selector", ".copy").text.startswith(("Copied", "Selected", "Copy"))
        click(browser, "#detail .close")
        assert not dialog.is_displayed()
        run(f"{row}.cells[1].querySelector('button').click()")
        assert "80.54" in dialog.text and "Measured here" in dialog.text

    def test_on_a_phone_only_the_table_scrolls_sideways(self, show, text, hostile):
        for each in (text, hostile):
            run = show(each, 360, 740)
            assert run("return document.documentElement.scrollWidth") == 360
        run = show(text, 360, 740)
        run("document.querySelector('.scroll').scrollLeft = 150")
        assert run("return document.querySelector('.scroll').scrollLeft") == 150
        left = run("return document.querySelector('.board tbody:last-child th').getBoundingClientRect().left")
        assert 0 <= left < 20

    def test_hostile_text_is_inert(self, browser, show, hostile):
        run = show(hostile)
        run("document.querySelector('.board .open').click()")
        assert run("return document.title") == HOSTILE
        assert run("return document.querySelectorAll('img').length") == 0
        assert HOSTILE in run("return document.getElementById('detail').textContent")
        assert browser.get_log("browser") == []
