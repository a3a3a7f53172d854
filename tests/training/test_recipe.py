from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from delf_engine.errors import CheckpointError, ConfigError, LockedError
from delf_engine.model import load_checkpoint, save_checkpoint
from delf_engine.model.backbones import build_trunk
from delf_engine.training import TrainingConfig, run
from delf_engine.training.weights import read_state
from delf_engine.training.work import Work
from helpers import raises, write_image
from training_helpers import Trained, train

Tiny = Callable[..., TrainingConfig]


def _equal(a: Trained, b: Trained) -> bool:
    return all(np.array_equal(a.state[k], b.state[k]) for k in a.state) and a.info == b.info


@pytest.fixture(scope="module")
def first(photos: list[str], trunk: Path, tiny: Tiny) -> Trained:
    return train(photos, tiny(), trunk, seed=3, workers=1)


def test_same_seed_same_bits(first: Trained, photos: list[str], trunk: Path, tiny: Tiny) -> None:
    again = train(photos, tiny(), trunk, seed=3, workers=3, cache_gb=0)
    assert _equal(first, again)
    other = train(photos, tiny(), trunk, seed=4)
    assert not np.array_equal(first.state["attention.conv1.weight"], other.state["attention.conv1.weight"])


def test_maps_of_the_start_are_kept_without_loss(
    first: Trained, photos: list[str], trunk: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run.Encoder
    monkeypatch.setattr(run, "Encoder", lambda *facts: kept(*facts[:5]))  # so they are computed in every step
    again = train(photos, tiny(), trunk, seed=3)
    assert _equal(first, again)


def test_what_is_trained_and_the_round_trip(first: Trained, trunk: Path, tmp_path: Path) -> None:
    before = build_trunk("resnet18", read_state(trunk)).state_dict()
    assert torch.equal(
        before["layer2.0.conv1.weight"].half().float(),
        torch.from_numpy(first.state["trunk.layer2.0.conv1.weight"]),
    )
    tuned = first.state["trunk.layer3.1.conv2.weight"]
    assert not np.array_equal(before["layer3.1.conv2.weight"].half().float().numpy(), tuned)
    assert np.array_equal(tuned, tuned.astype(np.float16).astype(np.float32))
    save_checkpoint(tmp_path / "tiny.safetensors", first.state, first.info)
    network, info = load_checkpoint(tmp_path / "tiny.safetensors")
    assert (info.name, info.dim, info.seed, info.attention) == ("tiny", 8, 3, "head")
    assert set(info.figures) == {
        "held-out retrieval mAP",
        "held-out match precision of the better half, by norm",
        "held-out match precision of the better half, by attention",
    }
    assert [step for step, _ in first.history["conv4"]] == [3]
    with torch.inference_mode():
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(network(x)[1], first.network(x)[1], rtol=1e-2, atol=1e-2)


def test_interrupted_run_goes_on_behind_the_last_stage(
    first: Trained,
    photos: list[str],
    trunk: Path,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []
    prepare = run.Run.prepare

    def interrupted(self: run.Run, number: int, stage: object, path: Path | None) -> object:
        begun.append(stage.name)  # type: ignore[attr-defined]
        if begun == ["conv4", "attention"]:
            raise KeyboardInterrupt
        return prepare(self, number, stage, path)  # type: ignore[arg-type]

    monkeypatch.setattr(run.Run, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(photos, tiny(), trunk, seed=3, work=tmp_path / "work")
    resumed = train(photos, tiny(), trunk, seed=3, work=tmp_path / "work")
    assert begun == ["conv4", "attention", "attention"]
    assert _equal(first, resumed)
    # A later stage may change without the earlier ones.
    other = tiny().with_stage("attention", learning_rate=2e-3)
    train(photos, other, trunk, seed=3, work=tmp_path / "work")
    assert begun[3:] == ["attention"]
    assert not (tmp_path / "work" / "cache").exists()


def test_one_training_a_folder(photos: list[str], trunk: Path, tiny: Tiny, tmp_path: Path) -> None:
    with Work(tmp_path), raises(LockedError):
        train(photos, tiny(), trunk, work=tmp_path)


def test_stage_of_no_steps_leaves_the_trunk(photos: list[str], trunk: Path, tiny: Tiny) -> None:
    config = tiny().with_stage("conv4", steps=0).with_stage("attention", steps=0).with_stage("PCA", select="norm")
    trained = train(photos, config, trunk)
    before = build_trunk("resnet18", read_state(trunk)).state_dict()
    for key, value in before.items():
        assert np.array_equal(value.half().float().numpy(), trained.state[f"trunk.{key}"])
    assert trained.info.attention == "norm"


def test_bad_photographs_are_reported_once_and_passed_over(
    photos: list[str], trunk: Path, tiny: Tiny, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    seen: list[str] = []
    trained = train([str(bad), *photos], tiny(), trunk, error=lambda p, _: seen.append(p))
    assert seen == [str(bad)]
    assert trained.network.dim == 8


def test_stages_in_an_order_that_cannot_work(photos: list[str], trunk: Path, tiny: Tiny) -> None:
    stages = tiny().stages
    head_only = tiny().with_stage("conv4", train=("attention",))
    for config in (tiny(stages=stages[3:]), tiny(stages=stages[4:]), head_only):
        with raises(ConfigError):
            train(photos, config, trunk)
    with raises(ConfigError, "pairs.jsonl"):  # no stage draws them
        train(photos, tiny(), trunk, pairs="pairs.jsonl")


def test_bad_trunks(photos: list[str], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"layer": [1, 2]}, tmp_path / "list.pth")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("none.safetensors", "none.pth", "list.pth", "other.pth"):
        with raises(CheckpointError, name):
            train(photos, tiny(), tmp_path / name)
    with raises(CheckpointError, "resnet50_v1", "--trunk"):
        train(photos, tiny(architecture="resnet50_v1"), None)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with raises(CheckpointError, "--trunk", "FILE", "https://"):
        train(photos, tiny(), None)


def test_photographs_may_have_any_size(trunk: Path, tiny: Tiny, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(40, 300), (300, 40), (64, 64), (97, 33), (128, 128), (50, 70)]
    paths = [
        str(write_image(tmp_path / f"{i}.png", rng.integers(0, 255, (h, w, 3), dtype=np.uint8)))
        for i, (h, w) in enumerate(sizes)
    ]
    trained = train(paths, tiny(), trunk)
    assert all(np.isfinite(value).all() for value in trained.state.values())
