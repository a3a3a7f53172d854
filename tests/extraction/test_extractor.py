from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from delf_engine.config import ExtractionConfig
from delf_engine.errors import CheckpointError, ConfigError, DelfEngineWarning, ImageError
from delf_engine.extraction import Extractor
from delf_engine.extraction.assembly import select_top
from delf_engine.features import LocalFeatures
from delf_engine.model.device import choose_device
from delf_engine.model.network import DelfNetwork
from helpers import checkpoint_info, oriented_kinds, oriented_scene, raises, random_photo, write_image


def _config(**changes: object) -> ExtractionConfig:
    values: dict[str, object] = {
        "scales": (0.5, 0.70710678, 1.0),
        "max_image_size": 1024,
        "max_features": 100,
        "min_score": 0.0,
        "resize": "area",
        "min_side": 10,
    }
    return ExtractionConfig(**{**values, **changes})  # type: ignore[arg-type]


def _network() -> DelfNetwork:
    torch.manual_seed(0)
    return DelfNetwork("resnet18", 40, hidden=16)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(_network(), _config(), device="cpu")


@pytest.fixture
def photo() -> np.ndarray:
    return random_photo(np.random.default_rng(1), 200, 150)


def _dot_extractor(scale: float, **changes: object) -> Extractor:
    """An extractor that answers to brightness alone: all weights positive, so the best cell is the nearest."""
    network = _network()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            torch.nn.init.zeros_(module.bias)
    return Extractor(network, _config(scales=(scale,), **changes), device="cpu")


def _dotted(x: int, y: int, width: int = 331, height: int = 277) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (124, 116, 104)  # ImageNet's mean: nothing for the network
    image[y - 3 : y + 4, x - 3 : x + 4] = 255
    return image


@pytest.mark.parametrize(
    ("scale", "limit"), [(1.0, None), (0.5, None), (0.70710678, None), (2.0, None), (1.0, 200)]
)
def test_keypoints_follow_a_bright_dot(scale: float, limit: int | None) -> None:
    """Move one bright dot through the image: the best keypoint stays on it, without bias."""
    extractor = _dot_extractor(scale, max_image_size=limit, max_features=1)
    effective = scale * (1.0 if limit is None else limit / 331)
    errors = []
    for x, y in [(150 + 7 * i, 110 + 5 * i) for i in range(12)]:
        features = extractor(_dotted(x, y))
        assert features.scales[0] == pytest.approx(1 / effective, rel=1e-6)
        errors.append(features.keypoints[0] - (x, y))
    half_cell = 8 / effective
    assert np.abs(errors).max() <= 1.15 * half_cell + 1
    # A convention off by half a pixel of the level, or by half a stride, would show as a bias.
    assert np.abs(np.mean(errors, axis=0)).max() <= 0.4 * half_cell


def test_score_centroid_is_on_the_dot() -> None:
    """The centre of gravity of all responses is the dot itself, to a fraction of a pixel of the level."""
    for scale in (1.0, 0.5):
        extractor = _dot_extractor(scale, max_features=10_000)
        errors = []
        for shift in range(0, int(16 / scale), max(1, int(2 / scale))):
            x, y = 160 + shift, 130 + shift
            features = extractor(_dotted(x, y))
            weights = features.scores.astype(np.float64) ** 2
            errors.append((features.keypoints * weights[:, None]).sum(0) / weights.sum() - (x, y))
        assert np.abs(np.mean(errors, axis=0)).max() < 0.75 / scale


def test_projection_of_selected_equals_selection_of_projected(photo: np.ndarray) -> None:
    """The shortcut (project only what is kept) against the plain way, cell by cell."""
    from delf_engine.model.network import normalise_images

    network = _network().eval()
    extractor = Extractor(network, _config(scales=(1.0,), max_features=20), device="cpu")
    features = extractor(photo)
    with torch.inference_mode():
        maps, scores = network(normalise_images(torch.from_numpy(photo)[None]))
        flat = maps[0].flatten(1).T
        order = np.argsort(-scores.flatten().numpy(), kind="stable")[:20]
        expected = network.projection(flat)[torch.from_numpy(order)].numpy()
    np.testing.assert_allclose(features.descriptors, expected, atol=1e-5)
    rows, columns = np.divmod(order, maps.shape[3])
    np.testing.assert_allclose(features.keypoints, np.stack([columns, rows], 1) * 16.0, atol=1e-4)


