"""The source of labelled crops: what it draws, what it never sees, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from delf_engine.config import parse_config
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning
from delf_engine.training.contract import SourceContext
from delf_engine.training.labelled import hold_out
from delf_engine.training.photographs import labelled_photographs
from delf_engine.training.sources.classes import ClassesOptions, ClassesSource
from helpers import raises, random_photo, write_image
from training_helpers import source_context

CROP = {"square": 40, "window": 32, "smallest": 0.5}


def _options(**changes: object) -> ClassesOptions:
    return parse_config(ClassesOptions, {"kind": "classes", "crop": CROP, **changes}, where="recipe")


def _split(root: Path, *, every: int, **changes: object) -> tuple[list[str], list[str]]:
    held_in, held_out = hold_out(labelled_photographs(_options(**changes), [root], 0), every=every)
    return held_in.paths(), held_out.paths()


def _context(root: Path, photos: list[str], held_out: list[str], seed: int = 5) -> SourceContext:
    labelled = labelled_photographs(_options(), [root], 0)
    return source_context(photos, held_out=held_out, labelled=labelled, seed=seed, batch=6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("a", 3), ("b", 5), ("c", 2)):
        for i in range(count):
            write_image(tmp_path / name / f"{i}.png", random_photo(rng, 50, 44))
    return tmp_path


def test_the_source_keeps_to_the_split(folder: Path) -> None:
    photos, held_out = _split(folder, every=3)
    assert sorted(Path(p).parent.name for p in held_out) == ["a", "b", "c"]
    assert len(photos) == 7
    assert not set(photos) & set(held_out)
    source = ClassesSource(_options(), _context(folder, photos, held_out))
    assert source.n_classes == 3
    assert source._held_in.data.paths() == photos
    assert source._held_out.data.paths() == held_out
    batch = source.batch(2)
    side = batch.maps["images"].shape[1]
    assert batch.maps["images"].shape == (6, side, side, 3)
    assert batch.size == side
    again = ClassesSource(_options(), _context(folder, photos, held_out)).batch(2)
    assert torch.equal(again.maps["images"], batch.maps["images"])
    assert torch.equal(again.labels, batch.labels)
    other = ClassesSource(_options(), _context(folder, photos, held_out, seed=6)).batch(2)
    assert not torch.equal(other.labels, batch.labels) or other.size != batch.size
    (measured,) = source.held_out()
    assert measured.labels.tolist() == [0, 1, 2]
    assert measured.maps["images"].shape == (3, 32, 32, 3)
    few = ClassesSource(_options(measure_images=2), _context(folder, photos, held_out))
    assert sum(len(batch) for batch in few.held_out()) == 2
    assert list(ClassesSource(_options(), _context(folder, photos, [])).held_out()) == []


def test_a_class_without_a_photograph_to_train_on_is_no_class(folder: Path) -> None:
    photos = [str(folder / name / f"{i}.png") for name in "ac" for i in range(2)]
    held_out = [str(folder / "b" / "0.png"), str(folder / "c" / "0.png")]
    source = ClassesSource(_options(), _context(folder, photos, held_out))
    assert source.n_classes == 2
    assert [labels.tolist() for labels in (b.labels for b in source.held_out())] == [[1]]  # c; b is unknown
    with raises(DataError):
        ClassesSource(_options(), _context(folder, photos[:2], held_out))


def test_options_reach_the_data_set(folder: Path) -> None:
    with raises(DataError, "min_images"):
        _split(folder, every=2, min_images=5)
    with raises(DataError):
        labelled_photographs(_options(), [folder, folder], 0)
    with raises(ConfigError, "'max_images'"):
        _options(max_image=3)
    photos, held_out = _split(folder, every=2, min_images=3, max_images=2)
    assert (len(photos), len(held_out)) == (2, 2)
    (folder / "train.csv").write_text("id,url,landmark_id\naaaa,u,1\naaab,u,1\nbbbb,u,2\nbbbc,u,2\nbbbd,u,2\n")
    for image_id in ("aaaa", "aaab", "bbbb", "bbbc"):
        write_image(folder / "/".join(image_id[:3]) / f"{image_id}.jpg", np.zeros((40, 40, 3), np.uint8))
    with raises(DataError):
        _split(folder, every=2)
    with pytest.warns(DelfEngineWarning, match="left out: bbbd"):
        photos, _ = _split(folder / "train.csv", every=2, missing="drop")
    assert len(photos) == 2
