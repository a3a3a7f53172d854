from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.errors import DataError, FormatError
from delf_engine.model.network import DelfNetwork
from delf_engine.training import TrainingConfig, registry
from delf_engine.training.batches import Batch, Forward, StageFacts, Step
from delf_engine.training.config import GradientStage, parse_training_config
from delf_engine.training.contract import Loss, LossOptions, SourceContext, SourceOptions
from delf_engine.training.options import Reports
from delf_engine.training.run import build_losses
from delf_engine.training.trainer import GradientRun, learning_rate
from delf_engine.training.work import read_snapshot
from helpers import raises
from training_helpers import Trained, train

Tiny = Callable[..., TrainingConfig]


class ToySource:
    """Labelled conv4 maps of two classes, a function of the index."""

    Options = SourceOptions
    kind = "labels"
    n_classes = 2

    def __init__(self, options: SourceOptions, context: SourceContext | None = None, size: int = 6) -> None:
        self.size = size

    def batch(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(index)
        labels = torch.arange(self.size) % 2
        maps = torch.randn(self.size, 256, 2, 2, generator=generator)
        maps[:, 0] += 4 * (2 * labels - 1)[:, None, None]
        return Batch({"conv4": maps}, 32, labels=labels)

    def held_out(self) -> Iterator[Batch]:
        yield self.batch(1000)
        yield Batch({"conv4": torch.zeros(2, 256, 2, 2)}, 32, labels=torch.tensor([0, 1]))


class ToyOptions(LossOptions):
    margin: float = 0.5
    dropout: float = 0.0


class ToyTriplet(Loss):
    """A global loss, as a later file would add it: triplets of pooled features under a layer of its own."""

    Options = ToyOptions
    needs = "labels"
    options: ToyOptions

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        self.layer = torch.nn.Linear(network.trunk.channels, 4)

    def embed(self, step: Step) -> Tensor:
        pooled = F.dropout(step.features.mean((2, 3)), self.options.dropout, self.training)
        return F.normalize(self.layer(pooled), dim=1)

    def forward(self, step: Step) -> Tensor:
        labels = step.batch.labels
        assert labels is not None
        distance = torch.cdist(x := self.embed(step), x)
        same = labels[:, None] == labels[None]
        hardest = (distance * same).amax(1), distance.masked_fill(same, 9.0).amin(1)
        return F.relu(hardest[0] - hardest[1] + self.options.margin).mean()

    def measure(self, step: Step) -> Mapping[str, float]:
        return {"spread": float(self.embed(step).std()), "images": float(len(step.batch))}


class ToyMean(Loss):
    """A mean over images, to which gradient accumulation must make no difference."""

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        self.layer = torch.nn.Linear(network.trunk.channels, 1)

    def forward(self, step: Step) -> Tensor:
        assert step.batch.labels is not None
        return F.mse_loss(self.layer(step.features.mean((2, 3)))[:, 0], step.batch.labels.float())


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "toy", ToySource)
    monkeypatch.setitem(registry.LOSSES, "toy triplet", ToyTriplet)
    monkeypatch.setitem(registry.LOSSES, "toy mean", ToyMean)


@pytest.fixture(scope="module")
def network() -> DelfNetwork:
    torch.manual_seed(0)
    return DelfNetwork("resnet18", 8, hidden=4).eval().requires_grad_(False)


def _stage(**changes: Any) -> GradientStage:
    values: dict[str, Any] = {
        "kind": "gradient",
        "name": "toy",
        "source": SourceOptions(kind="toy"),
        "train": (),
        "losses": (ToyOptions(kind="toy triplet"),),
        "steps": 6,
        "batch": 6,
        "learning_rate": 0.01,
    }
    return GradientStage(**{**values, **changes})


