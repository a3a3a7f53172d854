"""Decoding in worker processes: the same pyramids, in order, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError, ImageError
from delf_engine.extraction import decoding
from delf_engine.extraction.decoding import Decoders, windows, worker_count
from delf_engine.extraction.preparation import Prepared, prepare
from helpers import image_bytes, random_photo, write_image

CONFIG = ExtractionConfig(
    scales=(0.35355339, 0.5, 1.0),
    max_image_size=160,
    max_features=50,
    min_score=0.0,
    resize="area",
    min_side=10,
    fill_scales=(1.41421356,),
)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        write_image(tmp_path / f"été {i}.jpg", random_photo(rng, 200 + 7 * i, 150 + 3 * i), quality=90)
        for i in range(6)
    ]


def same(a: Prepared, b: Prepared) -> bool:
    facts = ("image_size", "region_size", "offset", "levels")
    return all(getattr(a, f) == getattr(b, f) for f in facts) and all(
        np.array_equal(x, y) for x, y in zip(a.pixels, b.pixels, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_pyramids_are_the_same_in_order(photos: list[Path], workers: int) -> None:
    alone = [prepare(path, CONFIG, stride=16) for path in photos]
    with Decoders(CONFIG, stride=16, workers=workers) as decoders:
        found = list(decoders.stream(photos))
    assert [source for source, _ in found] == photos
    for (_, got), expected in zip(found, alone, strict=True):
        assert isinstance(got, Prepared)
        assert same(got, expected)


def test_all_kinds_of_sources(photos: list[Path]) -> None:
    array = random_photo(np.random.default_rng(5), 90, 70)
    sources = [str(photos[0]), photos[1], image_bytes(array, "png"), array, Image.fromarray(array)]
    with Decoders(CONFIG, stride=16, workers=1) as decoders:
        found = [one for _, one in decoders.stream(sources)]  # type: ignore[type-var]
    for source, got in zip(sources, found, strict=True):
        assert isinstance(got, Prepared)
        assert same(got, prepare(source, CONFIG, stride=16))  # type: ignore[arg-type]


def test_errors_come_in_place_and_are_those_of_a_single_call(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(photos[0].read_bytes()[:300])
    bad = [tmp_path / "gone.jpg", tmp_path / "text.jpg", tmp_path / "cut.jpg", b""]
    sources = [bad[0], photos[0], bad[1], bad[2], bad[3], photos[1]]
    with Decoders(CONFIG, stride=16, workers=2) as decoders:
        found = list(decoders.stream(sources))  # type: ignore[type-var]
    assert [isinstance(one, ImageError) for _, one in found] == [True, False, True, True, True, False]
    for source, one in found:
        if isinstance(one, ImageError):
            with pytest.raises(ImageError) as alone:
                prepare(source, CONFIG, stride=16)
            assert str(one) == str(alone.value)


def test_limits_reach_the_processes(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with Decoders(CONFIG, stride=16, workers=1, max_pixels=100) as decoders:
        ((_, found),) = decoders.stream(photos[:1])
    assert isinstance(found, ImageError)
    assert "more than the limit of 100 pixels" in found.reason
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with Decoders(CONFIG, stride=16, workers=1) as decoders:
        ((_, found),) = decoders.stream(photos[:1])
    assert isinstance(found, ImageError)
    assert "decompression bomb" in found.reason


def _dying(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[str]:
    """Let a real worker process be killed when it is asked for `name`, the first `times` times."""
    asked: list[str] = []
    whole = decoding._Process.prepare

    def prepare(self: decoding._Process, source: str) -> Prepared | str:
        if Path(source).name == name and len(asked) < times:
            asked.append(name)
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return whole(self, source)

    monkeypatch.setattr(decoding._Process, "prepare", prepare)
    return asked


def test_a_worker_that_dies_costs_nothing(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _dying(monkeypatch, photos[2].name, 1)
    with Decoders(CONFIG, stride=16, workers=2) as decoders:
        found = [one for _, one in decoders.stream(photos)]
    assert asked
    for path, got in zip(photos, found, strict=True):
        assert isinstance(got, Prepared)
        assert same(got, prepare(path, CONFIG, stride=16))


def test_a_file_that_kills_twice_is_reported(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _dying(monkeypatch, photos[2].name, 10)
    with Decoders(CONFIG, stride=16, workers=2) as decoders:
        found = [one for _, one in decoders.stream(photos)]
    assert len(asked) == 2
    assert [isinstance(one, ImageError) for one in found] == [False, False, True, False, False, False]
    assert "died 2 times" in str(found[2])


def test_processes_end_with_the_stream(photos: list[Path]) -> None:
    decoders = Decoders(CONFIG, stride=16, workers=2)
    stream = decoders.stream(photos * 50)
    next(stream)
    processes = [process._process for process in decoders._all]
    assert processes
    stream.close()
    decoders.close()
    assert all(process.poll() is not None for process in processes)
    decoders.close()  # once more is harmless


def test_processes_end_with_a_killed_parent(tmp_path: Path, photos: list[Path]) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from delf_engine.config import ExtractionConfig, parse_config
            from delf_engine.extraction.decoding import Decoders
            config = ExtractionConfig.model_validate_json({CONFIG.model_dump_json()!r}, strict=False)
            decoders = Decoders(config, stride=16, workers=1)
            stream = decoders.stream([{str(photos[0])!r}] * 1000)
            next(stream)
            print(*[p._process.pid for p in decoders._all], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (pid,) = map(int, done.stdout.split())
    for _ in range(100):
        if not _running(pid):
            break
        time.sleep(0.1)
    assert not _running(pid)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_windows() -> None:
    assert list(windows(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(windows(iter([]), 2)) == []


def test_worker_count() -> None:
    assert worker_count(3, [], gpu=False) == 3
    assert worker_count(0, range(1000), gpu=True) == 0
    for gpu in (False, True):
        assert worker_count(None, range(4), gpu=gpu) == 0
        assert worker_count(None, range(1000), gpu=gpu) >= 1
        assert worker_count(None, iter([]), gpu=gpu) >= 1
    assert worker_count(None, iter([]), gpu=True) >= worker_count(None, iter([]), gpu=False)
    with pytest.raises(ConfigError, match="workers must be 0"):
        worker_count(-1, [], gpu=False)
