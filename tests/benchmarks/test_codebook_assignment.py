from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.index import codebook_assignment


def test_ours_and_faiss_stand_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    common = ["--descriptors", "300", "--rounds", "1", "--out", str(out)]
    codebook_assignment.main(["--words", "100", "2048", *common])
    rows = json.loads(out.read_text())["rows"]
    inverted = {100: ["IVF32, 23 cells", "IVF32, 7 cells"], 2048: ["IVF256, 64 cells", "IVF256, 21 cells"]}
    assert [(row["words"], row["search"].removeprefix("faiss ")) for row in rows] == [
        (words, name)
        for words in inverted
        for name in ("exact", "fast", "flat", *inverted[words], "HNSW32, ef 64")
    ]
    for row in rows:
        assert row["us_a_descriptor"] > 0
        assert row["query_ms"] > 0
        if row["search"] in ("exact", "faiss flat"):
            assert min(row["recall_at_1"], row["recall_at_k"]) > 0.999
        if row["search"] == "fast":
            assert row["times_the_fast"] == 1
            assert row["recall_at_k"] > 0.98
    fewer, more = (next(r for r in rows if r["search"].startswith(f"faiss IVF256, {n} ")) for n in (21, 64))
    assert 0.5 < fewer["recall_at_k"] < more["recall_at_k"]
    assert "2,048 fast" in capsys.readouterr().out
