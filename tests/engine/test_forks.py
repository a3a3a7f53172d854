"""What was made before a fork works in the child: in a real pool of a parent that has threads."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import gc, json, multiprocessing, os, sys
    from pathlib import Path

    import numpy as np
    import torch

    import delf_engine as de
    from delf_engine.errors import LockedError
    from delf_engine.extraction import Extractor
    from helpers import random_photo, write_image

    torch.set_num_threads(2)  # one would have nothing to lose
    folder, model = Path(sys.argv[1]), sys.argv[2]
    rng = np.random.default_rng(0)
    photos = [str(write_image(folder / f"{i}.png", random_photo(rng, 200, 160))) for i in range(4)]
    extractors = {"torch": Extractor.from_pretrained(model)}
    if len(sys.argv) > 3:
        extractors["onnx"] = Extractor.from_onnx(sys.argv[3], threads=2)
    engine = de.Engine.create(folder / "e", model=model, index="kdtree")
    engine.add(photos[:3])
    reader = de.Engine.open(folder / "e", readonly=True)
    ids = engine.ids()

    def extract(kind):
        return extractors[kind](photos[0])

    def extract_anew(kind):
        return Extractor.from_pretrained(model)(photos[0])

    def extract_many(kind):
        return next(iter(extractors["torch"].extract_many(photos * 3)))[1]

    def search(which):
        found = {"reader": reader, "writer": engine}[which].search(photos[3])  # has to extract
        return [(hit.id, hit.inliers) for hit in found]

    def search_many(which):
        found = {"reader": reader, "writer": engine}[which].search_many(photos[2:], workers=2, threads=2)
        return [(hit.id, hit.inliers) for hit in found[1]]

    def change(_):
        try:
            engine.remove(ids[0])
        except LockedError:
            return "LockedError"

    def close(_):
        engine.close()
        reader.close()
        gc.collect()

    before = extract("torch"), search("reader"), search_many("reader")
    out = {}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        def ask(call, *arguments):
            return pool.map_async(call, arguments * 3).get(timeout=60)

        for kind in extractors:
            here = extract(kind)
            alike = lambda one: len(one) == len(here) and np.allclose(one.descriptors, here.descriptors, atol=1e-4)
            out[kind] = all(map(alike, ask(extract, kind)))
        here = before[0]
        out["anew"] = all(map(alike, ask(extract_anew, "")))
        out["many"] = all(map(alike, ask(extract_many, "")))
        for which in ("reader", "writer"):
            out[which] = all(found == before[1] for found in ask(search, which))
            out[which + " many"] = all(found == before[2] for found in ask(search_many, which))
        out["change"] = ask(change, "")
        ask(close, "")
    out["light"] = "torch._dynamo" not in sys.modules  # a compiler of torch's, seconds to import
    # The parent has what it had: its lock, its snapshot, its threads.
    out["parent"] = search("reader") == before[1] and search("writer") == before[1]
    engine.remove(ids[0])
    out["snapshot"] = reader.ids() == ids
    if (child := os.fork()) == 0:  # as a server that preloads
        os._exit(0 if reader.ids() == ids[1:] and reader.refresh() is False else 1)
    out["child"] = os.waitpid(child, 0)[1]
    try:
        de.Engine.open(folder / "e")
    except LockedError:
        out["locked"] = True
    engine.close()
    de.Engine.open(folder / "e").close()
    print(json.dumps(out))
"""


def test_extractors_and_engines_work_in_a_pool_of_forks(
    tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    onnx = [request.getfixturevalue("tiny_onnx")] if importlib.util.find_spec("onnxruntime") else []
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path, tiny_model, *onnx]
    tests = Path(__file__).parents[1]
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # or each child's threads take the cores of the other's
    found = subprocess.run(command, cwd=tests, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert found.returncode == 0, found.stderr
    out = json.loads(found.stdout.splitlines()[-1])
    assert out.pop("change") == ["LockedError"] * 3
    assert out.pop("child") == 0
    assert all(out.values()), out