def _run(network: DelfNetwork, stage: GradientStage, source: Any = None, **options: Any) -> GradientRun:
    cpu = torch.device("cpu")
    facts = StageFacts("labels", 2, False, frozenset(stage.train))
    losses = build_losses(stage, network, facts, 1)
    dtype = {"bf16": torch.bfloat16}.get(stage.precision, torch.float32)
    forward = Forward(network, fitted=False, seed=1, device=cpu, dtype=dtype, trains=stage.train)
    return GradientRun(
        stage,
        network,
        source or ToySource(stage.source),
        losses,
        forward,
        evaluate=lambda: {"figure": 1.0},
        **options,
    )


def _weights(run: GradientRun) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in run.parameters]


class _KilledError(Exception):
    """Stands for kill -9: nothing is saved on the way out."""


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_after_a_kill_gives_the_same_bits(
    network: DelfNetwork, tmp_path: Path, optimiser: str, accumulate: int
) -> None:
    stage = _stage(
        optimiser=optimiser,
        accumulate=accumulate,
        weight_decay=0.1,
        warmup=2,
        clip=1.0,
        evaluate_every=2,
        losses=(ToyOptions(kind="toy triplet", dropout=0.3),),
    )
    whole = _run(network, stage)
    whole.run()
    path = tmp_path / "state"

    def kill(name: str, done: int, total: int, loss: float | None) -> None:
        if done == 5:  # the last state is that of step 4
            raise _KilledError

    killed = _run(network, stage, path=path, checkpoint_steps=2, reports=Reports(progress=kill))
    with pytest.raises(_KilledError):
        killed.run()
    resumed = _run(network, stage, path=path, checkpoint_steps=2)
    steps: list[int] = []
    resumed.reports = Reports(progress=lambda name, done, total, loss: steps.append(done))
    resumed.run()
    assert steps == [5, 6]
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(resumed), strict=True))
    assert resumed.history == whole.history
    assert [step for step, _ in whole.history] == [2, 4, 6]
    assert not path.exists()


def test_conv4_resumes_to_the_same_bits(photos: list[str], trunk: Path, tiny: Tiny, tmp_path: Path) -> None:
    """The same with a trunk in channels-last memory, cached views, distillation and prefetched batches."""
    config = tiny(stages=tiny().stages[:2]).with_stage("conv4", steps=4)

    def run(**options: Any) -> Trained:
        return train(photos, config, trunk, **options)

    def kill(name: str, done: int, total: int, loss: float | None) -> None:
        if (name, done) == ("conv4", 3):
            raise _KilledError

    with pytest.raises(_KilledError):
        run(work=tmp_path, progress=kill, checkpoint_steps=2)
    assert list(tmp_path.glob("conv4-*.running"))
    resumed, whole = run(work=tmp_path), run()
    assert all(np.array_equal(whole.state[key], resumed.state[key]) for key in whole.state)


def test_a_stage_keeps_a_share_of_its_start(photos: list[str], trunk: Path, tiny: Tiny) -> None:
    config = tiny(stages=tiny().stages[:2])
    start, tuned, mixed = (
        train(photos, recipe, trunk).state
        for recipe in (
            config.model_copy(update={"stages": config.stages[:1]}),
            config.with_stage("conv4", learning_rate=1e-3),
            config.with_stage("conv4", learning_rate=1e-3, keep=0.75),
        )
    )
    name = "trunk.layer3.0.conv1.weight"
    assert np.abs(tuned[name] - start[name]).max() > 1e-3
    np.testing.assert_allclose(mixed[name], 0.75 * start[name] + 0.25 * tuned[name], atol=2e-4)
    assert np.array_equal(mixed["trunk.conv1.weight"], start["trunk.conv1.weight"])


def test_first_ctrl_c_ends_the_step_and_writes_the_state(network: DelfNetwork, tmp_path: Path) -> None:
    def press(name: str, done: int, total: int, loss: float | None) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    stage, path = _stage(), tmp_path / "state"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _run(network, stage, path=path, reports=Reports(progress=press)).run()
    assert signal.getsignal(signal.SIGINT) is before
    resumed, whole = _run(network, stage, path=path), _run(network, stage)
    resumed.run()
    whole.run()
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(resumed), strict=True))