def test_the_checkpoint_keeps_its_own_attention_threshold(photo: np.ndarray) -> None:
    free = Extractor(_network(), _config(), device="cpu", info=checkpoint_info())(photo)
    middle = float(free.scores[len(free) // 2])
    for info, config in (
        (checkpoint_info(attention_threshold=middle), _config()),
        (checkpoint_info(), _config(min_score=middle)),
        (checkpoint_info(attention_threshold=middle), _config(min_score=middle / 2)),
    ):
        kept = Extractor(_network(), config, device="cpu", info=info)(photo)
        np.testing.assert_array_equal(kept.scores, free.scores[free.scores >= middle])


def test_box_keeps_the_scale_of_the_whole_image(photo: np.ndarray) -> None:
    big = np.kron(photo, np.ones((4, 4, 1), np.uint8))  # 800 x 600, shrunk to 400 by the limit
    extractor = Extractor(_network(), _config(max_image_size=400), device="cpu")
    box = (100, 80, 500, 400)
    features = extractor(big, box=box)
    assert features.image_size == (800, 600)
    allowed = [1 / (0.5 * s) for s in (0.5, 0.70710678, 1.0)]
    assert all(np.isclose(allowed, s).any() for s in features.scales)
    assert (features.keypoints >= (98, 78)).all()
    assert (features.keypoints <= (501, 401)).all()
    assert extractor(big, box=(0, 0, 800, 600)) == extractor(big)


@pytest.mark.parametrize("kind", oriented_kinds())
def test_features_are_in_the_upright_frame(extractor: Extractor, kind: str, tmp_path: Path) -> None:
    upright = extractor(oriented_scene(kind, 1))
    for orientation in range(2, 9):
        (tmp_path / "a").write_bytes(oriented_scene(kind, orientation))
        turned = extractor(tmp_path / "a")
        assert turned.image_size == upright.image_size == (48, 32)
        if kind in ("PNG", "TIFF", "WEBP"):  # the others lose a little, each in its own blocks
            assert turned == upright


def test_limit_of_pixels(photo: np.ndarray, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", photo)
    for limited in (_config(max_pixels=29_999), _config()):
        given = None if limited.max_pixels else 29_999
        extractor = Extractor(_network(), limited, device="cpu", max_pixels=given)
        with raises(ImageError, "200 x 150", "29999", "--max-pixels"):
            extractor(path)
        assert len(list(extractor.extract_many([path], max_pixels=30_000))) == 1
        extractor.max_pixels = 30_000
        assert len(extractor(path))


def test_extract_many_goes_on_past_bad_images(extractor: Extractor, photo: np.ndarray, tmp_path: Path) -> None:
    good = write_image(tmp_path / "good.png", photo)
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    dot = write_image(tmp_path / "dot.png", photo[:1, :1])
    sources = [tmp_path / "zero.jpg", good, tmp_path / "text.jpg", dot, tmp_path / "gone.jpg", tmp_path, good]
    failed: list[tuple[Path, ImageError]] = []
    done = list(extractor.extract_many(sources, on_error=lambda s, e: failed.append((s, e))))
    assert [p for p, _ in done] == [good, good]
    assert [p for p, _ in failed] == [sources[i] for i in (0, 2, 3, 4, 5)]
    assert all(str(p) in str(e) for p, e in failed)
    with pytest.warns(DelfEngineWarning, match=r"gone\.jpg"):
        assert list(extractor.extract_many([tmp_path / "gone.jpg"])) == []


def test_tiny_images(extractor: Extractor) -> None:
    with raises(ImageError, "1 x 1", "10"):
        extractor(np.zeros((1, 1, 3), np.uint8))
    with raises(ImageError, "5 x 50"):
        extractor(np.zeros((50, 50, 3), np.uint8), box=(0, 0, 5, 50))
    assert len(extractor(random_photo(np.random.default_rng(0), 10, 10))) >= 1


def test_no_level_or_no_score_gives_the_empty_value(photo: np.ndarray) -> None:
    small = Extractor(_network(), _config(scales=(0.01,)), device="cpu")
    assert small(photo) == LocalFeatures.empty((200, 150))
    strict = Extractor(_network(), _config(min_score=1e9), device="cpu")
    assert strict(photo) == LocalFeatures.empty((200, 150))


def test_bad_options() -> None:
    for device in ("tpu9", "mps", "xpu", "meta", ""):
        with raises(ConfigError, repr(device), "'cpu'", "'cuda:N'"):
            Extractor(_network(), _config(), device=device)
    for device in ("cuda:99", *(() if torch.cuda.is_available() else ("cuda",))):
        with raises(ConfigError, repr(device), "CUDA"):
            Extractor(_network(), _config(), device=device)
    with raises(CheckpointError, "'nothing'"):
        Extractor.from_pretrained("nothing")


def test_apples_gpu_is_refused_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    for name in ("mps", "mps:0"):
        with raises(ConfigError, repr(name), "'cpu'", "NVIDIA or ROCm"):
            choose_device(name)


def test_a_gpu_has_its_number_and_stays_out_of_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"is_available": True, "device_count": 2, "current_device": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name, found in {"auto": "cuda:1", "cuda": "cuda:1", "cuda:0": "cuda:0", "cpu": "cpu"}.items():
        assert str(choose_device(name)) == found
    with raises(ConfigError, "'cuda:2'", "2"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with raises(ConfigError, "'cuda:1'", "fork", "'spawn'"):
        choose_device("cuda:1")


def test_pretrained(photo: np.ndarray) -> None:
    extractor = Extractor.from_pretrained("delf-r18", device="cpu")
    assert len(extractor(photo)) > 10
    assert "delf-r18" in repr(extractor)
    paper = Extractor.from_pretrained("delf-r18", profile="delf", device="cpu")
    assert len(paper.config.scales) == 7
    with raises(ConfigError, "profile or config"):
        Extractor.from_pretrained("delf-r18", profile="delf", config=paper.config)


def _places(features: LocalFeatures) -> set[tuple[float, ...]]:
    return {tuple(row) for row in np.column_stack([features.keypoints, features.scales]).tolist()}


scores = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf]), st.floats(width=32)), max_size=60)


