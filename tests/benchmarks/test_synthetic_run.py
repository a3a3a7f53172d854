"""The whole of rparis.py on the stand-in: killed in the middle, continued, and the same as in one go."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.revisited.run import main
from forkserver import Child

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "rparis.py"
SIZE = ["--synthetic", "--synthetic-images", "24", "--synthetic-queries", "2", "--synthetic-side", "128"]
RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def options(work: Path) -> list[str]:
    return [*SIZE, "--words", "64", "--verify", "10", "--work", str(work)]


def run_here(work: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *options(work)])
        main("rparis6k")


def figures(work: Path) -> list[Any]:
    methods = json.loads((work / "synthetic-24.json").read_text())["methods"]
    return [(method["name"], method["setups"]) for method in methods]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("whole")
    run_here(work)
    return work


def test_a_run_from_nothing(whole: Path) -> None:
    result = json.loads((whole / "synthetic-24.json").read_text())
    assert [method["name"] for method in result["methods"]] == [
        "ASMK",
        "ASMK, first 10 verified",
        "KD-tree",
        "KD-tree, first 10 verified",
    ]
    assert (result["dataset"]["images"], result["dataset"]["queries"]) == (24, 2)
    assert result["published"] == []  # they are of other photographs
    assert result["configuration"]["delf-r18"]["codebook"]["trained_on"] == "21 photographs of synthetic-other-20"
    assert all(stage["seconds"] > 0 for stage in result["stages"])
    page = (whole / "synthetic-24.html").read_text()
    assert "landmark00_query000" in page
    assert "<img" in page


def test_killed_and_continued(whole: Path, tmp_path: Path) -> None:
    """It is killed once features are being written, and then says what the run in one go says."""
    running = Child(RUN, SCRIPT, *options(tmp_path))
    end = time.monotonic() + 120
    while not list(tmp_path.glob("features/*/data.mdb")) and running.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "synthetic-24.json").exists()
    run_here(tmp_path)
    assert figures(tmp_path) == figures(whole)
    stages = {stage["name"]: stage for stage in json.loads((tmp_path / "synthetic-24.json").read_text())["stages"]}
    assert stages["making synthetic-24"]["cached"] == stages["making synthetic-24"]["items"] == 26
