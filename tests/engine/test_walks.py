"""The walks of docs/architecture.md: how many files a call goes through before it reaches what does the work."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import Any

import pytest

import delf_engine as de

PACKAGE = Path(de.__file__).parent
CHAPTER = Path(__file__).parents[2] / "docs" / "architecture.md"
MOST = 12


def walked(call: Callable[[], Any], rooms: set[str]) -> list[str]:
    """Return the longest way from `call` into one of the rooms, as ``file:function`` of each hop.

    A hop is a function of ours that another file of ours has called, directly or through a library.
    """
    longest: list[str] = []

    def entered(frame: FrameType, event: str, _: object) -> None:
        nonlocal longest
        if event != "call" or not frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            return
        codes = [each.f_code for each, _ in walk_stack(frame) if each.f_code.co_filename.startswith(f"{PACKAGE}/")]
        hops: list[str] = []
        for before, code in pairwise([None, *reversed(codes)]):
            if before is None or before.co_filename != code.co_filename:
                hops.append(f"{Path(code.co_filename).relative_to(PACKAGE).as_posix()}:{code.co_name}")
        if re.split("[/.]", hops[-1])[0] in rooms and len(hops) > len(longest):
            longest = hops

    sys.setprofile(entered)
    try:
        call()
    finally:
        sys.setprofile(None)
    return longest


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: list[str]) -> Any:
    with de.Engine.create(tmp_path_factory.mktemp("walks") / "e", model=tiny_model, index="asmk") as engine:
        engine.add(photos[:4])
        engine.search(photos[0])  # whatever is loaded or compiled on first use
        yield engine


def test_calls_reach_what_does_the_work_in_a_few_hops(engine: de.Engine, photos: list[str]) -> None:
    search, confirmed = (
        walked(lambda n=n: engine.search(photos[0], confirm=n), {"verification", "matching"})  # type: ignore[misc]
        for n in (0, 10)
    )
    add = walked(lambda: engine.add(photos[4:], workers=0), {"index"})
    assert (search[0], add[0]) == ("engine/reading.py:search", "engine/engine.py:add")
    assert any(hop.startswith("verification/verify.py:") for hop in search)
    for hops in (search, confirmed, add):
        assert len(hops) - 1 <= MOST, hops


def test_the_chapter_names_functions_that_are_there() -> None:
    named = re.findall(r"`([a-z_/]+\.py):(\w+(?:\.\w+)?)`", CHAPTER.read_text(encoding="utf-8"))
    assert len(named) > 10
    for file, function in named:
        text = (PACKAGE / file).read_text(encoding="utf-8")
        for name in function.split("."):
            assert re.search(rf"(def|class) {name}\b", text), f"{file}:{function}"
