from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.peers import Peer, aliked, root_sift
from delf_engine.errors import CheckpointError
from helpers import raises, random_photo


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """ALIKED of random weights: its records are as those of the trained one."""
    kornia = pytest.importorskip("kornia.feature")
    import torch
    from safetensors.torch import save_file as save_tensors

    torch.manual_seed(0)
    state = kornia.ALIKED("aliked-n16").state_dict()
    path = tmp_path_factory.mktemp("weights") / "aliked-n16.safetensors"
    save_tensors({k: v.contiguous() for k, v in state.items() if k != "dkd.hw_grid"}, path)
    return aliked(path, max_features=50, max_image_size=160)


@pytest.fixture(params=["aliked", "root_sift"])
def peer(request: pytest.FixtureRequest) -> Peer:
    if request.param == "aliked":
        return request.getfixturevalue("network")  # type: ignore[no-any-return]

    def sift(image: object, *, box: object = None) -> object:
        return root_sift(image, box=box, max_features=50, max_image_size=160)  # type: ignore[arg-type]

    return sift  # type: ignore[return-value]


def test_a_peer_gives_valid_features(peer: Peer, rng: np.random.Generator) -> None:
    photo = random_photo(rng)
    features = peer(photo)
    assert 0 < len(features) <= 50
    assert features.dim == 128
    assert features.image_size == (160, 120)
    assert (features.keypoints >= -0.5).all()
    assert (features.keypoints <= np.array([159.5, 119.5])).all()
    assert features == peer(photo)


def test_a_shrunk_photograph_has_the_features_of_its_small_copy(peer: Peer, rng: np.random.Generator) -> None:
    small = random_photo(rng)
    large = small.repeat(3, axis=0).repeat(3, axis=1)  # shrunk by area, it is the small one again
    a, b = peer(small), peer(large)
    assert b.image_size == (480, 360)
    np.testing.assert_allclose(b.keypoints, 3 * (a.keypoints + 0.5) - 0.5, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(b.scales, 3 * a.scales, rtol=1e-5)
    np.testing.assert_allclose(b.descriptors, a.descriptors, atol=1e-5)


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("kornia.feature")
    path = tmp_path / "aliked-n16.safetensors"
    with raises(CheckpointError, "aliked-n16.safetensors"):
        aliked(path)
    path.write_bytes(b"not safetensors")
    with raises(CheckpointError, "aliked-n16.safetensors"):
        aliked(path)
    save_file({"block1.conv1.weight": np.zeros((16, 3, 3, 3), np.float32)}, path)
    with raises(CheckpointError, "aliked-n16.safetensors"):
        aliked(path)
    save_file({"block1.conv1.weight": np.zeros((2, 2), np.float32)}, path)
    with raises(CheckpointError, "aliked-n16.safetensors"):
        aliked(path)