def test_damaged_or_foreign_states_are_refused(network: DelfNetwork, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"no state")
    with raises(FormatError):
        _run(network, _stage(), path=path).run()
    _run(network, _stage()).save(path)
    with raises(FormatError):
        _run(network, _stage(losses=(LossOptions(kind="toy mean"),)), path=path).run()


def test_divergence_names_step_and_learning_rate(network: DelfNetwork) -> None:
    class Bad(ToySource):
        def batch(self, index: int) -> Batch:
            batch = super().batch(index)
            return batch if index < 2 else replace(batch, maps={"conv4": batch.maps["conv4"] * torch.nan})

    with raises(DataError, "toy", "nan", "step 3", "learning rate 0.0"):
        _run(network, _stage(), Bad(SourceOptions(kind="toy"))).run()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_reports_that_are_a_step_behind_are_the_same(network: DelfNetwork, accumulate: int) -> None:
    """As on a GPU: reports come later, evaluations in their place, weights to the same bits."""

    def run(lag: int) -> tuple[list[Any], list[Tensor]]:
        seen: list[Any] = []
        reports = Reports(progress=lambda *now: seen.append(now), figures=lambda *now: seen.append(now))
        stage = _stage(losses=(LossOptions(kind="toy mean"),), evaluate_every=4, accumulate=accumulate)
        found = _run(network, stage, reports=reports)
        found.lag = lag
        found.run()
        return seen, _weights(found)

    (now, weights), (later, others) = run(0), run(1)
    assert later == now
    assert [one[1] for one in now] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_weights_that_diverged_are_not_saved_though_reports_are_behind(
    network: DelfNetwork, tmp_path: Path
) -> None:
    class Bad(ToySource):
        def batch(self, index: int) -> Batch:
            batch = super().batch(index)
            return replace(batch, maps={"conv4": batch.maps["conv4"] * (torch.nan if index == 3 else 1)})

    source, path = Bad(SourceOptions(kind="toy")), tmp_path / "state"
    run = _run(network, _stage(), source, path=path, checkpoint_steps=2)
    run.lag = 1
    with raises(DataError, "nan", "step 4"):
        run.run()
    assert read_snapshot(path).values["step"] == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_a_gpu(photos: list[str], trunk: Path, tiny: Tiny, precision: str) -> None:
    losses: list[float] = []
    trained = train(
        photos,
        tiny(),
        trunk,
        device="cuda",
        precision=precision,
        progress=lambda name, done, total, loss: losses.append(loss) if loss is not None else None,
    )
    assert np.isfinite(losses).all()
    assert all(np.isfinite(value).all() for value in trained.state.values())


