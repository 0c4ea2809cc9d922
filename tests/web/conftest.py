"""One hospital, one `prognode web` and one browser for all tests of the pages in a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web import hospital as building
from tests.web.hospital import Hospital

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    made = building.build(tmp_path_factory.mktemp("hospital"))
    yield made
    made.pacs.stop()
    made.road.store.close()


@pytest.fixture(scope="session")
def address(hospital: Hospital) -> Iterator[str]:
    """Where `prognode web` listens: a process of its own."""
    with building.serving(hospital.folder) as where:
        yield where


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """Debian's Chromium. `scripts/deps test` installs it; only a machine that may not install it skips."""
    if not CHROMIUM.is_file():
        pytest.skip("needs Debian's chromium: run scripts/deps test")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # two cores, and a browser, a server and a worker on them
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-quic", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()
