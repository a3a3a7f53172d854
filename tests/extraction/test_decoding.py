"""Decoding in worker processes: the same pyramids, in order, whatever happens to the processes."""

import multiprocessing
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deadly
from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError, ImageError
from delf_engine.extraction.decoding import Pyramid, decoded, read_pyramid, worker_count
from delf_engine.images import ImageSource
from helpers import exif_with_orientation, image_bytes, is_running, raises, random_photo, write_image

CONFIG = ExtractionConfig(
    scales=(0.35355339, 0.5, 1.0),
    max_image_size=160,
    max_features=50,
    min_score=0.0,
    resize="area",
    min_side=10,
    fill_scales=(1.41421356,),
)
READ = partial(read_pyramid, config=CONFIG, stride=16)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        write_image(tmp_path / f"été {i}.jpg", random_photo(rng, 200 + 7 * i, 150 + 3 * i), quality=90)
        for i in range(6)
    ]


def is_alone(source: ImageSource, got: Pyramid | ImageError) -> bool:
    """Tell whether a pyramid is the one that a plain call makes."""
    assert isinstance(got, Pyramid)
    alone = read_pyramid(source, CONFIG, stride=16)
    facts = ("image_size", "region_size", "offset", "levels")
    return all(getattr(got, f) == getattr(alone, f) for f in facts) and all(
        np.array_equal(x, y) for x, y in zip(got.pixels, alone.pixels, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_pyramids_are_the_same_in_order(photos: list[Path], workers: int) -> None:
    found = list(decoded(photos, READ, workers=workers))
    assert [source for source, _ in found] == photos
    assert all(is_alone(source, got) for source, got in found)


def test_all_kinds_of_sources(photos: list[Path]) -> None:
    array = random_photo(np.random.default_rng(5), 90, 70)
    sources = [str(photos[0]), photos[1], image_bytes(array, "png"), array, Image.fromarray(array)]
    found = decoded(sources, READ, workers=1)  # type: ignore[type-var]
    assert all(is_alone(source, got) for source, got in found)


def test_paths_are_those_of_the_folder_when_they_are_taken(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [Path(path.name) for path in photos]
    monkeypatch.chdir(photos[0].parent)
    with closing(decoded(names, READ, workers=1, ahead=len(names))) as found:
        first = next(found)
        monkeypatch.chdir("/")
        assert [name for name, _ in (first, *found)] == names
    monkeypatch.chdir(photos[0].parent)
    assert is_alone(*first)


def test_errors_come_in_place_and_are_those_of_a_single_call(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(photos[0].read_bytes()[:300])
    bad = [tmp_path / "gone.jpg", tmp_path / "text.jpg", tmp_path / "cut.jpg", b"", "s3://bucket/a.jpg"]
    sources = [bad[0], photos[0], bad[1], bad[2], bad[3], photos[1], bad[4]]
    found = list(decoded(sources, READ, workers=2))  # type: ignore[type-var]
    assert [isinstance(one, ImageError) for _, one in found] == [True, False, True, True, True, False, True]
    for source, one in found:
        if isinstance(one, ImageError):
            with pytest.raises(ImageError) as alone:
                read_pyramid(source, CONFIG, stride=16)
            assert str(one) == str(alone.value)


def test_limits_reach_the_processes(photos: list[Path]) -> None:
    ((_, found),) = decoded(photos[:1], partial(READ, max_pixels=100), workers=1)
    assert isinstance(found, ImageError)
    assert "100 pixels" in found.reason


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_above_the_limit_is_decoded_to_what_its_pyramid_needs(tmp_path: Path, progressive: bool) -> None:
    photo = write_image(
        tmp_path / "large.jpg",
        Image.new("RGB", (1000, 600), "gray"),
        progressive=progressive,
        exif=exif_with_orientation(8),
    )
    whole = read_pyramid(photo, CONFIG, stride=16)
    reduced = read_pyramid(photo, CONFIG, stride=16, max_pixels=500 * 300)
    assert (reduced.image_size, reduced.levels) == ((600, 1000), whole.levels)
    with raises(ImageError, "500 x 300", "max_pixels"):  # less than the largest level is never decoded
        read_pyramid(photo, CONFIG.model_copy(update={"max_image_size": 500}), stride=16, max_pixels=500 * 300 - 1)
    with raises(ImageError, "1000 x 600"):  # a region is cut from the whole
        read_pyramid(photo, CONFIG, stride=16, max_pixels=500 * 300, box=(0, 0, 100, 100))


def test_workers_that_die_cost_nothing(photos: list[Path]) -> None:
    with closing(decoded(photos * 5, READ, workers=2)) as stream:
        found = [next(stream)]
        for process in multiprocessing.active_children():
            process.kill()
        found += stream
    assert [source for source, _ in found] == photos * 5
    assert all(is_alone(source, got) for source, got in found)


def test_a_file_that_kills_twice_is_reported(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    deadly.install(monkeypatch)
    photos[2] = photos[2].with_name("deadly.jpg")
    found = [one for _, one in decoded(photos, READ, workers=2)]
    assert photos[2].read_text() == "died\n" * 2
    assert [isinstance(one, ImageError) for one in found] == [False, False, True, False, False, False]
    assert "died 2 times" in str(found[2])
    assert str(photos[2]) in str(found[2])


def test_processes_end_with_the_stream(photos: list[Path]) -> None:
    before = set(multiprocessing.active_children())
    stream = decoded(photos * 50, READ, workers=2)
    next(stream)
    started = set(multiprocessing.active_children()) - before
    assert started
    stream.close()
    assert not any(is_running(process.pid) for process in started)


def test_processes_end_with_a_killed_parent_whose_main_module_they_do_not_import(
    tmp_path: Path, photos: list[Path]
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, os, signal
            from delf_engine.config import ExtractionConfig
            from functools import partial
            from delf_engine.extraction.decoding import decoded, read_pyramid
            config = ExtractionConfig.model_validate_json({CONFIG.model_dump_json()!r}, strict=False)
            read = partial(read_pyramid, config=config, stride=16)
            stream = decoded([{str(photos[0])!r}] * 1000, read, workers=1)
            next(stream)
            print(*[process.pid for process in multiprocessing.active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (pid,) = map(int, done.stdout.split())
    for _ in range(100):
        if not is_running(pid):
            break
        time.sleep(0.1)
    assert not is_running(pid)


def test_worker_count() -> None:
    assert worker_count(3, [], gpu=False) == 3
    assert worker_count(0, range(1000), gpu=True) == 0
    for gpu in (False, True):
        assert worker_count(None, range(4), gpu=gpu) == 0
        assert worker_count(None, range(1000), gpu=gpu) >= 1
        assert worker_count(None, iter([]), gpu=gpu) >= 1
    assert worker_count(None, iter([]), gpu=True) >= worker_count(None, iter([]), gpu=False)
    with raises(ConfigError, "-1"):
        worker_count(-1, [], gpu=False)
