"""The report in a real browser: opened from disk, at the width of a desk and of a phone, with hostile stories."""

import time
from pathlib import Path
from typing import Any

import pytest

from eigen_lightning.report import write_comparison, write_report
from tests.report.browser import browser, complaints, opened, requests
from tests.report.folders import HOSTILE, make_run

pytestmark = pytest.mark.slow

NO_SCROLL = "return document.documentElement.scrollWidth <= window.innerWidth"
VISIBLE = "return [...document.querySelectorAll('#cards > :not([hidden])')].map(card => card.id.slice(10) | 0)"

# Contrast by the formula of WCAG 2: every piece of text against what lies behind it, translucent layers blended.
CONTRAST = """
const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const parse = s => { const m = s.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const behind = node => {
  const layers = [];
  for (; node; node = node.parentElement) layers.push(parse(getComputedStyle(node).backgroundColor));
  return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
};
const poor = {};
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || node.closest("script, style, title, .skip")) continue;
  const style = getComputedStyle(node);
  const under = behind(node);
  const ink = over(parse(node.closest("svg") ? style.fill : style.color), under);
  const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor[node.tagName + "." + node.className] = [ratio, walk.currentNode.data.slice(0, 20)];
}
return poor;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = {kind: make_run(folder / kind, kind, directions=5) for kind in ("xor", "tms")}
    runs["text"] = make_run(folder / "text", "text", directions=64)
    runs["hostile"] = make_run(folder / "hostile", "text", examples=5, words=[*HOSTILE, " fine"])
    made = {name: write_report(run) for name, run in runs.items()}
    write_comparison(runs["text"], runs["text"], folder / "both.html")
    return made | {"both": folder / "both.html"}


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_open_cleanly_and_fit_the_window(pages, width):
    with browser(width) as driver:
        for path in pages.values():
            opened(driver, path)
            assert driver.execute_script(NO_SCROLL), path
            driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert driver.execute_script(NO_SCROLL), path
            assert complaints(driver) == []
            assert requests(driver, path) == []


def test_sixty_four_cards_stand_within_a_second(pages):
    with browser(1280) as driver:
        opened(driver, pages["xor"])
        begun = time.monotonic()
        opened(driver, pages["text"])
        assert len(driver.execute_script(VISIBLE)) == 64
        assert time.monotonic() - begun < 1.0


def test_filter_sort_and_anchor(pages):
    with browser(1280) as driver:
        opened(driver, pages["text"])
        field = driver.find_element("id", "filter")
        field.send_keys("direction 63")
        assert driver.execute_script(VISIBLE) == [63]
        assert driver.find_element("id", "shown").text == "1 of 64 directions"
        # A link to a direction that the filter hides brings it back, and the keyboard goes there.
        driver.execute_script("location.hash = 'direction-7'")
        time.sleep(0.5)
        assert driver.execute_script("return document.activeElement.id") == "direction-7"
        assert len(driver.execute_script(VISIBLE)) == 64
        assert abs(driver.execute_script("return document.activeElement.getBoundingClientRect().top")) < 120
        for key, expected in (("steepness", list(range(63, -1, -1))), ("selectivity", [0, *range(63, 0, -1)])):
            driver.execute_script(
                "const sort = document.getElementById('sort'); sort.value = arguments[0];"
                "sort.dispatchEvent(new Event('change'))",
                key,
            )
            assert driver.execute_script(VISIBLE) == expected


def test_the_keyboard_reaches_the_tools(pages):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    with browser(1280) as driver:
        opened(driver, pages["tms"])
        ActionChains(driver).send_keys(Keys.TAB).perform()
        assert driver.execute_script("return document.activeElement.className") == "skip"
        ActionChains(driver).send_keys("/").perform()
        assert driver.execute_script("return document.activeElement.id") == "filter"
        ActionChains(driver).send_keys("zzz", Keys.ESCAPE).perform()
        assert len(driver.execute_script(VISIBLE)) == 5
        ActionChains(driver).send_keys(Keys.TAB).perform()
        assert driver.execute_script("return document.activeElement.id") == "sort"


def test_hostile_stories_do_nothing_and_are_shown(pages):
    with browser(390) as driver:
        opened(driver, pages["hostile"])
        assert "owned" not in driver.title.replace('<script>document.title="owned"</script>', "")
        assert driver.execute_script("return document.scripts.length") == 1
        assert driver.execute_script("return document.images.length") == 0
        text = driver.execute_script("return document.body.textContent")
        assert all(word in text for word in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[11], "U+202E"))
        assert complaints(driver) == []


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_that_of_wcag_aa(pages, dark):
    with browser(1280, dark=dark) as driver:
        for name in ("text", "tms", "xor", "both"):
            opened(driver, pages[name])
            driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert driver.execute_script(CONTRAST) == {}
