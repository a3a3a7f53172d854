from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.extraction import speed as extraction
from delf_engine.extraction import precision
from helpers import random_photo, write_image, write_tiny_model


@pytest.mark.parametrize(("flag", "name"), [("avx512_bf16", "bf16"), ("avx2", "bf16 (emulated)")])
def test_a_row_for_each_model_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str, name: str
) -> None:
    monkeypatch.setattr(precision, "_x86_flags", lambda: frozenset([flag]))
    monkeypatch.setattr(extraction, "_SIZE", (256, 192))
    monkeypatch.setattr(extraction, "_matmul_rate", partial(extraction._matmul_rate, size=256))
    model = str(write_tiny_model(tmp_path))
    write_image(tmp_path / "photos" / "a.png", random_photo(np.random.default_rng(0), 320, 240))
    out = tmp_path / "out.json"
    photos = ["--photos", str(tmp_path / "photos")]
    extraction.main(["--model", model, model, *photos, "--rounds", "1", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["native_bf16"] is (flag == "avx512_bf16")
    assert result["photographs"] == 1
    assert [(row["model"], row["precision"]) for row in result["rows"]] == [(model, "fp32"), (model, "bf16")] * 2
    for row in result["rows"]:
        assert row["network_s"] > 0
        # One photograph, one round: the medians of ratios are ratios.
        assert row["extractor_by_network"] == pytest.approx(row["extractor_s"] / row["network_s"])
        assert row["plain_by_extractor"] == pytest.approx(row["plain_s"] / row["extractor_s"])
        assert row["floor_s"] == pytest.approx(row["gflop"] / row["matmul_gflop_per_s"])
    agreement = result["agreement_with_plain"][model]
    assert agreement["fp32"]["same_keypoints"] > 0.99
    assert agreement["fp32"]["least_cosine"] > 0.9999
    assert agreement["bf16"]["same_keypoints"] > 0.9
    assert agreement["bf16"]["mean_cosine"] > 0.99
    assert name in capsys.readouterr().out
