"""bfloat16 in the trunk: what it is when asked for, how near float32 it is, and what it leaves alone."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from delf_engine.config import ExtractionConfig, load_profile
from delf_engine.errors import ConfigError, DelfEngineWarning
from delf_engine.extraction import Extractor, precision
from delf_engine.features import LocalFeatures
from delf_engine.model import load_checkpoint
from delf_engine.model.network import DelfNetwork
from helpers import raises, random_photo, write_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> DelfNetwork:
    found: DelfNetwork = load_checkpoint("delf-r18")[0]
    return found


@pytest.fixture(scope="module")
def config() -> ExtractionConfig:
    return load_profile("default").extraction.model_copy(update={"scales": (0.5, 0.70710678), "max_features": 300})


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return random_photo(np.random.default_rng(1), 480, 360)


def hardware(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """Let the processor have these instructions, as far as this package can tell."""
    monkeypatch.setattr(precision, "_x86_flags", lambda: frozenset(flags))


def emulated(network: DelfNetwork, config: ExtractionConfig, monkeypatch: pytest.MonkeyPatch) -> Extractor:
    hardware(monkeypatch, "avx2")
    with pytest.warns(DelfEngineWarning, match="cpu .*bfloat16"):
        return Extractor(network, config, device="cpu", precision="bf16")


def native(network: DelfNetwork, config: ExtractionConfig, monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """bfloat16 tensors throughout; torch computes with them on any processor, only not always fast."""
    hardware(monkeypatch, "avx512_bf16")
    return Extractor(network, config, device="cpu", precision="bf16")


both = pytest.mark.parametrize("make", [native, emulated])


# ---------------------------------------------------------------------------------------------- what is meant


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), "fp32"),
        (("avx2", "avx512_f", "avx512_vnni", "avx_ne_convert"), "fp32"),
        (("avx512_f", "avx512_bf16"), "bf16"),
        (("amx_tile", "amx_bf16"), "bf16"),
    ],
)
def test_auto_is_bf16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], expected: str
) -> None:
    hardware(monkeypatch, *flags)
    assert precision.resolve_precision("auto", CPU) == expected
    assert precision.resolve_precision("fp32", CPU) == "fp32"
    assert precision.resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision.resolve_precision("auto", torch.device("cuda", 0)) == expected


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch does not list instructions")
@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux lists instructions in a file")
def test_linux_and_torch_agree_on_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"avx2", "avx512_bf16", "amx_bf16"}
    by_torch = precision._x86_flags.__wrapped__() & wanted
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert precision._x86_flags.__wrapped__() & wanted == by_torch


def test_bad_precision_is_refused(network: DelfNetwork, config: ExtractionConfig, tmp_path: Path) -> None:
    with raises(ConfigError, "'fp16'"):
        Extractor(network, config, device="cpu", precision="fp16")  # type: ignore[arg-type]
    profile = tmp_path / "mine.toml"
    profile.write_text('extends = "default"\n[extraction]\nprecision = "half"\n')
    with raises(ConfigError, "mine.toml", "extraction.precision"):
        load_profile(profile)


def test_the_argument_goes_before_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware(monkeypatch, "avx512_bf16")
    assert Extractor.from_pretrained("delf-r18", device="cpu", precision="auto").precision == "bf16"
    extractor = Extractor.from_pretrained("delf-r18", device="cpu", precision="fp32")
    assert extractor.precision == extractor.config.precision == "fp32"
    assert "fp32 on cpu" in repr(extractor)


# ------------------------------------------------------------------------------------------------ how near it is


def agreement(a: LocalFeatures, b: LocalFeatures) -> tuple[float, np.ndarray]:
    """Share of keypoints of `a` that `b` has too, at the same scale, and the cosines of their descriptors."""
    places = {(*k, s): i for i, (k, s) in enumerate(zip(a.keypoints.tolist(), a.scales.tolist(), strict=True))}
    pairs = [
        (places[(*k, s)], j)
        for j, (k, s) in enumerate(zip(b.keypoints.tolist(), b.scales.tolist(), strict=True))
        if (*k, s) in places
    ]
    i, j = np.array(pairs).T
    return len(pairs) / len(a), (a.descriptors[i] * b.descriptors[j]).sum(1)


@both
def test_bf16_features_are_near_fp32(make, network, config, photo, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    exact = Extractor(copy.deepcopy(network), config, device="cpu", precision="fp32")(photo)
    lowered = make(network, config, monkeypatch)(photo)
    share, cosine = agreement(exact, lowered)
    assert len(exact) == len(lowered) == 300
    assert share > 0.97
    assert cosine.mean() > 0.9995
    assert cosine.min() > 0.99
    assert lowered != exact


def test_emulated_is_native_but_for_the_order_of_sums(
    network: DelfNetwork, config: ExtractionConfig, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, cosine = agreement(
        native(network, config, monkeypatch)(photo), emulated(network, config, monkeypatch)(photo)
    )
    assert share > 0.985
    assert cosine.min() > 0.999


@both
def test_only_the_trunk_is_lowered(make, network, config, photo, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    lowered = make(network, config, monkeypatch).network
    images = lowered.normalise(torch.from_numpy(photo)[None])
    with torch.inference_mode():
        features, scores = lowered(images)
        assert features.dtype == scores.dtype == torch.float32
        assert torch.equal(features, features.bfloat16().float())  # it came out of a bfloat16 trunk
        assert not torch.equal(features, network(images)[0])
        torch.testing.assert_close(scores, network.attention(features), rtol=1e-5, atol=1e-5)
    for mine, given in ((lowered.attention, network.attention), (lowered.projection, network.projection)):
        for key, value in given.state_dict().items():
            assert torch.equal(mine.state_dict()[key], value)


@both
def test_the_network_that_was_given_stays_as_it_is(make, network, config, photo, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    before = copy.deepcopy(network.state_dict())
    make(network, config, monkeypatch)(photo)
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


@both
def test_same_bits_alone_and_among_many(make, network, config, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    extractor = make(network, config, monkeypatch)
    rng = np.random.default_rng(0)
    paths = [write_image(tmp_path / f"{i}.png", random_photo(rng, 90 + 30 * i, 100)) for i in range(4)]
    alone = [extractor(path) for path in paths]
    for workers in (1, 3):
        assert [f for _, f in extractor.extract_many(paths, workers=workers)] == alone
    assert [pickle.loads(pickle.dumps(extractor))(p) for p in paths] == alone  # noqa: S301
