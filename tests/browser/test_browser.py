"""Report pages in a real browser: at a desk and on a phone, light and dark, without network and overflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bonsai_core import Registry, RunConfig, run
from bonsai_core.cli.main import cli

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip
WIDTHS = {"desk": 1280, "phone": 390}
# The lowest contrast of any visible text with what is behind it, and that text; what is written in bubbles is on them.
LOWEST_CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgb(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
}
function luminance(colour) {
  const [r, g, b] = [...rgb(colour)].map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (rgb(colour)[3] > 0) return colour;
  }
  return 'white';
}
let lowest = [99, ''];
for (const e of document.querySelectorAll('main *')) {
  const words = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
  const box = e.getBoundingClientRect();
  if (!words || !box.width || ['style', 'title'].includes(e.localName)) continue;
  const style = getComputedStyle(e);
  const [a, b] = [e instanceof SVGElement ? style.fill : style.color, behind(e)].map(luminance);
  if (a === b && e instanceof SVGElement) continue;
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < lowest[0]) lowest = [contrast, words];
}
return lowest;
"""
OVERFLOW = "return document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def pages(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's page and one of two runs, by name."""
    folder = tmp_path_factory.mktemp("pages")
    for name, sparsity in (("first", 0.3), ("second", 0.15)):
        changes = {
            "out": folder / name,
            "page": True,
            "latency": True,
            "eval_rounds": True,
            "submodels": 8,
            "sparsity": sparsity,
        }
        run(small_run.model_copy(update=changes), registry=registry)
    words = ["report", str(folder / "first"), str(folder / "second"), "--html", "--out", str(folder / "both.html")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    return {"run": folder / "first" / "report.html", "comparison": folder / "both.html"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a new profile, which logs everything that it asks the network for."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser: Any, page: Path, width: int, scheme: str) -> list[str]:
    """Open a page; returns the addresses that it asks for, itself first."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("performance")
    browser.get(page.as_uri())
    messages = [json.loads(row["message"])["message"] for row in browser.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    # The browser's own first tab may still be loading.
    return [request["request"]["url"] for request in sent if request["documentURL"] == page.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_a_page_looks_right(pages: dict[str, Path], browser: Any, name: str, width: int, scheme: str) -> None:
    assert visit(browser, pages[name], width, scheme) == [pages[name].as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script(OVERFLOW) <= 0
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script(OVERFLOW) <= 0
    contrast, words = browser.execute_script(LOWEST_CONTRAST)
    assert contrast >= 4.5, words


def test_a_page_follows_the_colours_of_the_system(pages: dict[str, Path], browser: Any) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        visit(browser, pages["run"], 1280, scheme)
        paper = "return getComputedStyle(document.querySelector('figure svg #patch_1 path')).fill"
        colours.add(
            (browser.execute_script(paper), browser.execute_script("return getComputedStyle(document.body).color"))
        )
    assert len({paper for paper, _ in colours}) == len({ink for _, ink in colours}) == 2