@given(scores, st.integers(1, 70), st.floats(-3, 3, width=32))
@example([], 5, 0.0)
def test_selection_equals_a_plain_sort(values: list[float], k: int, least: float) -> None:
    array = np.array(values, np.float32)
    eligible = [i for i, v in enumerate(array) if v >= np.float32(least)]
    assert select_top(array, k, least).tolist() == sorted(eligible, key=lambda i: (-array[i], i))[:k]


def test_many_have_the_bits_of_single_images(extractor: Extractor, photo: np.ndarray) -> None:
    photos = [photo, random_photo(np.random.default_rng(9), 150, 260), photo[:100]]
    alone = [extractor(p) for p in photos]
    for batch in (None, 1, 2, 100):
        assert [f for _, f in extractor.extract_many(photos, batch=batch)] == alone
    with raises(ConfigError, "batch"):
        next(extractor.extract_many(photos, batch=0))


def test_reduced_decoding_is_close(tmp_path: Path) -> None:
    large = cv2.resize(
        random_photo(np.random.default_rng(3), 320, 240), (1280, 960), interpolation=cv2.INTER_CUBIC
    )
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), large, [cv2.IMWRITE_JPEG_QUALITY, 95])
    changes = {"max_image_size": 320, "scales": (0.70710678, 1.0)}
    plain = Extractor(_network(), _config(**changes), device="cpu")
    shrinking = Extractor(_network(), _config(**changes, reduced_decoding=True), device="cpu")
    whole, reduced = plain(path), shrinking(path)
    assert reduced.image_size == whole.image_size == (1280, 960)
    assert len(_places(whole) & _places(reduced)) > 0.8 * len(whole)
    # Pixels in memory, and other formats, are whatever they are.
    assert shrinking(large) == plain(large)
    box = (100, 50, 900, 800)
    assert shrinking(path, box=box) == plain(path, box=box)
