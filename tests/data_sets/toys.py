"""Tiny data sets as their publishers would keep them, and a server that has them."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from delf_engine.datasets import Definition
from file_server import FileServer
from helpers import image_bytes


def jpeg(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return image_bytes(pixels, "JPEG")


def tar_of(members: Mapping[str, bytes] | list[tuple[Any, bytes]], *, mode: str = "w:gz") -> bytes:
    """A tar file of files by name, or of `tarfile.TarInfo` where something odd is wanted."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def truth_file(names: list[str], queries: list[str]) -> bytes:
    gnd = [{"bbx": [0, 0, 9, 9], "easy": [i], "hard": [], "junk": []} for i in range(len(queries))]
    return pickle.dumps({"imlist": names, "qimlist": queries, "gnd": gnd}, 2)


IMAGES = {f"toy_{i}.jpg": jpeg(i) for i in range(8)}
TRUTH = truth_file([f"toy_{i}" for i in range(6)], ["toy_6", "toy_7"])


def _definition(name: str, **fields: Any) -> Definition:
    words = {"homepage": "http://toys.example", "licence": "as you like", "citation": "Toy et al. 2020"}
    return Definition(name=name, title=f"All {name}", folder=name, **words, **fields)


def serve_toy(server: FileServer) -> Definition:
    """Six images and two queries in two archives, with folders, a note and a file that is known to be damaged."""
    first = {f"toys/red/toy_{i}.jpg": IMAGES[f"toy_{i}.jpg"] for i in range(4)}
    second = {f"toys/blue/toy_{i}.jpg": IMAGES[f"toy_{i}.jpg"] for i in range(4, 8)}
    notes = {"toys/README": b"hello", "toys/red/bad.jpg": b"<html>302 Found", "toys/red/._toy_1.jpg": b"of a Mac"}
    server.files |= {"toy_1.tgz": tar_of({**first, **notes}), "toy_2.tgz": tar_of(second), "gnd_toy.pkl": TRUTH}
    return _definition(
        "toy",
        images="jpg",
        layout="flat",
        files={"gnd_toy.pkl": server.url("gnd_toy.pkl")},
        hashes={"gnd_toy.pkl": hashlib.sha256(TRUTH).hexdigest()},
        archive=server.url("toy_{}.tgz"),
        last_part=2,
        archive_bytes=9000,
        count=8,
        queries=2,
        ground_truth="gnd_toy.pkl",
        corrupt=("bad.jpg",),
    )


def serve_lettered(server: FileServer) -> Definition:
    """Google Landmarks in small: a list in CSV, images in folders of letters, plain tar files with an MD5 each."""
    ids = [[f"{part}{i}cdef" for i in range(3)] for part in range(3)]
    for part, names in enumerate(ids):
        content = tar_of({f"./{n[0]}/{n[1]}/{n[2]}/{n}.jpg": jpeg(part) for n in names}, mode="w")
        server.files[f"index/images_00{part}.tar"] = content
        digest = hashlib.md5(content).hexdigest()
        server.files[f"md5sum/md5.images_00{part}.txt"] = f"{digest}  images_00{part}.tar\n".encode()
    server.files["index.csv"] = "\n".join(["id", *(name for names in ids for name in names), ""]).encode()
    return _definition(
        "letters",
        images="index",
        layout="letters",
        files={"metadata/index.csv": server.url("index.csv")},
        archive=server.url("index/images_{:03}.tar"),
        md5=server.url("md5sum/md5.images_{:03}.txt"),
        first_part=0,
        last_part=2,
        archive_bytes=20_000,
        count=9,
        listing="metadata/index.csv",
    )


def serve_tree(server: FileServer) -> Definition:
    """Distractors in small: a list of lines, images in folders as the archives have them."""
    names = [f"{i:03}/{i:03}abc.jpg" for i in range(4)]
    for part in range(2):
        members = {f"jpg/{name}": jpeg(9) for name in names[2 * part : 2 * part + 2]}
        server.files[f"tree.{part + 1}.tar.gz"] = tar_of(members)
    server.files["tree.txt"] = "".join(f"{name}\n" for name in names).encode()
    return _definition(
        "tree",
        images="jpg",
        layout="tree",
        files={"tree.txt": server.url("tree.txt")},
        archive=server.url("tree.{}.tar.gz"),
        last_part=2,
        archive_bytes=9000,
        count=4,
        listing="tree.txt",
    )
