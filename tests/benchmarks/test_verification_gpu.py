from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.verification import gpu
from delf_engine.verification import batched


def test_the_script_runs_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "CARDS", set())
    gpu.main(["--device", "cpu", "--small", "--seconds", "0.1", "--out", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["agreement"]["same"] == 1
    assert result["fine_matching"]["same_matches"]
    assert min(result["times_the_floor"].values()) > 0
