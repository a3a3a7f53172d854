from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.revisited import evaluator


def test_both_evaluators_agree_and_the_result_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluator.json"
    evaluator.main(["--queries", "3", "--images", "2000", "--rounds", "1", "--out", str(out)])
    assert "3 queries, rankings of 2,000 images" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert [row["dtype"] for row in rows] == ["int32", "int64"]
    assert [row["bytes"] for row in rows] == [3 * 2000 * 4, 3 * 2000 * 8]
    assert all(row["largest_difference"] < 1e-10 for row in rows)
