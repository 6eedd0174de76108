"""A person's own labels: from the page into a file, from the file into the page and into Python."""

import json
import time
from pathlib import Path

import pytest

import eigen_lightning as el
from eigen_lightning.report.writing import write_report
from tests.report.browser import browser, complaints, opened
from tests.report.folders import make_run


def test_what_the_folder_holds_stands_in_the_page_and_in_python(tmp_path: Path) -> None:
    run = make_run(tmp_path, "tms", directions=5)
    assert el.load(tmp_path).labels == {}
    run.labels.write_text(json.dumps({"3": 'a "corner" <b>', "0": "edges"}))
    page = write_report(run).read_text(encoding="utf-8")
    assert 'data-direction="3" value="a &#34;corner&#34; &lt;b&gt;"' in page
    assert el.load(tmp_path).labels == {3: 'a "corner" <b>', 0: "edges"}


@pytest.mark.parametrize("held", [{"5": "beyond"}, {"first": "no number"}, {"1": 2}])
def test_other_labels_are_refused(tmp_path: Path, held: dict[str, object]) -> None:
    make_run(tmp_path, "tms", directions=5).labels.write_text(json.dumps(held))
    with pytest.raises(el.UserError, match="expected labels of directions 0 to 4"):
        _ = el.load(tmp_path).labels


@pytest.mark.slow
def test_the_browser_keeps_them_and_saves_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "text", directions=5)
    page = write_report(run)
    with browser(1280) as driver:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        opened(driver, page)
        field = driver.find_element("css selector", '.own-label[data-direction="2"]')
        field.send_keys("ends of sentences")
        opened(driver, page)
        again = driver.find_element("css selector", '.own-label[data-direction="2"]')
        assert again.get_property("value") == "ends of sentences"
        filtering = driver.find_element("id", "filter")
        filtering.send_keys("ends of sentences")
        assert driver.find_element("id", "shown").text.startswith("1 of 5")
        driver.find_element("id", "export").click()
        saved = tmp_path / "labels.json"
        for _ in range(50):
            if saved.exists():
                break
            time.sleep(0.1)
        assert not complaints(driver)
    saved.rename(run.labels)
    assert el.load(run.path).labels == {2: "ends of sentences"}
