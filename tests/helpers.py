"""What several test files make: random features, and photographs of every format."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from delf_engine.features import LocalFeatures
from delf_engine.images import image_suffixes
from delf_engine.index import Codebook
from delf_engine.model import CheckpointInfo, save_checkpoint
from delf_engine.reranking import RankedCandidate, write_rankings
from delf_engine.verification import Calibration
from delf_engine.verification.curve import Curve

ORIENTATION_TAG = 0x0112


def random_features(
    rng: np.random.Generator, n: int, dim: int = 40, image_size: tuple[int, int] = (640, 480)
) -> LocalFeatures:
    """Valid features of an image that was never taken: keypoints anywhere in it, random directions."""
    descriptors = rng.normal(size=(n, dim))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return LocalFeatures(
        keypoints=rng.uniform(0, 1, (n, 2)) * (np.array(image_size) - 1),
        scales=1 / rng.choice([0.25, 0.35355339, 0.5, 0.70710678], n),
        scores=np.sort(rng.gamma(2.0, 1.0, n))[::-1],
        descriptors=descriptors,
        image_size=image_size,
    )


def seen_again(rng: np.random.Generator, of: LocalFeatures, shared: int) -> LocalFeatures:
    """Features of another photograph in which the first `shared` of `of` appear, shifted."""
    other = random_features(rng, len(of), of.dim, of.image_size)
    keypoints, descriptors = other.keypoints.copy(), other.descriptors.copy()
    keypoints[:shared] = of.keypoints[:shared] + np.array([5, 3])
    descriptors[:shared] = of.descriptors[:shared]
    return LocalFeatures(keypoints, other.scales, other.scores, descriptors, of.image_size)


def random_photo(rng: np.random.Generator, width: int = 160, height: int = 120) -> npt.NDArray[np.uint8]:
    """An (height, width, 3) uint8 image with structure at several sizes; neither flat nor white noise."""
    image = np.full((height, width, 3), 128.0)
    for cell in (4, 16, 48):
        grid = rng.normal(0, 40, (height // cell + 2, width // cell + 2, 3))
        image += np.repeat(np.repeat(grid, cell, axis=0), cell, axis=1)[:height, :width]
    return np.clip(image, 0, 255).astype(np.uint8)


@contextmanager
def raises(kind: type[Exception], *facts: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error of that very type that names the facts: paths, ids, numbers, options; never its wording."""
    with pytest.raises(kind) as caught:
        yield caught
    assert type(caught.value) is kind
    missing = [fact for fact in facts if fact not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def write_image(path: Path, pixels: npt.NDArray[Any] | Image.Image, **options: Any) -> Path:
    """Write pixels as an image file of the path's ending, making its folder; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def image_bytes(pixels: npt.NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return pixels as the bytes of an image file."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def is_running(pid: int | None) -> bool:
    """Tell whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def exif_with_orientation(orientation: int) -> Image.Exif:
    """Return EXIF data that say how a camera was held, 1 to 8."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return exif


_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}  # what the sensor saw of the upright scene, for each way of holding the camera


def oriented_scene(kind: str, orientation: int) -> bytes:
    """A file of 48 x 32 pixels with a red corner at the top left, however the camera was held."""
    upright = np.full((32, 48, 3), 90, np.uint8)
    upright[:8, :8] = (250, 10, 10)
    stored = np.ascontiguousarray(_STORED[orientation](upright))
    options: dict[str, Any] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "MPO": {"quality": 100, "subsampling": 0, "save_all": True, "append_images": [Image.fromarray(stored)]},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "HEIF": {"quality": 100, "chroma": 444},
    }.get(kind, {})
    return image_bytes(stored, kind, exif=exif_with_orientation(orientation).tobytes(), **options)


def oriented_kinds() -> list[str]:
    """Formats that say how the camera was held, of those that can be written here."""
    image_suffixes()  # makes Pillow know the optional ones
    return [kind for kind in ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "HEIF") if kind in Image.SAVE]


def checkpoint_info(name: str = "tiny", **changes: Any) -> CheckpointInfo:
    """What a checkpoint of a ResNet-18 with random weights says of itself."""
    values: dict[str, Any] = {
        "format_version": 1,
        "name": name,
        "architecture": "resnet18",
        "dim": 40,
        "attention_hidden": 8,
        "attention_norm_weighted": True,
        "profile": "default",
        "preprocessing": "as ImageNet",
        "data": "none",
        "recipe": "random",
        "licence": "Apache-2.0",
        "seed": 0,
    }
    return CheckpointInfo(**{**values, **changes})


def measured_here(main: Callable[[list[str]], object]) -> Callable[..., dict[str, Any]]:
    """Stand in for `measured_apart` of a benchmark: measure in this process, as a new one takes seconds."""

    def measured(_: str, *options: object) -> dict[str, Any]:
        said = io.StringIO()
        with redirect_stdout(said):
            main(list(map(str, options)))
        return dict(json.loads(said.getvalue()))

    return measured


def write_lists(path: Path, lists: dict[str, Any], **options: Any) -> None:
    """Write lists of ids or of (id, score) as a file of rankings that nobody has verified."""
    rankings = {
        query: [
            RankedCandidate(entry, k, k, None, None, None)
            if isinstance(entry, str)
            else RankedCandidate(entry[0], k, k, entry[1], None, None)
            for k, entry in enumerate(found, start=1)
        ]
        for query, found in lists.items()
    }
    write_rankings(path, rankings, **options)


def restate(path: Path, **changes: Any) -> None:
    """Change what a checkpoint says of itself; the weights stay."""
    from delf_engine.model.checkpoint import read_tensors

    info, tensors = read_tensors(path)
    save_checkpoint(path, tensors, info.model_copy(update=changes), half=False)


def write_tiny_model(folder: Path, *, words: int = 32) -> Path:
    """Write a checkpoint of random weights and its codebook: much of the logic needs no trained one."""
    import torch

    from delf_engine.model.network import DelfNetwork

    torch.manual_seed(0)
    state = DelfNetwork("resnet18", 40, hidden=8).eval().state_dict()
    path = folder / "tiny.safetensors"
    save_checkpoint(path, {key: value.numpy() for key, value in state.items()}, checkpoint_info())
    centroids = np.random.default_rng(0).normal(size=(words, 40))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    Codebook(centroids).save(folder / "tiny.codebook.safetensors")
    return path


def planes_decide() -> Calibration:
    """A calibration, fitted to nothing, by which photographs are of one place if details agree on one plane."""
    curve = Curve(weights={"log_planar": 3.0}, intercept=-9.0, positives=900, negatives=900, accept=0.9)
    return Calibration(evidence=None, prior=0.5, coarse=None, fine=curve, trained_on="nothing")


def flip_stored(store: Path, image_id: str) -> None:
    """Flip a bit of the stored descriptors of an image, in a feature store that is closed."""
    with lmdb.open(str(store), max_dbs=4) as environment, environment.begin() as txn:
        keys, values = (environment.open_db(name, txn=txn, create=False) for name in (b"keys", b"values"))
        value = txn.get(txn.get(b"\x00" + image_id.encode(), db=keys), db=values)
    data = store / "data.mdb"
    contents = bytearray(data.read_bytes())
    at = contents.find(value)
    while at >= 0:  # in old pages too
        contents[at + len(value) - 1] ^= 1
        at = contents.find(value)
    data.write_bytes(contents)
