"""Fixtures of the whole suite: random numbers, and the real photographs where a machine has them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from typer.testing import CliRunner

from delf_engine.cli import app
from helpers import random_photo, write_image, write_tiny_model

# Engines, stores and indexes wait for the disk with every commit: their files lie in memory where there is room.
if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4 << 30:
    os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = "/dev/shm"

# The same examples on every machine: a red run is a change of the code, never of the luck.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, with its codebook."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_onnx(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as ONNX, exported by the command into a new folder; skips where that is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    path = tmp_path_factory.mktemp("onnx") / "new" / "tiny.onnx"
    result = CliRunner().invoke(app, ["model", "export", str(tiny_model), "--out", str(path)])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    return [str(write_image(folder / f"{i}.png", random_photo(rng, 150 + i, 120))) for i in range(6)]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` (it holds ``data/`` and ``weights/``): beside the checkout, or DELF_ENGINE_SHARED."""
    given = os.environ.get("DELF_ENGINE_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        named = "DELF_ENGINE_SHARED" if given else "the folder beside the checkout; DELF_ENGINE_SHARED is not set"
        pytest.skip(f"no real data: {folder / 'data'} is not a folder ({named})")
    return folder


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """The folder of real photographs and ground truths, ``shared/data``."""
    return shared / "data"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of a browser that draws pages."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is on the PATH; on Debian: apt-get install chromium")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # so that -m "not realdata" leaves out every test that reads real data
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.realdata)
    # Tests that may take longer than others come first, so that no worker is left with one at the end. The rest
    # stays in the random order that pytest-randomly gave it.
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
