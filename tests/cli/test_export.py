from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.engine import Engine
from delf_engine.errors import ConfigError, DelfEngineError, FormatError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.interchange import read_delf, read_hloc
from helpers import random_features, write_tiny_model

IDS = ["photos/[a] 東.jpg", "photos/sub/b.jpg", "photos/c.jpg"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An engine of features that were never extracted: nothing here needs a photograph."""
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(3)
    items = [(name, random_features(rng, n)) for name, n in zip(IDS, (5, 0, 7), strict=True)]
    with Engine.create(folder / "e", model=write_tiny_model(folder), index="asmk") as made:
        made.add_features(items)
    return str(folder / "e")


@pytest.fixture(scope="module")
def stored(engine: str) -> dict[str, LocalFeatures]:
    with Engine.open(engine, readonly=True) as opened:
        return dict(opened.store.items())


def _run(*args: str) -> Result:
    result = CliRunner().invoke(app, ["export", *args])
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def test_delf(engine: str, stored: dict[str, LocalFeatures], tmp_path: Path) -> None:
    target = tmp_path / "out [1]"
    result = _run(engine, str(target), "--format", "delf")
    assert result.exit_code == 0
    assert result.stdout == f"3 images with 12 features written to {target} (delf)\n"
    for name, features in stored.items():
        assert read_delf(target / f"{name}.delf", image_size=(640, 480)) == features


def test_hloc(engine: str, stored: dict[str, LocalFeatures], tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    target = tmp_path / "out.h5"
    result = _run(engine, str(target), "--format", "hloc", "--json")
    assert json.loads(result.stdout) == {"format": "hloc", "target": str(target), "images": 3, "features": 12}
    assert dict(read_hloc(target)) == stored
    result = _run(engine, str(target), "--format", "hloc")
    assert isinstance(result.exception, FormatError)
    assert "--replace" in str(result.exception)
    assert _run(engine, str(target), "--format", "hloc", "--replace", "--half").exit_code == 0
    assert target.stat().st_size > 0


def test_colmap(engine: str, stored: dict[str, LocalFeatures], tmp_path: Path) -> None:
    target = tmp_path / "out"
    args = (engine, str(target), "--format", "colmap", "--relative-to", "photos")
    assert _run(*args).exit_code == 0
    files = sorted(str(p.relative_to(target)) for p in target.rglob("*.txt"))
    assert files == ["[a] 東.jpg.txt", "c.jpg.txt", "sub/b.jpg.txt"]
    whole = (target / "c.jpg.txt").read_text()
    places = np.loadtxt(target / "c.jpg.txt", skiprows=1)[:, :2]
    np.testing.assert_allclose(places - 0.5, stored[IDS[2]].keypoints, atol=1e-4)
    assert isinstance(_run(*args).exception, FormatError)
    (target / "c.jpg.txt").write_text("old")
    assert _run(*args, "--replace").exit_code == 0
    assert (target / "c.jpg.txt").read_text() == whole


def test_some_ids(engine: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    result = _run(engine, str(target), "--format", "delf", "--ids", IDS[2], "--ids", IDS[1], "--ids", IDS[2])
    assert "2 images with 7 features" in result.stdout
    assert sorted(p.name for p in target.rglob("*.delf")) == ["b.jpg.delf", "c.jpg.delf"]
    result = _run(engine, str(tmp_path / "none"), "--format", "delf", "--ids", IDS[2], "--ids", "gone.jpg")
    assert isinstance(result.exception, UnknownIdError)
    assert "'gone.jpg'" in str(result.exception)
    assert not (tmp_path / "none").exists()


def test_wrong_usage(engine: str, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    for args, fact in (
        (("--format", "csv"), "csv"),
        (("--format", "delf", "--half"), "delf"),
        (("--format", "delf", "--relative-to", "photos/sub"), "photos/sub"),
    ):
        result = _run(engine, target, *args)
        assert isinstance(result.exception, ConfigError)
        assert fact in str(result.exception)
    assert _run(engine, target).exit_code == 2
    assert str(tmp_path / "none") in str(_run(str(tmp_path / "none"), target, "--format", "delf").exception)


@pytest.mark.parametrize("format_", ["delf", "hloc", "colmap"])
def test_no_torch_is_loaded(engine: str, tmp_path: Path, format_: str) -> None:
    code = "import sys\nfrom delf_engine.cli import app\ntry:\n app(['export', *sys.argv[1:]])\n"
    code += "finally:\n print('loaded', sorted({'torch', 'torchvision', 'cv2'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, engine, str(tmp_path / "out"), "--format", format_]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded []")
