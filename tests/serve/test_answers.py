"""What is answered to verify, search and re-rank: the same as the engine says, and which evidence decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.engine.state import EngineState
from delf_engine.images import load_image
from helpers import image_bytes
from serving import Client


def sent(path: str) -> tuple[str, bytes]:
    return ("photograph.png", Path(path).read_bytes())


def test_pair_by_uploads_by_ids_and_by_both_are_one_answer(client: Client, photos: list[str]) -> None:
    served = client()
    files = served.post("/v1/verify", files={"file_a": sent(photos[0]), "file_b": sent(photos[1])}).json()
    mixed = served.post("/v1/verify", data={"a": "0.png"}, files={"file_b": sent(photos[1])}).json()
    ids = served.post("/v1/verify", data={"a": "0.png", "b": "1.png"}).json()
    again = served.post("/v1/verify", data={"a": files["a"]["ref"], "b": mixed["b"]["ref"]}).json()
    assert files["judgement"] == again["judgement"]
    assert ids["a"] == {"ref": "0.png", "name": None, "width": 150, "height": 120}
    for answer in (mixed, ids):  # the features of an image are stored in fewer bits
        assert answer["judgement"]["verdict"] == files["judgement"]["verdict"]
        assert answer["judgement"]["fine"] == files["judgement"]["fine"]


def test_a_pair_says_what_the_engine_says(client: Client, directory: Path) -> None:
    answer = client().post("/v1/verify", data={"a": "0.png", "b": "2.png"}).json()
    with de.Engine.open(directory, readonly=True) as engine:
        expected = engine.verify("0.png", "2.png")
    told = answer["judgement"]
    assert (told["verdict"], told["probability"], told["why"]) == (
        expected.verdict,
        expected.probability,
        expected.why,
    )
    assert told["decided_by"] == "details"
    assert told["coarse"]["inliers"] == expected.inliers == len(answer["matches"])
    assert expected.fine is not None
    assert told["fine"]["details"] == expected.fine.details == len(answer["details"])


def test_fine_matches_are_in_pixels_of_both(client: Client, photos: list[str]) -> None:
    part = image_bytes(load_image(photos[0])[10:, 20:])
    answer = client().post("/v1/verify", data={"a": "0.png"}, files={"file_b": part}).json()
    points = np.array(answer["details"])
    assert len(points) == answer["judgement"]["fine"]["details"] > 20
    np.testing.assert_allclose(np.median(points[:, :2] - points[:, 2:], axis=0), [20, 10], atol=0.1)


def test_without_a_calibration_the_inliers_decide(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineState, "calibration", None)
    told = client().post("/v1/verify", data={"a": "0.png", "b": "2.png"}).json()["judgement"]
    assert (told["decided_by"], told["probability"]) == ("inliers", None)


def test_search_by_upload_finds_its_image_with_evidence(client: Client, photos: list[str]) -> None:
    found = client().post("/v1/search", files={"file": sent(photos[3])}, data={"top_k": 3}).json()
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    best = found["hits"][0]
    assert (best["photo"]["ref"], best["judgement"]["verdict"]) == ("3.png", "same")
    x0, y0, x1, y1 = best["region"]
    assert -1 <= x0 < x1 <= 153
    assert -1 <= y0 < y1 <= 120
    assert found["images"] == 6


def test_search_by_id_leaves_the_image_out(client: Client) -> None:
    found = client().post("/v1/search", data={"id": "3.png", "confirm": 0}).json()
    assert sorted(hit["photo"]["ref"] for hit in found["hits"]) == ["0.png", "1.png", "2.png", "4.png", "5.png"]


def test_search_by_box_is_the_engines(client: Client, directory: Path, photos: list[str]) -> None:
    served = client()
    options = {"box": "10,10,120,100", "confirm": 0}
    by_file = served.post("/v1/search", files={"file": sent(photos[2])}, data=options).json()
    by_id = served.post("/v1/search", data={"id": "2.png", **options}).json()
    with de.Engine.open(directory, readonly=True) as engine:
        expected = engine.search(photos[2], box=(10, 10, 120, 100), confirm=0)
    assert [hit["photo"]["ref"] for hit in by_file["hits"]] == [hit.id for hit in expected]
    assert by_file["hits"][0]["ranking_score"] == expected[0].ranking_score
    assert "2.png" not in [hit["photo"]["ref"] for hit in by_id["hits"]]


def test_rerank_names_what_it_does_not_know(client: Client) -> None:
    asked = {"id": "0.png", "shortlist": ["3.png", "no.png", "0.png"], "scores": [3, 2, 1], "confirm": 0}
    found = client().post("/v1/rerank", data=asked).json()
    assert [hit["photo"]["ref"] for hit in found["hits"]] == ["0.png", "3.png"]
    assert [hit["score"] for hit in found["hits"]] == [1, 3]
    assert found["unknown"] == ["no.png"]


@pytest.mark.parametrize(
    ("route", "asked", "status", "code"),
    [
        ("search", {"id": "no.png"}, 404, "unknown_image"),
        ("search", {"id": "/etc/passwd"}, 404, "unknown_image"),
        ("search", {"id": "upload:../../engine.json"}, 404, "unknown_image"),
        ("search", {"id": "upload:" + 32 * "0"}, 404, "unknown_image"),
        ("search", {}, 422, "one_photograph"),
        ("search", {"id": "0.png", "box": "1,2,3"}, 422, "bad_box"),
        ("search", {"id": "0.png", "box": "nan,0,1,1"}, 422, "bad_photograph"),
        ("search", {"id": "0.png", "box": "900,900,950,950"}, 422, "bad_photograph"),
        ("search", {"id": "0.png", "top_k": 0}, 422, "bad_value"),
        ("search", {"id": "0.png", "candidates": "global"}, 422, "does_not_fit"),
        ("verify", {"a": "0.png"}, 422, "one_photograph"),
        ("rerank", {"id": "0.png"}, 422, "bad_value"),
        ("rerank", {"id": "0.png", "shortlist": ["1.png"], "scores": [1, 2]}, 422, "bad_shortlist"),
    ],
)
def test_refusals_have_a_code(client: Client, route: str, asked: dict[str, Any], status: int, code: str) -> None:
    answer = client().post(f"/v1/{route}", data=asked)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "/tmp" not in answer.text
