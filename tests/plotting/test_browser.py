"""A page in a real browser, its network cut off: it is drawn, and it fits a telephone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from delf_engine.plotting.report import write_benchmark_report
from helpers import random_photo, write_image
from plotting.benchmark_results import benchmark_result

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-device-scale-factor=1"),
)
# Shows a page in a frame as wide as a telephone, and says how wide its content is.
FRAME = """<body style="margin:0">
<iframe id="page" src="page.html" style="border:0;width:390px;height:3000px"></iframe>
<p id="said"></p><script>page.onload = () => {
  const inside = page.contentDocument.documentElement
  said.textContent = `width ${inside.scrollWidth} of ${inside.clientWidth}`
}</script></body>"""


@pytest.fixture
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def opened(browser: str, page: Path, size: tuple[int, int], *options: str) -> tuple[npt.NDArray[np.uint8], str]:
    """Return pixels and the document of a page as the browser has drawn and read it."""
    picture = page.with_suffix(f".{size[0]}.png")
    done = subprocess.run(
        [browser, *OPTIONS, *options, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom",
         f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.is_file(), done.stderr[-2000:]
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")), done.stdout


def test_a_benchmark_report_is_drawn(browser: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    queries, images = [f"query_{i:02}" for i in range(20)], [f"image_{i}" for i in range(3)]
    photos = {name: str(write_image(tmp_path / f"{name}.jpg", random_photo(rng))) for name in [*queries, *images]}
    page = tmp_path / "page.html"
    write_benchmark_report(page, benchmark_result(queries, images), images=photos, max_queries=3)

    pixels, document = opened(browser, page, (1280, 2400))
    assert pixels.shape == (2400, 1280, 3)
    for part in np.split(pixels, 6):  # no sixth of it is blank
        assert part.std() > 5
    assert (np.abs(pixels.astype(int) - (9, 105, 218)).sum(axis=2) < 6).mean() > 0.01  # the bars' blue
    assert document.count("<section id=") == 3
    assert "RParis6k, revisited protocol" in document

    frame = tmp_path / "telephone.html"
    frame.write_text(FRAME)
    pixels, document = opened(browser, frame, (500, 3000), "--allow-file-access-from-files")
    assert pixels[:, :390].std() > 5
    found = re.search(r"width (\d+) of (\d+)", document)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == 390
