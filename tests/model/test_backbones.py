import numpy as np
import pytest
import torch
import torchvision

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model.backbones import ARCHITECTURES, Architecture, build_trunk
from helpers import raises


def _reference(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return torchvision's own network with batch norms that do something."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    return net, net.state_dict()


def _conv4(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer3(net.layer2(net.layer1(x)))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_folded_trunk_equals_torchvision(name: str) -> None:
    net, state = _reference(name)
    trunk = build_trunk(name, state)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 70, 53)
    with torch.inference_mode():
        expected, got = _conv4(net, x), trunk(x)
    assert got.shape == expected.shape == (2, ARCHITECTURES[name].channels, 5, 4)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in trunk.modules())
    with torch.inference_mode():  # folded, it loads as it is
        assert torch.equal(build_trunk(name, trunk.state_dict())(x), got)


def test_resnet_v1_takes_its_stride_on_the_first_convolution() -> None:
    trunk = build_trunk("resnet50_v1")
    assert trunk.layer3[0].conv1.stride == (2, 2)
    assert trunk.layer3[0].conv2.stride == (1, 1)
    assert trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 1024, 4, 4)


# TensorFlow's padding centres them so for odd sizes only; tests/importing holds these trunks to NumPy.
@pytest.mark.parametrize(
    "name", [n for n, kind in ARCHITECTURES.items() if isinstance(kind, Architecture) and kind.padding == "torch"]
)
def test_a_cell_is_centred_on_stride_times_cell(name: str) -> None:
    """The pixels that a cell sees are symmetric about pixel stride * i, as `delf_engine.pyramid` says."""
    trunk = build_trunk(name)
    # Everything positive and linear, so that every path in the network carries gradient.
    for module in trunk.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            torch.nn.init.zeros_(module.bias)
    trunk.maxpool = torch.nn.AvgPool2d(3, 2, 1)
    x = torch.ones(1, 3, 321, 321, requires_grad=True)
    cell = 160 // trunk.stride
    trunk(x)[0, 0, cell, cell].backward()
    seen = np.flatnonzero(x.grad[0, 0].abs().sum(0).numpy() > 0)
    assert (seen[0] + seen[-1]) / 2 == 160


def test_unknown_architecture_is_named() -> None:
    with raises(ConfigError, "'vgg16'", "resnet18"):
        build_trunk("vgg16")


def test_weights_that_do_not_fit_are_refused() -> None:
    state = _reference("resnet18")[1]
    with raises(CheckpointError, "resnet50"):
        build_trunk("resnet50", state)
    del state["layer2.0.conv1.weight"]
    with raises(CheckpointError, "layer2.0.conv1.weight"):
        build_trunk("resnet18", state)
