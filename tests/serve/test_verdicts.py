"""Verdicts are kept, exported, and teach a calibration that is proposed first."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

import delf_engine as de
from delf_engine.serve import Settings, create_app
from delf_engine.serve.verdicts import _reliability
from delf_engine.verification.calibrating import LabelledPair, read_labelled_pairs
from helpers import random_photo, write_image
from serving import Client, ended


def said(served: TestClient, a: str, b: str, verdict: str) -> int:
    return served.post("/v1/verdicts", json={"a": a, "b": b, "verdict": verdict}).status_code


def test_verdicts_round_trip(client: Client, photograph: bytes, tmp_path: Path) -> None:
    served = client()
    ref = served.post("/v1/verify", data={"a": "0.png"}, files={"file_b": photograph}).json()["b"]["ref"]
    assert said(served, "1.png", "0.png", "same") == 201
    assert said(served, "0.png", "1.png", "look-alike") == 201  # it is the same pair
    assert said(served, "2.png", ref, "different") == 201
    assert said(served, "3.png", "2.png", "same") == 201
    assert served.get("/v1/verdicts").json() == [
        {"a": "0.png", "b": "1.png", "verdict": "look-alike"},
        {"a": "2.png", "b": ref, "verdict": "different"},
        {"a": "2.png", "b": "3.png", "verdict": "same"},
    ]
    exported = served.get("/v1/verdicts/pairs.csv")
    assert "attachment" in exported.headers["content-disposition"]
    (tmp_path / "pairs.csv").write_text(exported.text)
    assert read_labelled_pairs(tmp_path / "pairs.csv") == [
        LabelledPair("0.png", "1.png", 0),
        LabelledPair("2.png", ref.replace("upload:", "uploads/"), 0),
        LabelledPair("2.png", "3.png", 1),
    ]
    assert served.delete("/v1/verdicts", params={"a": "1.png", "b": "0.png"}).status_code == 204
    assert served.delete("/v1/verdicts", params={"a": "1.png", "b": "0.png"}).status_code == 404
    assert len(served.get("/v1/verdicts").json()) == 2


def test_verdicts_are_kept_and_shared(client: Client) -> None:
    said(client(), "0.png", "1.png", "same")
    assert len(client().get("/v1/verdicts").json()) == 1


def test_what_is_no_pair_or_no_verdict_is_refused(client: Client) -> None:
    served = client()
    assert said(served, "0.png", "no.png", "same") == 404
    assert said(served, "0.png", "0.png", "same") == 422
    assert said(served, "0.png", "1.png", "perhaps") == 422
    assert served.put("/v1/calibration").json()["code"] == "nothing_proposed"
    assert ended(served, served.post("/v1/calibration").json())["error"] == "too_few_pairs"


def test_a_calibration_is_proposed_then_taken_over_then_given_up(tmp_path: Path, tiny_model: Path) -> None:
    walls = tmp_path / "walls"
    for place, view in itertools.product(range(4), range(3)):
        wall = random_photo(np.random.default_rng(place), 220, 120)
        write_image(walls / f"{place}-{view}.png", wall[:, 16 * view : 16 * view + 160])
    with de.Engine.create(tmp_path / "e", model=tiny_model, root=walls) as engine:
        engine.add(walls)
    app = create_app(Settings(directory=tmp_path / "e", decoders=1))
    with TestClient(app, "http://localhost") as served:
        names = [f"{place}-{view}.png" for place, view in itertools.product(range(4), range(3))]
        pairs = list(itertools.combinations(names, 2))
        for a, b in [*(pair for pair in pairs if pair[0][0] == pair[1][0]), *pairs[2::4]]:
            said(served, a, b, "same" if a[0] == b[0] else "look-alike")
        count = len(served.get("/v1/verdicts").json())
        before = served.get("/v1/calibration").json()
        asked = {"a": names[0], "b": names[1]}
        first = served.post("/v1/verify", data=asked).json()["judgement"]
        job = ended(served, served.post("/v1/calibration").json())
        assert (job["state"], job["total"], job["done"]) == ("done", count, count)
        proposed = served.get("/v1/calibration").json()
        assert (before["proposed"], proposed["own"]) == (None, False)
        assert proposed["proposed"]["pairs"] == count
        old, new = proposed["proposed"]["old"], proposed["proposed"]["new"]
        assert sum(each["pairs"] for each in old["bins"]) == old["pairs"] == count
        assert 0 <= old["error"] <= 1
        assert new is None  # without the places of a pair too few are left to learn from
        assert served.post("/v1/verify", data=asked).json()["judgement"] == first

        forgotten = served.delete("/v1/calibration/proposal").json()
        assert (forgotten["own"], forgotten["proposed"]) == (False, None)
        assert served.put("/v1/calibration").json()["code"] == "nothing_proposed"
        ended(served, served.post("/v1/calibration").json())
        taken = served.put("/v1/calibration").json()
        assert (taken["own"], taken["trained_on"], taken["proposed"]) == (True, f"{count} verdicts", None)
        second = served.post("/v1/verify", data=asked).json()["judgement"]
        assert second["probability"] != first["probability"]
        with de.Engine.open(tmp_path / "e", readonly=True) as engine:
            assert engine.verify(*asked.values()).probability == second["probability"]
        assert served.delete("/v1/calibration").json()["own"] is False
        assert served.post("/v1/verify", data=asked).json()["judgement"] == first


def test_reliability_by_bins() -> None:
    found = _reliability(np.array([0.05, 0.05, 0.95, 0.95]), np.array([0, 0, 1, 0]), 0.5)
    assert found is not None
    assert [(each.stated, each.share, each.pairs) for each in found.bins] == [(0.05, 0.0, 2), (0.95, 0.5, 2)]
    assert found.auc == pytest.approx(5 / 6)
    assert _reliability(np.array([0.5, 0.6]), np.array([1, 1]), 0.5) is None
