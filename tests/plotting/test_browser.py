"""A page in a real browser, its network cut off: it is drawn in its own style, and it fits a telephone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from delf_engine.plotting.report import write_report
from delf_engine.reranking import RankedCandidate
from helpers import random_photo, write_image

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-device-scale-factor=1"),
)
# Shows a page in a frame as wide as a telephone, and says how wide its content is.
FRAME = """<body style="margin:0">
<iframe id="page" src="page.html" style="border:0;width:390px;height:1500px"></iframe>
<p id="said"></p><script>page.onload = () => {
  const inside = page.contentDocument.documentElement
  said.textContent = `width ${inside.scrollWidth} of ${inside.clientWidth}`
}</script></body>"""
DARK = (13, 17, 23)  # of the page, as page.css says


@pytest.fixture
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is on the PATH; on Debian: apt-get install chromium")
    return found


def opened(browser: str, page: Path, size: tuple[int, int], *options: str) -> tuple[npt.NDArray[np.uint8], str]:
    """Return pixels and the document of a page as the browser has drawn and read it."""
    picture = page.with_suffix(".png")
    done = subprocess.run(
        [browser, *OPTIONS, *options, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom",
         f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.is_file(), done.stderr[-2000:]
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")), done.stdout


def test_a_page_is_drawn(browser: str, rng: np.random.Generator, tmp_path: Path) -> None:
    photos = [str(write_image(tmp_path / f"{'long_' * 20}{i}.jpg", random_photo(rng))) for i in range(6)]
    page = tmp_path / "page.html"
    ranking = [RankedCandidate(photo, i, i, 0.5, None, None) for i, photo in enumerate(photos, start=1)]
    write_report(page, dict.fromkeys(photos[:2], ranking))

    pixels, document = opened(browser, page, (1280, 1200))
    assert pixels.shape == (1200, 1280, 3)
    for part in np.split(pixels, 4):  # no quarter of it is blank
        assert part.std() > 5
    assert document.count("<section id=") == 2
    assert (pixels[0] == 255).all()
    dark, _ = opened(browser, page, (1280, 1200), "--blink-settings=preferredColorScheme=0")
    assert (dark[0] == DARK).all()

    frame = tmp_path / "telephone.html"
    frame.write_text(FRAME)
    pixels, document = opened(browser, frame, (500, 1500), "--allow-file-access-from-files")
    assert pixels[:, :390].std() > 5
    found = re.search(r"width (\d+) of (\d+)", document)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == 390