def test_accumulation_equals_one_large_batch(network: DelfNetwork) -> None:
    class Joined(ToySource):
        def batch(self, index: int) -> Batch:
            parts = [super(Joined, self).batch(i) for i in (2 * index, 2 * index + 1)]
            maps = torch.cat([part.maps["conv4"] for part in parts])
            return Batch({"conv4": maps}, 32, labels=torch.cat([p.labels for p in parts if p.labels is not None]))

    losses = (LossOptions(kind="toy mean"),)
    split = _run(network, _stage(losses=losses, accumulate=2))
    joined = _run(network, _stage(losses=losses), Joined(SourceOptions(kind="toy")))
    split.run()
    joined.run()
    for a, b in zip(_weights(split), _weights(joined), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_figures_on_held_out_batches_are_averaged_by_images_and_logged(network: DelfNetwork) -> None:
    seen: list[tuple[str, int, Mapping[str, float]]] = []
    written: list[tuple[str, float, int]] = []

    class Log:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            written.append((tag, scalar_value, global_step))

    _run(network, _stage(steps=3), reports=Reports(figures=lambda *args: seen.append(args), log=Log())).run()
    ((name, step, figures),) = seen
    assert (name, step) == ("toy", 3)
    assert figures["figure"] == 1
    assert figures["images"] == pytest.approx((6 * 6 + 2 * 2) / 8)
    assert [step for tag, _, step in written if tag == "toy/loss"] == [1, 2, 3]
    assert ("toy/figure", 1.0, 3) in written


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate_equals_its_formula(schedule: str) -> None:
    stage = _stage(steps=10, warmup=4, schedule=schedule, learning_rate=2.0)
    got = [learning_rate(stage, step) for step in range(10)]
    assert got[:4] == [0.5, 1.0, 1.5, 2.0]
    for step in range(4, 10):
        expected = 2.0 if schedule == "constant" else 1 + np.cos(np.pi * (step - 4) / 6)
        assert got[step] == pytest.approx(expected)
    assert learning_rate(_stage(steps=1, warmup=0, learning_rate=3.0), 0) == 3.0


def test_parameters_of_the_losses_learn_at_their_own_rate(network: DelfNetwork) -> None:
    def moved(loss_rate: float) -> Tensor:
        stage = _stage(steps=1, loss_rate=loss_rate, optimiser="sgd", momentum=0.0)
        run = _run(copy.deepcopy(network), stage)
        before = _weights(run)[-2]
        run.run()
        return _weights(run)[-2] - before

    assert moved(1.0).abs().max() > 0
    torch.testing.assert_close(moved(8.0), 8 * moved(1.0), rtol=1e-3, atol=1e-6)


def test_a_new_loss_and_source_need_no_change_of_the_trainer(
    photos: list[str], trunk: Path, tiny: Tiny, tmp_path: Path
) -> None:
    values = json.loads(tiny().model_dump_json())
    values["stages"] = [
        {
            "kind": "gradient",
            "name": "global",
            "source": "toy",
            "train": ["attention"],
            "losses": [{"kind": "toy triplet", "margin": 0.2}],
            "steps": 40,
            "batch": 6,
            "learning_rate": 0.01,
        }
    ]
    losses: list[float] = []
    trained = train(
        photos,
        parse_training_config(values, where="test"),
        trunk,
        progress=lambda name, done, total, loss: losses.append(loss) if loss is not None else None,
    )
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert "spread" in trained.info.figures


@pytest.mark.parametrize("part", ["trunk", "layer3"])
def test_only_the_parts_named_are_trained(network: DelfNetwork, part: str) -> None:
    class Images(ToySource):
        def batch(self, index: int) -> Batch:
            images = torch.randint(0, 255, (4, 32, 32, 3), generator=torch.Generator().manual_seed(index)).byte()
            return Batch({"images": images}, 32, labels=torch.arange(4) % 2)

        def held_out(self) -> Iterator[Batch]:
            return iter(())

    mine = copy.deepcopy(network)
    stage = _stage(train=(part,), steps=1, losses=(LossOptions(kind="toy mean"),), precision="bf16")
    _run(mine, stage, Images(SourceOptions(kind="toy"))).run()
    changed = {
        name.split(".")[1] if name.startswith("trunk") else name
        for (name, before), after in zip(network.named_parameters(), mine.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert changed == ({"conv1", "layer1", "layer2", "layer3"} if part == "trunk" else {"layer3"})
    assert not any(parameter.requires_grad for parameter in mine.parameters())


def test_the_projection_is_trained_where_a_stage_says_so(network: DelfNetwork) -> None:
    class Described(Loss):
        def forward(self, step: Step) -> Tensor:
            return step.network.projection(step.features.flatten(2).transpose(1, 2).flatten(0, 1)).mean()

    mine = copy.deepcopy(network)
    stage = _stage(train=("projection",), steps=2, losses=(LossOptions(kind="toy mean"),))
    run = _run(mine, stage)
    run.losses = [Described(LossOptions(kind="described"), mine, StageFacts("labels", None, True, frozenset()))]
    run.run()
    changed = {
        name for name, value in mine.state_dict().items() if not torch.equal(value, network.state_dict()[name])
    }
    assert changed == {"projection.components"}
    assert not mine.projection.components.requires_grad
