"""The command ``calibrate``: what it writes and prints, leaves out and refuses."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import ConfigError, DataError, DelfEngineError
from delf_engine.verification.calibration import Calibration
from helpers import random_photo, write_image

PLACES, VIEWS = 5, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five walls, each photographed four times from a step aside, and a list of `pairs` of them."""
    folder = tmp_path_factory.mktemp("walls")
    for place in range(PLACES):
        wall = random_photo(np.random.default_rng(place), 260, 160)
        for view in range(VIEWS):
            write_image(folder / f"{place}-{view}.png", wall[:, 16 * view : 16 * view + 200])
    names = sorted(path.name for path in folder.iterdir())
    with (folder / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "label"])
        rows.writerows(pairs(names))
    return folder


def pairs(names: list[str]) -> list[tuple[str, str, int]]:
    """All pairs of one wall, and of different walls those from the same step; with their labels."""
    both = itertools.combinations(names, 2)
    labelled = [(a, b, int(Path(a).name[0] == Path(b).name[0])) for a, b in both]
    return [(a, b, label) for a, b, label in labelled if label or a[-5] == b[-5]]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def test_calibrate_photographs(folder: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    pictures = [tmp_path / "reliability.png", tmp_path / "roc.png"]
    drawn = ["--plot", pictures[0], "--roc", pictures[1]]
    result = run(folder / "pairs.csv", "--out", out, "--model", model, *drawn)
    assert result.exit_code == 0, result.output
    assert [path.read_bytes()[:4] for path in pictures] == [b"\x89PNG"] * 2
    assert "70 pairs: 30 of one place (5 places), 40 of different places\n" in result.output
    assert "cross-validation between places, 70 pairs judged: ECE 0." in result.output
    assert f"wrote {out}" in result.output
    calibration = Calibration.load(out)
    assert calibration.coarse
    assert calibration.fine
    for curve in (calibration.coarse, calibration.fine):
        assert (curve.positives, curve.negatives) == (30, 40)
    assert calibration.prior == 0.5
    assert (calibration.profile, calibration.trained_on) == ("default", "labelled pairs of pairs.csv")
    assert calibration.checkpoint is not None
    assert calibration.checkpoint.startswith("tiny@")


def test_calibrate_an_engine_and_photographs_beside_it(folder: Path, model: str, tmp_path: Path) -> None:
    names = sorted(str(path) for path in folder.glob("*.png"))
    directory = tmp_path / "engine"
    assert CliRunner().invoke(app, ["add", str(directory), *names[:-1], "--model", model]).exit_code == 0
    lines = [json.dumps({"a": a, "b": b, "label": label, "note": "x"}) for a, b, label in pairs(names)]
    lines += [json.dumps({"a": str(tmp_path / "gone.jpg"), "b": names[0], "label": 0}), ""]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    out = tmp_path / "c.json"
    options = ("--features", directory, "--evidence", "log_inliers", "--prior", 0.1, "--json")
    result = run(tmp_path / "pairs.jsonl", "--out", out, *options)
    assert result.exit_code == 1
    assert "gone.jpg: no such file" in result.stderr
    values = json.loads(result.stdout)
    assert values["failed"] == [{"id": str(tmp_path / "gone.jpg"), "reason": "no such file"}]
    assert values["cross_validation"]["judged"] == 70
    assert values["cross_validation"]["roc_auc"] > 0.8
    assert values["calibration"] == Calibration.load(out).to_dict()
    assert (Calibration.load(out).evidence, Calibration.load(out).prior) == ("log_inliers", 0.1)
    mixed = run(tmp_path / "pairs.jsonl", "--features", directory, "--profile", "fast")
    assert isinstance(mixed.exception, ConfigError)


def test_one_place_cannot_be_cross_validated(folder: Path, model: str, tmp_path: Path) -> None:
    names = [f"{place}-{view}.png" for place in range(2) for view in range(VIEWS)]
    rows = [
        [a, b, 1] for a, b in itertools.combinations(names, 2) if a[0] == b[0] or (a, b) == (names[0], names[4])
    ]
    rows += [[a, f"{place}-0.png", 0] for a in names for place in range(2, PLACES)]
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,label\n" + "".join(f"{folder / a},{folder / b},{label}\n" for a, b, label in rows))
    result = run(path, "--out", tmp_path / "c.json", "--model", model, "--plot", tmp_path / "none.png")
    assert result.exit_code == 0, result.output
    assert "nothing to draw" in result.output
    assert not (tmp_path / "none.png").exists()
    assert "37 pairs: 13 of one place (1 places), 24 of different places\n" in result.output
    assert "not checked by cross-validation" in result.output


def test_what_cannot_be_fitted_writes_nothing(folder: Path, model: str, tmp_path: Path) -> None:
    rows = (folder / "pairs.csv").read_text().splitlines()
    few = folder / "few.csv"
    few.write_text("\n".join(rows[:9]) + "\n")
    result = run(few, "--out", tmp_path / "c.json", "--model", model)
    assert isinstance(result.exception, DataError)
    assert "too few" in str(result.exception)
    gone = folder / "gone.csv"
    gone.write_text("\n".join(row.replace(".png", ".gone") for row in rows) + "\n")
    # Before any photograph is read: then there would be none.
    evidence = run(gone, "--out", tmp_path / "c.json", "--model", model, "--evidence", "x")
    assert isinstance(evidence.exception, ConfigError)
    nowhere = run(folder / "pairs.csv", "--out", tmp_path / "no" / "c.json", "--model", model)
    assert isinstance(nowhere.exception, ConfigError)
    assert list(tmp_path.iterdir()) == []
    assert run(folder / "pairs.csv", "--folds", 2).exit_code == 2
