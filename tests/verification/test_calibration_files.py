"""Calibrations on disk: JSON there and back, damage, and which of them holds for a model and a profile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.config import load_profile
from delf_engine.errors import FormatError, MismatchError
from delf_engine.model import checkpoint_names, checkpoint_path, read_checkpoint_info
from delf_engine.verification.calibration import Calibration, calibration_beside, load_calibration
from verification.answers import answer, labelled

DEFAULT = load_profile("default")


def fitted(**options: Any) -> Calibration:
    found, labels = labelled(0)
    values: dict[str, Any] = {
        "trained_on": "Häuser \udcff",
        "checkpoint": "tiny@0123",
        "profile": DEFAULT,
        **options,
    }
    return Calibration.fit(found, labels, **values)


def test_comes_back_from_its_file_with_the_same_bits(tmp_path: Path) -> None:
    calibration = fitted()
    calibration.save(tmp_path / "c.json")
    back = Calibration.load(tmp_path / "c.json")
    assert back == calibration
    items = [answer(n) for n in range(0, 300, 7)]
    assert back.probabilities(items).tolist() == calibration.probabilities(items).tolist()
    first = (tmp_path / "c.json").read_bytes()
    back.save(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
    assert json.loads(first)["trained_on"] == "Häuser \udcff"  # of a file name that is not UTF-8


DAMAGE: list[tuple[Any, str]] = [
    ({"format": None}, "not a calibration"),
    ({"format_version": 2}, "2.*1"),
    ({"prior": 1.5}, "prior"),
    ({"prior": "0.5"}, "prior"),
    ({"intercept": float("nan")}, "intercept"),
    ({"intercept": None}, "intercept"),
    ({"slope": -1.0}, "slope"),
    ({"evidence": "matches"}, "evidence"),
    ({"evidence": ["inliers"]}, "evidence"),
    ({"positives": 0}, "positives"),
    ({"surprise": 1}, "'surprise'"),
    ({"verification_sha256": "abc"}, "verification_sha256"),
]


@pytest.mark.parametrize(("changes", "fact"), DAMAGE)
def test_damaged_values_are_named(changes: dict[str, Any], fact: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**fitted().to_dict(), **changes}), encoding="utf-8")
    with pytest.raises(FormatError, match=fact) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "{}", "[" * 100_000, "\ud800"])
def test_what_is_no_calibration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(FormatError, match=r"bad\.json"):
        Calibration.load(path)


def test_missing_values_and_files(tmp_path: Path) -> None:
    values = fitted().to_dict()
    del values["geometry"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(FormatError, match="geometry"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(FormatError, match=r"none\.json"):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(FormatError, match=r"c\.json"):
        fitted().save(tmp_path / "no" / "c.json")


def changed(**options: Any) -> Any:
    """The default profile with other options of verification."""
    return DEFAULT.model_copy(update={"verification": DEFAULT.verification.model_copy(update=options)})


def test_holds_for_its_model_and_options_only() -> None:
    calibration = fitted()
    assert calibration.holds_for()
    assert calibration.holds_for(profile=DEFAULT, checkpoint="tiny@0123")
    assert calibration.holds_for(profile=load_profile("strong"))  # another ranking rule, the same evidence
    assert calibration.holds_for(profile=changed(min_inliers=9))
    assert not calibration.holds_for(profile=changed(max_distance=0.7))
    assert not calibration.holds_for(profile=load_profile("fast"))  # other features
    assert not calibration.holds_for(profile=load_profile("delf"))
    assert not calibration.holds_for(checkpoint="tiny@4567")
    other = DEFAULT.model_copy(update={"ranking": DEFAULT.ranking.model_copy(update={"exponent": 2.0})})
    assert not calibration.holds_for(profile=other)
    assert fitted(evidence="inliers").holds_for(profile=other)
    assert fitted(checkpoint=None, profile=None).holds_for(profile=DEFAULT, checkpoint="tiny@0123")


def test_hashes_are_of_what_evidence_depends_on() -> None:
    calibration = fitted()
    assert not calibration.holds_for(profile=changed(ratio=0.9))
    assert not calibration.holds_for(profile=changed(max_iterations=9))
    precise = DEFAULT.extraction.model_copy(update={"precision": "fp32"})
    assert calibration.holds_for(profile=DEFAULT.model_copy(update={"extraction": precise}))


def test_found_beside_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.v2.safetensors"
    assert calibration_beside(checkpoint) == tmp_path / "tiny.v2.calibration.json"
    assert load_calibration(checkpoint) is None
    calibration = fitted()
    calibration.save(calibration_beside(checkpoint))
    assert load_calibration(checkpoint, profile=DEFAULT, identity="tiny@0123") == calibration
    assert load_calibration(str(checkpoint)) == calibration
    assert load_calibration(checkpoint, profile=load_profile("fast")) is None
    assert load_calibration(checkpoint, identity="tiny@4567") is None
    calibration_beside(checkpoint).write_text("{")
    with pytest.raises(FormatError):
        load_calibration(checkpoint)


def test_named_outright_it_must_be_there_and_hold(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    with pytest.raises(FormatError, match=r"own\.json"):
        load_calibration(path)
    fitted().save(path)
    assert load_calibration(path, profile=DEFAULT) == fitted()
    with pytest.raises(MismatchError, match=r"tiny@0123.*default.*tiny@4567"):
        load_calibration(path, identity="tiny@4567")


@pytest.mark.parametrize("name", checkpoint_names())
def test_shipped_checkpoints_have_one_that_holds(name: str) -> None:
    """Where it fails because options changed: ``python -m benchmarks.verification.calibration`` fits them anew."""
    info = read_checkpoint_info(name)
    found = load_calibration(checkpoint_path(name), profile=load_profile(info.profile), identity=info.identity)
    assert found is not None
    options: dict[str, Any] = {
        "model": found.geometry,
        "estimator": found.estimator,
        "residual_px": found.residual_px,
        "reference_size": found.reference_size,
        "exponent": found.exponent,
    }
    p = found.probabilities([answer(n, **options) for n in (0, 10, 35, 200)])
    assert p[0] < 0.1
    assert p[3] > 0.95
    assert (np.diff(p) >= 0).all()


def test_probabilities_need_no_scikit_learn(tmp_path: Path) -> None:
    fitted().save(tmp_path / "c.json")
    code = (
        "import sys\nimport numpy as np\n"
        "from delf_engine.verification import Verification\n"
        "from delf_engine.verification.calibration import Calibration\n"
        "v = Verification('affine', np.eye(3), [[0, 0]], [0.9], 1, 24.0, 1024, 35, 1.0, 3.0, 'exhaustive')\n"
        f"print(Calibration.load({str(tmp_path / 'c.json')!r}).probability(v))\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'sklearn', 'scipy', 'torch', 'numba', 'cv2'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    value, modules = done.stdout.split("\n")[:2]
    assert 0 < float(value) < 1
    assert modules == "[]"


def test_equality_is_by_value() -> None:
    assert fitted() == fitted()
    assert fitted() != fitted(prior=0.4)
    assert fitted().to_dict() == fitted().to_dict()
