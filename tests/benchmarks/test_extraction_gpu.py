from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.extraction import gpu
from helpers import random_photo, write_image, write_tiny_model


def test_the_script_runs_without_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(write_tiny_model(tmp_path)), tmp_path / "out.json"
    write_image(tmp_path / "photos" / "a.png", random_photo(np.random.default_rng(0), 320, 240))
    given = ["--device", "cpu", "--small", "--seconds", "0.1", "--model", model]
    gpu.main([*given, "--photos", str(tmp_path / "photos"), "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["driver"] == "none"
    (row,) = result["rows"]
    assert row["stored_a_second"] > 0
    assert row["stored_a_second_mixed"] > 0
    assert list(row["bare_a_second"]) == ["1", "2"]
    assert row["single_by_bare"]["file"] == pytest.approx(
        row["bare_a_second"]["1"] / row["single_a_second"]["file"]
    )
    assert sum(row["step_share"].values()) == pytest.approx(1)
    assert row["ceiling_a_second"] > 0
    for found in result["agreement_with_cpu"]:
        assert found["same_bits_again"]
        assert found["same_keypoints"] > (0.998 if found["precision"] == "fp32" else 0.9)
    assert "milliseconds an image" in capsys.readouterr().out
