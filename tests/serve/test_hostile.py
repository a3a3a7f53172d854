"""Uploads that mean harm: refused with a reason, and the server goes on."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delf_engine.errors import ProcessDiedError
from delf_engine.serve import decoding
from helpers import image_bytes, raises, random_photo
from serving import Client, deadly, deadly_problem, ended, endless_pixels, png

PHOTO = random_photo(np.random.default_rng(5), 200, 150)
JPEG = image_bytes(PHOTO, "JPEG")


def forged(kind: str) -> bytes:
    """A photograph whose head says that it has 60,000 x 60,000 pixels."""
    data = bytearray(image_bytes(PHOTO, kind))
    at, form = {"JPEG": (data.find(b"\xff\xc0") + 5, ">HH"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}[kind]
    struct.pack_into(form, data, at, 60_000, 60_000)
    if kind == "GIF":  # its frame, too
        struct.pack_into(form, data, data.find(b",\0\0\0\0") + 5, 60_000, 60_000)
    return bytes(data)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(/etc/passwd) run\n"
BAD = {
    "pixels.png": png(60_000, 60_000, bytes(1000)),
    **{f"pixels.{kind}": forged(kind) for kind in ("JPEG", "GIF", "BMP")},
    "cut.jpg": JPEG[: len(JPEG) // 3],
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "page.jpg": b"<!doctype html><script>alert(1)</script>",
    "empty.jpg": b"",
    "program.jpg": POSTSCRIPT,
    "portable.jpg": b"P6 20 20 255 " + bytes(1200),
    "archive.png": b"PK\x03\x04" + bytes(100),
    "small.png": image_bytes(PHOTO[:2, :2]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_photograph_is_refused(client: Client, name: str) -> None:
    answer = client().post("/v1/search", files={"file": (name, BAD[name])})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_photograph")


def test_what_is_no_photograph_is_not_added_and_leaves_nothing(client: Client, directory: Path) -> None:
    served = client()
    job = ended(served, served.post("/v1/images", files=[("files", each) for each in BAD.items()]).json())
    assert (job["state"], job["added"]) == ("done", [])
    assert sorted(each["name"] for each in job["failed"]) == sorted(BAD)
    assert list((directory / "serve" / "photographs").iterdir()) == []


def test_pixels_are_looked_up_before_they_are_decoded(client: Client) -> None:
    served = client(max_pixels=20_000)
    answer = served.post("/v1/verify", files={"file_a": JPEG, "file_b": JPEG})
    assert answer.json()["code"] == "bad_photograph"
    assert "20000" in answer.json()["detail"]
    assert "--max-pixels" not in answer.text


def test_bytes_are_counted_as_they_are_announced_and_as_they_come(client: Client) -> None:
    served = client(max_bytes=10_000)
    big = {"file": ("big.png", bytes(12_000))}
    assert served.post("/v1/search", files=big).json()["code"] == "too_large"
    announced = served.post("/v1/search", content=b"x", headers={"Content-Length": "99999999"})
    assert (announced.status_code, announced.json()["code"]) == (413, "too_large")

    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(1000):
            given += 1
            yield bytes(100_000)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = served.post("/v1/search", content=endless(), headers=form)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("length", ["-1", "abc", "1e9"])
def test_a_length_that_is_no_number_is_refused(client: Client, length: str) -> None:
    answer = client().post("/v1/search", content=b"x", headers={"Content-Length": length})
    assert answer.status_code == 413


def test_ten_thousand_small_files_are_refused_and_leave_nothing(client: Client, directory: Path) -> None:
    served = client()
    files: Any = [("files", (f"{i}.png", b"x")) for i in range(10_000)]
    answer = served.post("/v1/images", files=files)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_files")
    assert served.get("/v1/jobs").json() == []
    assert not (directory / "serve" / "photographs").exists()


def test_a_form_that_is_none_is_refused(client: Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x", b"--y\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\nz\r\n--x--"):
        answer = client().post("/v1/search", content=body, headers=form)
        assert 400 <= answer.status_code < 500
        assert set(answer.json()) == {"status", "code", "detail", "request_id", "errors"}


def test_a_polyglot_is_served_as_a_photograph_only(client: Client) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.html", "<script>alert(1)</script>")
    served = client()
    found = served.post("/v1/search", files={"file": ("a.jpg", JPEG + archive.getvalue())}).json()
    picture = served.get("/v1/photograph", params={"id": found["query"]["ref"], "side": 2048})
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert b"evil" not in picture.content
    assert Image.open(io.BytesIO(picture.content)).size == (200, 150)


def test_where_it_was_taken_is_not_served(client: Client) -> None:
    exif = Image.Exif()
    exif[0x010F] = "camera of Ada"
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 12.0)
    photo = image_bytes(PHOTO, "JPEG", exif=exif.tobytes(), comment=b"at home")
    assert b"camera of Ada" in photo
    served = client()
    job = ended(served, served.post("/v1/images", files={"files": ("a.jpg", photo)}).json())
    shown = served.get("/v1/photograph", params={"id": job["added"][0]["id"]}).content
    assert dict(Image.open(io.BytesIO(shown)).getexif()) == {}
    assert b"Ada" not in shown
    assert b"home" not in shown


def test_names_of_clients_are_shown_and_never_paths(client: Client, directory: Path, photograph: bytes) -> None:
    served = client()
    names = ["../../../etc/cron.d/x.png", "C:\\windows\\y.png", "a\x00\x1b[31m.png", "é" * 500, ""]
    files: Any = [("files", (name or "x", photograph)) for name in names]
    job = ended(served, served.post("/v1/images", files=files).json())
    shown = [each["name"] for each in job["added"]]
    assert shown[:2] == ["x.png", "y.png"]
    assert all(name.isprintable() and len(name) <= 120 for name in shown)
    kept = [path.name for path in (directory / "serve" / "photographs").iterdir()]
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in kept)
    assert {Path(each["id"]).name for each in job["added"]} == set(kept)


def test_a_decoder_that_dies_takes_nobody_along(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_pixels", deadly)
    monkeypatch.setattr(decoding, "_problem", deadly_problem)
    served = client()
    answer = served.post("/v1/search", files={"file": ("a.jpg", b"deadly")})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_photograph")
    assert served.post("/v1/search", files={"file": ("a.jpg", JPEG)}, data={"confirm": 0}).status_code == 200
    files: Any = [("files", ("deadly.jpg", b"deadly")), ("files", ("good.jpg", JPEG))]
    job = ended(served, served.post("/v1/images", files=files).json())
    assert [each["name"] for each in job["added"]] == ["good.jpg"]
    assert [each["name"] for each in job["failed"]] == ["deadly.jpg"]


def test_a_photograph_that_takes_for_ever_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_SECONDS", 1)
    monkeypatch.setattr(decoding, "_pixels", endless_pixels)
    decoders = decoding.Decoders(1, 1000)
    with raises(ProcessDiedError):
        decoders.pixels(b"slow")
    decoders.close()
