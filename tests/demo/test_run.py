"""The demo from end to end, with the packaged checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from delf_engine.cli import app
from delf_engine.demo.run import run_demo
from delf_engine.errors import DataError, FormatError


def test_demo_ranks_correctly_and_draws(tmp_path: Path) -> None:
    stages = set()
    report = run_demo(tmp_path / "demo", progress=lambda stage, *_: stages.add(stage))
    assert report.correct
    assert report.images >= 20
    assert len(report.searches) == 2
    for search in report.searches:
        assert search.right == 5
        assert search.found_first >= 5
        assert search.result[0].inliers >= 4 * search.result[0].verification.min_inliers
        assert len(search.pictures) == 3
        for picture in search.pictures:
            with Image.open(picture) as image:
                assert image.width > 500
    assert len(stages) == 3
    json.dumps(report.to_dict())


def test_demo_on_own_photographs_replaces_an_earlier_one(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    folder = tmp_path / "mine"
    folder.mkdir()
    Image.fromarray(load_sample_images().images[0]).save(folder / "temple.png")
    out = tmp_path / "demo"
    for _ in range(2):
        result = CliRunner().invoke(app, ["demo", "--photos", str(folder), "--out", str(out), "--json"])
        assert result.exit_code == 0, result.output
        values = json.loads(result.stdout)
        assert [s["place"] for s in values["searches"]] == ["temple"]
        assert values["correct"]


def test_demo_touches_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    for name in ("engine", "collection"):
        out = tmp_path / name
        (out / name).mkdir(parents=True)
        (out / name / "precious.txt").write_text("mine")
        with pytest.raises(FormatError, match=re.escape(str(out / name))):
            run_demo(out)
        assert (out / name / "precious.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "empty"))):
        run_demo(tmp_path / "demo", photos=tmp_path / "empty")
    assert not (tmp_path / "demo").exists()
