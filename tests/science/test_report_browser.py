"""The report in a real browser: nothing asked of the network, nothing too wide, no lettering cut off or overlapping."""

import json
import re
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from analysis.train.report import report
from tests.science import report_metrics

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason="needs Debian's chromium (scripts/deps)")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the browser itself would call home
)  # fmt: skip

# Runs in a copy of the page inside a frame as wide as the screen in question, and tells the page around it.
MEASURE = """
<script>
addEventListener("load", () => {
  const root = document.documentElement, cut = [], crossed = [], small = [];
  for (const svg of document.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect(), name = svg.getAttribute("aria-label").slice(0, 40);
    const texts = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
    for (const [said, t] of texts) {
      if (t.left < box.left - 1 || t.right > box.right + 1 || t.top < box.top - 1 || t.bottom > box.bottom + 1)
        cut.push(name + ": " + said);
      if (Math.min(t.height, t.width) < 8 && said.length > 1) small.push(name + ": " + said);
    }
    texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
      const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (across > 1 && down > 3) crossed.push(name + ": " + a + " / " + b);
    }));
  }
  const wide = [...document.querySelectorAll("main *")].filter(
    e => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > root.clientWidth + 1);
  const scrolling = [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1);
  parent.postMessage({
    client: root.clientWidth, scroll: root.scrollWidth, cut, crossed, small,
    pictures: document.querySelectorAll("svg").length,
    wide: wide.map(e => e.tagName + " " + e.textContent.slice(0, 40)),
    scrolling: scrolling.map(e => e.getAttribute("aria-label")),
  }, "*");
});
</script>
"""
AROUND = """<!DOCTYPE html><html><body style="margin:0"><script>
addEventListener("message", e => {{ document.body.innerHTML = "";
  document.body.appendChild(document.createElement("pre")).textContent = JSON.stringify(e.data); }});
</script><iframe src="copy.html" width="{width}" height="2000" style="border:0"></iframe></body></html>
"""


def chromium(folder: Path, page: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    address = page if isinstance(page, str) else page.as_uri()
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *options, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module", params=["cross-validation", "external"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.write(folder, report_metrics.built(kind=request.param, synthetic=request.param != "external"))
    return folder


def measured(folder: Path, width: int) -> dict[str, Any]:
    text = (folder / "report.html").read_text()
    text = re.sub(r"<meta http-equiv=.*?>", "", text).replace("</body>", MEASURE + "</body>")
    (folder / "copy.html").write_text(text)
    around = folder / "around.html"
    around.write_text(AROUND.format(width=width))
    dom = chromium(folder, around, "--window-size=1400,2100", "--virtual-time-budget=10000", "--dump-dom").stdout
    found = re.search(r"<pre>(.*)</pre>", dom, flags=re.DOTALL)
    assert found, dom[:2000]
    told: dict[str, Any] = json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    return told


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_and_no_lettering_is_lost(folder: Path, width: int) -> None:
    told = measured(folder, width)
    assert width - 20 <= told["client"] <= width  # a scroll bar may take its part
    assert told["scroll"] <= told["client"]
    assert told["pictures"] >= 11
    assert (told["wide"], told["cut"], told["crossed"], told["small"]) == ([], [], [], [])
    if width == 1280:
        assert told["scrolling"] == [], "on a desk screen no table needs to be moved"


def test_the_measure_sees_what_is_too_wide_and_what_is_cut(folder: Path) -> None:
    """So that the test above can fail."""
    original = (folder / "report.html").read_text()
    spoiled = original.replace("<main>", '<main><p style="width:2000px; max-width:none">wide</p>', 1)
    spoiled = re.sub(r"(<text [^>]*?)style=\"", r'\1style="letter-spacing: 9px; ', spoiled, count=12)
    try:
        (folder / "report.html").write_text(spoiled)
        told = measured(folder, 390)
    finally:
        (folder / "report.html").write_text(original)
    assert told["scroll"] > 1900
    assert any(line.startswith("P wide") for line in told["wide"])
    assert told["cut"] or told["crossed"]


def asked_of_a_server(folder: Path, name: str) -> list[str]:
    """What the browser asks of the server that the page comes from, the page itself and its own icon left out."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        chromium(folder, f"http://127.0.0.1:{server.server_port}/{name}", "--dump-dom")
        server.shutdown()
        thread.join()
    assert f"/{name}" in asked
    return [path for path in asked if path not in (f"/{name}", "/favicon.ico")]


def test_the_page_asks_for_nothing_but_itself(folder: Path) -> None:
    """Addresses elsewhere are looked for in the text of the page, by its other tests."""
    assert asked_of_a_server(folder, "report.html") == []
    asking = (folder / "report.html").read_text().replace("<main>", '<main><img src="picture.png" alt="">', 1)
    (folder / "asking.html").write_text(re.sub(r"<meta http-equiv=.*?>", "", asking))
    assert asked_of_a_server(folder, "asking.html") == ["/picture.png"]
    (folder / "held.html").write_text(asking)
    assert asked_of_a_server(folder, "held.html") == [], "the page's own policy holds it back"


def test_the_page_as_it_is_logs_no_error(folder: Path) -> None:
    shot = folder / "page.png"
    run = chromium(folder, folder / "report.html", "--enable-logging=stderr", f"--screenshot={shot}")
    assert shot.stat().st_size > 20_000
    assert "CONSOLE" not in run.stderr
    loud = folder / "loud.html"
    loud.write_text((folder / "report.html").read_text().replace("<main>", "<main><script>alert(1)</script>", 1))
    refused = chromium(folder, loud, "--enable-logging=stderr", "--dump-dom")
    assert "CONSOLE" in refused.stderr, "the page's own policy lets no script run, and the log shows it"


def test_on_paper_every_page_carries_the_warning(folder: Path) -> None:
    paper = folder / "report.pdf"
    chromium(folder, folder / "report.html", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert paper.read_bytes().startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 4 <= pages <= 20
