"""ViTs of torchvision and DINOv2 under every name, from the file to an engine that searches by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

import delf_engine as de
from delf_engine.config import load_profile
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.interchange.published.convert import import_model
from delf_engine.interchange.published.vit import read_vit
from delf_engine.model import load_checkpoint, save_checkpoint
from delf_engine.model.backbones import ARCHITECTURES
from delf_engine.model.onnx_export import export_onnx
from delf_engine.training.global_head import fit_global_head
from delf_engine.training.weights import load_trunk, pretrained_state
from file_server import FileServer, serving
from helpers import raises, random_photo, write_image

from .vits import SMALL, WIDTH, State, by_timm, dinov2_state, dinov2_tokens, torchvision_vit


@pytest.fixture(autouse=True)
def _small_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in SMALL.items():
        monkeypatch.setitem(ARCHITECTURES, name, kind)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer()) as running:
        yield running


def imported(state: State, folder: Path) -> Path:
    """Import a state dict as a checkpoint."""
    torch.save(state, folder / "published.pth")
    path = folder / "vit.safetensors"
    save_checkpoint(path, *import_model("vit", folder / "published.pth", name="vit"), half=False)
    return path


def tokens(path: Path, images: Tensor) -> Tensor:
    with torch.inference_mode():
        features = load_checkpoint(path)[0].trunk(images)
    return features.flatten(2).transpose(1, 2)


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("old_names", [False, True])
def test_tokens_are_torchvisions(tmp_path: Path, old_names: bool) -> None:
    net, x = torchvision_vit(), images(48, 48)
    state = net.state_dict()
    if old_names:  # as in the files that torchvision offers
        state = {n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for n, v in state.items()}
    with torch.inference_mode():
        given = torch.cat([net.class_token.expand(2, -1, -1), net._process_input(x)], 1)
        expected = net.encoder(given)[:, 1:]
    path = imported(state, tmp_path)
    info = load_checkpoint(path)[1]
    assert (info.architecture, info.dim, info.attention) == ("vit_small_one", WIDTH, "norm")
    torch.testing.assert_close(tokens(path, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("names", [dict, by_timm])
def test_tokens_are_those_of_dinov2(tmp_path: Path, registers: int, names: type) -> None:
    state = dinov2_state(registers)
    path = imported(names(state), tmp_path)
    assert load_checkpoint(path)[1].architecture == "dinov2_small_one" + ("_reg" if registers else "")
    for size in ((70, 70), (42, 98), (14, 14)):
        x = images(*size)
        expected = dinov2_tokens(state, x).float()
        torch.testing.assert_close(tokens(path, x), expected, rtol=1e-4, atol=1e-5)


def test_size_is_told_by_the_weights(tmp_path: Path) -> None:
    def hollow(state: State) -> State:
        return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}

    with torch.device("meta"):
        states = {name: getattr(torchvision.models, name)().state_dict() for name in ("vit_b_16", "vit_b_32")}
    states["dinov2_s_14"] = dinov2_state(width=384, depth=12, grid=37)
    states["dinov2_s_14_reg"] = dinov2_state(4, width=384, depth=12, grid=37)
    for name, state in states.items():
        torch.save(hollow(state), tmp_path / "x.pth")
        published = read_vit(tmp_path / "x.pth")
        assert published.architecture == name
        assert published.trunk["positions"].shape[2] == ARCHITECTURES[name].grid  # type: ignore[union-attr]


def test_other_weights_are_refused(tmp_path: Path) -> None:
    state, path = dinov2_state(), tmp_path / "published.pth"
    bare = {name: value for name, value in state.items() if ".ls" not in name}
    narrow = dinov2_state(width=16)
    short = {name: value for name, value in state.items() if not name.startswith("blocks.1.mlp.fc2")}
    crooked = state | {"blocks.0.ls1.gamma": torch.ones(3)}
    for wrong, fact in (
        ({"conv1.weight": torch.zeros(1)}, "conv1.weight"),
        (bare, "without LayerScale"),  # of timm: its colours are unknown
        (narrow, "16 channels"),
        (state | {"blocks.0.attn.q_norm.weight": torch.ones(8)}, "q_norm"),
        (short, "blocks.1.fc2"),
        (crooked, str(path)),
        (dinov2_state(grid=6), "positions"),
        (torchvision_vit().state_dict() | {"class_token": torch.zeros(1, 1, 9)}, str(path)),
    ):
        torch.save(wrong, path)
        with raises(CheckpointError, fact):
            import_model("vit", path, name="x")


def test_what_is_for_resnets_only_says_so(tmp_path: Path) -> None:
    path = imported(dinov2_state(), tmp_path)
    with raises(ConfigError, "dinov2_small_one"):
        load_trunk("dinov2_small_one", path)
    with raises(CheckpointError, "vit_b_16"):
        pretrained_state("vit_b_16")
    pytest.importorskip("onnxscript")
    with raises(ConfigError, "dinov2_small_one"):
        export_onnx(tmp_path / "x.onnx", *load_checkpoint(path))


def test_a_url_is_downloaded_by_its_hash(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.save(dinov2_state(), tmp_path / "published.pth")
    server.files["weights.pth"] = (tmp_path / "published.pth").read_bytes()
    url, right = server.url("weights.pth"), hashlib.sha256(server.files["weights.pth"]).hexdigest()
    for _ in range(2):
        _, info = import_model("vit", f"{url}#sha256={right}", name="x")
        assert info.architecture == "dinov2_small_one"
        assert '"weights.pth"' in info.recipe
        assert right in info.recipe
    assert len(server.requests) == 1
    with raises(ConfigError, url):
        import_model("vit", url, name="x")
    for wrong in (f"{url}#sha256={'0' * 64}", f"{server.url('none.pth')}#sha256={right}"):
        with raises(CheckpointError, wrong.partition("#")[0]):
            import_model("vit", wrong, name="x")


def test_keypoints_are_the_centres_of_patches(tmp_path: Path, rng: np.random.Generator) -> None:
    plain = {"scales": (1.0,), "min_image_size": 0, "fill_scales": (), "trim_frames": False, "min_contrast": 0.0}
    config = load_profile("default").extraction.model_copy(update=plain)
    found = de.Extractor.from_pretrained(imported(dinov2_state(), tmp_path), config=config)(
        random_photo(rng, 70, 42)
    )
    expected = [(6.5 + 14 * x, 6.5 + 14 * y) for x in range(5) for y in range(3)]
    assert sorted(map(tuple, found.keypoints.tolist())) == expected


def test_an_engine_searches_by_its_global_vectors(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = [str(write_image(tmp_path / f"{i}.png", random_photo(rng, 150 + 9 * i, 113))) for i in range(4)]
    path = imported(dinov2_state(4), tmp_path)
    fit_global_head(path, photos, dim=3, pooling="gap", profile="fast", device="cpu")
    with de.Engine.create(tmp_path / "engine", model=path, index="kdtree") as engine:
        engine.add(photos)
        features = engine.get(engine.ids()[1])
        assert features.global_descriptor is not None
        assert features.global_descriptor.shape == (3,)
        assert (features.keypoints >= 0).all()
        assert (features.keypoints <= np.array(features.image_size) - 0.5).all()
        found = engine.search(photos[1], candidates="global", top_n=0)
        assert found[0].id == engine.ids()[1]
        assert found[0].score == pytest.approx(1, abs=1e-5)
