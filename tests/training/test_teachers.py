from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model import load_checkpoint
from delf_engine.model.network import normalise_images
from delf_engine.training import TrainingConfig
from delf_engine.training.batches import Teacher, TeacherContext
from delf_engine.training.config import teacher_names, with_teacher
from delf_engine.training.losses.distillation import DistillationOptions
from delf_engine.training.registry import build_teacher, teacher_file
from helpers import raises, write_tiny_model
from training_helpers import train

Tiny = Callable[..., TrainingConfig]
IMAGES = torch.randint(0, 255, (2, 64, 80, 3), generator=torch.Generator().manual_seed(0)).byte()


def _build(name: str, photos: list[str] | None = None) -> Teacher:
    context = TeacherContext(photos or [], torch.device("cpu"), torch.float32, lambda *_: None)
    return build_teacher(name, context)


def _check(teacher: Teacher) -> torch.Tensor:
    maps = teacher(IMAGES)
    assert maps.shape == (2, teacher.channels, 4, 5)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, 4, 5))
    torch.testing.assert_close(teacher(IMAGES[1:]), maps[1:], rtol=1e-3, atol=1e-4)
    return maps


def test_checkpoint_gives_its_own_descriptors(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path)
    maps = _check(_build(str(path)))
    network = load_checkpoint(path)[0]
    with torch.inference_mode():
        features = network.trunk(normalise_images(IMAGES))
        expected = network.projection(features[0, :, 2, 3][None])[0]
    torch.testing.assert_close(maps[0, :, 2, 3], expected)


def test_bare_trunk_gets_a_pca(photos: list[str], trunk: Path) -> None:
    teacher = _build(f"trunk:resnet18:{trunk}", photos)
    assert teacher.channels == 128
    _check(teacher)


def test_aliked_describes_cell_centres(tmp_path: Path) -> None:
    feature = pytest.importorskip("kornia.feature", reason="the extra aliked is not installed")
    torch.manual_seed(0)
    model = feature.ALIKED("aliked-n16").eval()
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("dkd.")}, tmp_path / "aliked.pth")
    maps = _check(_build(f"aliked:{tmp_path / 'aliked.pth'}"))
    with torch.inference_mode():
        dense, _ = model.extract_dense_map(IMAGES.permute(0, 3, 1, 2) / 255)
        # Cell (row 2, column 3) is centred on pixel x 48, y 32.
        centre = torch.tensor([[2 * 48 / 79 - 1, 2 * 32 / 63 - 1]])
        expected = model.desc_head(dense, [centre, centre])[0]
    torch.testing.assert_close(maps[1, :, 2, 3], expected[1][0], rtol=1e-3, atol=1e-4)
    with raises(CheckpointError):
        _build("aliked:none.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with raises(CheckpointError, "aliked-n16"):
        _build(f"aliked:{tmp_path / 'other.pth'}")


def test_names(tmp_path: Path) -> None:
    with raises(ConfigError, "'alikes'", "'aliked'"):
        _build("alikes:file")
    with raises(ConfigError):
        _build("trunk:file")
    with raises(CheckpointError):
        _build(str(tmp_path / "none.safetensors"))
    assert teacher_file("trunk:resnet50:a/b.pth") == "a/b.pth"
    assert teacher_file("aliked:c.pth") == "c.pth"
    assert teacher_file("delf-r50") == "delf-r50"


def test_a_checkpoint_teaches_a_stage(photos: list[str], trunk: Path, tiny: Tiny, tmp_path: Path) -> None:
    teacher = str(write_tiny_model(tmp_path))
    options = DistillationOptions(kind="distillation", teacher="other", target="descriptors")
    config = tiny(stages=tiny().stages[:2]).with_stage("conv4", losses=(options,), steps=4, learning_rate=1e-3)
    assert teacher_names(with_teacher(config, teacher).gradient_stages) == [teacher]
    losses: list[float] = []
    trained = train(
        photos,
        config,
        trunk,
        teacher=teacher,
        precision="fp32",
        cache_gb=2e-4,  # some photographs are rendered, and taught, when they are drawn
        progress=lambda name, done, total, loss: losses.append(loss) if loss is not None else None,
    )
    assert losses[-1] < losses[0]
    assert not any("regression" in key for key in trained.state)


def test_the_start_is_no_teacher_to_replace(tiny: Tiny) -> None:
    with raises(ConfigError):
        with_teacher(tiny(), "other")
    both = DistillationOptions(kind="distillation", teacher="old", target="descriptors")
    losses = (*tiny().gradient_stages[0].losses, both)
    changed = with_teacher(tiny().with_stage("conv4", losses=losses), "other").gradient_stages[0]
    assert [loss.teachers for loss in changed.losses] == [(), ("start",), ("other",)]
