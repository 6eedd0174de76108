"""The pages under axe-core, in a real browser: no violation in light or dark, at the width of a desk and of a phone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from eigen_lightning.report import write_comparison, write_report
from eigen_lightning.report.benchmark import write_page
from tests.report.browser import browser, opened
from tests.report.folders import make_run

pytestmark = pytest.mark.slow

AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
"""``npm install axe-core`` puts it there; AXE_CORE names it elsewhere."""

RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then(
  found => done(found.violations.map(v => [v.id, v.help, v.nodes.length, v.nodes[0].html.slice(0, 200)])));
"""

SYSTEM = {
    "name": "xor", "title": "XOR", "bar": "all 3", "published": "by nobody", "remark": "none", "figure": "mcc",
    "runs": 2, "failures": ["the disk was full"], "met": 1, "mean": {"learned": 1.0, "pca": 0.7},
    "least": 0.9, "selectivity": 0.5, "objective": 1.0, "eigenshare": 1.0, "overlap": 0.5, "cpu_seconds": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = {kind: make_run(folder / kind, kind, directions=5) for kind in ("xor", "tms", "text")}
    made = {name: write_report(run) for name, run in runs.items()}
    write_comparison(runs["text"], runs["text"], folder / "both.html")
    write_page(json.dumps({"first_seed": 0, "seeds": 2, "systems": [SYSTEM]}), folder / "benchmark.html")
    return made | {"comparison": folder / "both.html", "benchmark": folder / "benchmark.html"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(pages: dict[str, Path], width: int, dark: bool) -> None:
    if not AXE.is_file():
        pytest.skip(f"{AXE} is absent: npm install axe-core, or set AXE_CORE to its axe.min.js")
    script = AXE.read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    with browser(width, dark=dark) as driver:
        for name, path in pages.items():
            opened(driver, path)
            # By the protocol, which the page's content security policy does not stop.
            driver.execute_cdp_cmd("Runtime.evaluate", {"expression": script})
            if violations := driver.execute_async_script(RUN):
                found[name] = violations
    assert not found, json.dumps(found, indent=2)
