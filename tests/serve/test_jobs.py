"""Adding and removing: jobs, their progress and end, several writers, read-only, what is left on disk."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import delf_engine as de
from delf_engine.serve import adding
from delf_engine.serve.jobs import Control
from helpers import image_bytes, random_photo, write_image
from serving import Client, ended

PHOTOS = [image_bytes(random_photo(np.random.default_rng(20 + i), 130 + i, 110)) for i in range(4)]


def uploads(*contents: bytes) -> Any:
    return [("files", (f"{i}.png", content)) for i, content in enumerate(contents)]


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "serve" / "photographs").iterdir())


def test_a_broken_file_among_good_ones_is_named_and_deleted(client: Client, directory: Path) -> None:
    served = client(max_bytes=100_000)
    files = uploads(PHOTOS[0], b"<html>", PHOTOS[1][:400], bytes(100_001), PHOTOS[2])
    answer = served.post("/v1/images", files=files)
    assert (answer.status_code, answer.json()["total"]) == (202, 5)
    job = ended(served, answer.json())
    assert (job["state"], job["done"]) == ("done", 5)
    assert [each["name"] for each in job["added"]] == ["0.png", "4.png"]
    assert sorted(each["name"] for each in job["failed"]) == ["1.png", "2.png", "3.png"]
    assert all(each["reason"] for each in job["failed"])
    assert kept(directory) == sorted(Path(each["id"]).name for each in job["added"])
    assert served.get("/v1/jobs").json() == [job]
    found = served.post("/v1/search", files={"file": PHOTOS[2]}).json()["hits"][0]
    assert (found["photo"]["ref"], found["photo"]["name"]) == (job["added"][1]["id"], "4.png")
    listed = served.get("/v1/images", params={"offset": 6, "limit": 5}).json()
    assert (listed["total"], [each["name"] for each in listed["images"]]) == (8, ["0.png", "4.png"])


def test_ids_of_uploads_name_no_folder_of_the_machine_and_move_along(
    client: Client, directory: Path, tmp_path: Path
) -> None:
    served = client()
    job = ended(served, served.post("/v1/images", files=uploads(PHOTOS[0])).json())
    mine = job["added"][0]["id"]
    assert mine == f"engine:serve/photographs/{kept(directory)[0]}"
    shutil.copytree(directory, tmp_path / "moved")
    with de.Engine.open(tmp_path / "moved", readonly=True) as engine:
        assert Path(engine.path_of(mine)) == tmp_path / "moved" / mine.removeprefix("engine:")
        assert Path(engine.path_of(mine)).read_bytes() == PHOTOS[0]


def test_events_follow_a_job_to_its_end(client: Client) -> None:
    served = client()
    job = served.post("/v1/images", files=uploads(*PHOTOS)).json()
    with served.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kinds = [line.partition(": ")[2] for line in stream.iter_lines() if line.startswith("event: ")]
    assert kinds[-1] == "end"
    assert set(kinds[:-1]) <= {"progress"}
    assert served.get("/v1/jobs/none/events").json()["code"] == "unknown_job"
    assert served.get("/v1/jobs/none").status_code == served.delete("/v1/jobs/none").status_code == 404


def test_what_a_cancelled_job_has_extracted_stays_and_the_rest_goes(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: Any = client()
    progress = Control.progress

    def cancelling(self: Control, done: int, total: int) -> None:
        if done == 3:
            served.delete(f"/v1/jobs/{self.job_id}")
        progress(self, done, total)

    monkeypatch.setattr(Control, "progress", cancelling)
    job = ended(served, served.post("/v1/images", files=uploads(*PHOTOS)).json())
    assert job["state"] == "cancelled"
    assert [each["name"] for each in job["added"]] == ["0.png", "1.png"]
    assert kept(directory) == sorted(Path(each["id"]).name for each in job["added"])
    assert served.get("/v1/info").json()["images"] == 8


def test_a_server_that_goes_down_gives_up_what_waits(client: Client, directory: Path) -> None:
    served: Any = client()
    jobs = [served.post("/v1/images", files=uploads(*PHOTOS)).json() for _ in range(3)]
    served.app.state.service.jobs.close()
    states = [served.get(f"/v1/jobs/{job['id']}").json() for job in jobs]
    assert [job["state"] for job in states[1:]] == ["cancelled", "cancelled"]
    added = [each["id"] for job in states for each in job["added"]]
    assert kept(directory) == sorted(Path(each).name for each in added)
    assert served.post("/v1/images", files=uploads(PHOTOS[0])).json()["code"] == "stopping"
    with de.Engine.open(directory) as engine:
        assert engine.check().whole
        assert len(engine) == 6 + len(added)


def test_a_job_whose_server_was_killed_is_told_and_cleaned_up(client: Client, directory: Path) -> None:
    first: Any = client()
    job = ended(first, first.post("/v1/images", files=uploads(PHOTOS[0])).json())
    orphan = directory / "serve" / "photographs" / "orphan"
    orphan.write_bytes(b"x")
    there = [orphan, orphan.parent / Path(job["added"][0]["id"]).name]
    text = "[" + ", ".join(f'"{path}"' for path in there) + "]"
    lost = time.time() - 60
    first.app.state.service.database.run(
        "UPDATE jobs SET state = 'running', report = '{}', seen = ?, files = ?", lost, text
    )
    assert first.get(f"/v1/jobs/{job['id']}").json()["state"] == "interrupted"
    second = client()
    assert second.get(f"/v1/jobs/{job['id']}").json()["state"] == "interrupted"
    assert [path.exists() for path in there] == [False, True]


def test_a_busy_database_ends_no_sign_of_life(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delf_engine.serve.jobs._BEAT_SECONDS", 0.01)
    beats = Mock(side_effect=itertools.chain([sqlite3.OperationalError("locked")], itertools.repeat(0)))
    monkeypatch.setattr("delf_engine.serve.database.Database.run", beats)
    client()
    while beats.call_count < 3:
        time.sleep(0.01)


def test_more_jobs_than_may_wait_are_refused(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: Any = client(queue=1)
    with served.app.state.service.writing():  # the first job waits for it
        answers = [served.post("/v1/images", files=uploads(PHOTOS[i])) for i in range(3)]
    assert [each.status_code for each in answers] == [202, 202, 429]
    assert answers[2].json()["code"] == "busy"
    done = [ended(served, each.json()) for each in answers[:2]]
    assert [len(job["added"]) for job in done] == [1, 1]
    assert len(kept(directory)) == 2


def test_two_servers_write_one_after_the_other_and_see_each_other(client: Client, directory: Path) -> None:
    first, second = client(), client()
    jobs = [served.post("/v1/images", files=uploads(PHOTOS[i])) for i, served in enumerate((first, second))]
    for job in jobs:
        assert ended(first, job.json())["state"] == "done"  # either knows the jobs of both
    assert [served.get("/v1/info").json()["images"] for served in (first, second)] == [8, 8]


def test_searches_go_on_while_images_are_added_and_removed(client: Client) -> None:
    served = client()
    job = served.post("/v1/images", files=uploads(*PHOTOS)).json()
    asked = {"id": "0.png", "confirm": 0, "top_n": 3}
    with ThreadPoolExecutor(4) as pool:
        several = [pool.submit(served.post, "/v1/search", data=asked) for _ in range(12)]
        assert served.delete("/v1/images", params={"id": "5.png"}).status_code == 200
        found = [each.result() for each in several]
    assert {each.status_code for each in found} == {200}
    assert {each.json()["images"] for each in found} <= {5, 6, 9, 10}  # what was committed, and nothing between
    assert len(ended(served, job)["added"]) == 4


def test_somebody_else_who_writes_is_waited_for_and_then_told(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delf_engine.serve.service._LOCK_SECONDS", 0.2)
    served = client()
    with de.Engine.open(directory):
        removed = served.delete("/v1/images", params={"id": "0.png"})
        jobs = [served.post("/v1/images", files=uploads(PHOTOS[i])).json() for i in range(2)]
        served.delete(f"/v1/jobs/{jobs[0]['id']}")
        assert ended(served, jobs[0])["state"] == "cancelled"
        assert served.post("/v1/search", data={"id": "1.png", "confirm": 0}).status_code == 200
    assert (removed.status_code, removed.json()["code"]) == (503, "locked")
    assert "retry-after" in removed.headers
    assert len(ended(served, jobs[1])["added"]) == len(kept(directory)) == 1


def test_remove_all_or_nothing(client: Client, directory: Path, photos: list[str]) -> None:
    served = client()
    job = ended(served, served.post("/v1/images", files=uploads(PHOTOS[0])).json())
    mine = job["added"][0]["id"]
    assert served.delete("/v1/images", params={"id": [mine, "no.png"]}).json()["code"] == "unknown_image"
    assert served.delete("/v1/images", params={"id": [mine, "0.png"]}).json() == {"removed": 2}
    assert kept(directory) == []
    assert Path(photos[0]).exists()  # only what was uploaded is deleted
    assert served.get("/v1/photograph", params={"id": mine}).status_code == 404
    assert served.get("/v1/info").json()["images"] == 5
    assert served.delete("/v1/images").json()["code"] == "bad_value"


def test_folders_of_the_operator_by_their_names(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    for i in range(2):
        write_image(folder / f"{i}.png", random_photo(np.random.default_rng(i), 140, 110))
    (folder / "bad.png").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    served = client(folders={"holiday": folder, "empty": tmp_path / "empty"})
    assert served.get("/v1/info").json()["folders"] == ["empty", "holiday"]
    job = ended(served, served.post("/v1/folders", json={"folder": "holiday"}).json())
    assert [each["name"] for each in job["added"]] == ["0.png", "1.png"]
    assert [each["name"] for each in job["failed"]] == ["bad.png"]
    again = ended(served, served.post("/v1/folders", json={"folder": "holiday"}).json())
    assert [each["name"] for each in again["skipped"]] == ["0.png", "1.png"]
    assert ended(served, served.post("/v1/folders", json={"folder": "empty"}).json())["error"] == "empty_folder"
    for other in ("/etc", "../holiday", ""):
        assert served.post("/v1/folders", json={"folder": other}).json()["code"] == "unknown_folder"


def test_read_only_changes_nothing(client: Client, directory: Path, photograph: bytes) -> None:
    before = sorted(directory.rglob("*"))
    served = client(readonly=True)
    refused = [
        served.post("/v1/images", files=uploads(photograph)),
        served.delete("/v1/images", params={"id": "0.png"}),
        served.post("/v1/folders", json={"folder": "x"}),
        served.post("/v1/verdicts", json={"a": "0.png", "b": "1.png", "verdict": "same"}),
        served.delete("/v1/verdicts", params={"a": "0.png", "b": "1.png"}),
        served.post("/v1/calibration"),
        served.put("/v1/calibration"),
        served.delete("/v1/calibration"),
    ]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(403, "read_only")}
    found = served.post("/v1/search", files={"file": photograph}, data={"confirm": 0}).json()
    assert served.get("/v1/photograph", params={"id": found["query"]["ref"]}).status_code == 200
    assert sorted(directory.rglob("*")) == before


def test_a_job_that_breaks_ends_and_says_nothing_of_why(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(adding, "_good", broken)
    served = client()
    job = ended(served, served.post("/v1/images", files=uploads(PHOTOS[0])).json())
    assert (job["state"], job["error"]) == ("failed", "failed")
    assert "secret" in caplog.text
    assert kept(directory) == []


def test_what_was_committed_before_an_error_keeps_its_photograph(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = de.Engine.add

    def broken(self: de.Engine, images: Any, **options: Any) -> None:
        add(self, images[:1], **{**options, "ids": options["ids"][:1]})
        raise OSError("no space left")

    monkeypatch.setattr(de.Engine, "add", broken)
    served = client()
    job = ended(served, served.post("/v1/images", files=uploads(*PHOTOS)).json())
    assert (job["state"], served.get("/v1/info").json()["images"]) == ("failed", 7)
    assert served.get("/v1/images", params={"offset": 6}).json()["images"][0]["name"] == "0.png"
    assert len(kept(directory)) == 1


def test_uploads_of_queries_do_not_grow_for_ever(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delf_engine.serve.photographs._SWEEP_SECONDS", 0)
    served = client(kept_bytes=len(PHOTOS[0]) + len(PHOTOS[1]) + 10)
    for content in PHOTOS:
        answer = served.post("/v1/verify", data={"a": "0.png"}, files={"file_b": content}).json()
        served.post("/v1/verdicts", json={"a": "0.png", "b": answer["b"]["ref"], "verdict": "different"})
        break
    judged = answer["b"]["ref"].partition(":")[2]
    for content in [*PHOTOS, *PHOTOS]:
        served.post("/v1/verify", data={"a": "0.png"}, files={"file_b": content})
        time.sleep(0.01)
    names = [path.name for path in (directory / "serve" / "uploads").iterdir()]
    assert judged in names
    assert len(names) <= 4


def test_copies_among_the_images_are_found_and_nothing_is_removed(client: Client, photos: list[str]) -> None:
    served = client()
    again = Path(photos[2]).read_bytes()
    added = ended(served, served.post("/v1/images", files=uploads(again)).json())["added"][0]["id"]
    job = ended(served, served.post("/v1/duplicates").json())
    (found,) = job["copies"]
    assert (job["state"], {found["a"], found["b"]}, found["kind"]) == ("done", {"2.png", added}, "exact")
    assert served.get("/v1/images").json()["total"] == 7
    assert client(readonly=True).post("/v1/duplicates").status_code == 403
