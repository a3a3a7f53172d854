"""Images a second of real training stages, against the bare forward and backward pass of the same network.

    python -m benchmarks.training.throughput --trunk WEIGHTS [--recipe delf_views] [--device cpu] [--rounds 3]

Three stages: the whole trunk from labelled photographs (224 of 250 px, decoded in every step), the recipe's first
stage that trains layer3 from cached views, and its first that trains the attention from cached maps. A real step
is the trainer's own: source, cache, losses, optimiser. The bare rate is that of the trained part alone, on one
batch that lies ready: same batch, crop and precision, forward and backward, neither loss nor optimiser. For the
attention that is the head on every cell, of which its loss looks at some. Bare and real rounds take turns, so that
a busy machine slows both alike; the ratio is the median over rounds. `--profile` says where the time of the real
steps goes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import data_folder, options_parser, print_rows, write_json
from delf_engine.errors import ConfigError
from delf_engine.images import find_images
from delf_engine.model.device import choose_device
from delf_engine.training import TrainingConfig, load_training_config
from delf_engine.training.batches import Batch
from delf_engine.training.config import GradientStage, with_teacher
from delf_engine.training.losses.classification import Softmax
from delf_engine.training.options import Reports, RunOptions, autocast_dtype, deterministic
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import spread
from delf_engine.training.run import Run
from delf_engine.training.sources.classes import ClassesOptions, CropConfig
from delf_engine.training.trainer import GradientRun
from delf_engine.training.work import Work

_WARM = 2  # steps of a round that are not timed: the batches that were made ready ahead
_A_CLASS = 16  # photographs of each made-up class
_TARGET = 0.7


@dataclass(frozen=True)
class Case:
    """One stage to measure, and the recipe it is a part of."""

    name: str
    config: TrainingConfig
    stage: GradientStage
    roots: tuple[Path, ...] = ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the stages, print a table, write JSON."""
    args = _arguments(arguments)
    photos = find_images(args.photos or [str(data_folder(args.data) / "photos")])
    config = load_training_config(args.recipe)
    if args.teacher is not None:
        config = with_teacher(config, args.teacher)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        labelled = class_folder(spread(photos, args.max_photos), Path(temporary))
        for case in cases(config, labelled, args.batch):
            rows.append(measure(case, photos, args))
            print_rows(f"{args.recipe} on {rows[-1]['device']}", rows, _COLUMNS)
    write_json(args.out, {"recipe": args.recipe, "target": _TARGET, "rows": rows})


def class_folder(photos: Sequence[str], folder: Path) -> Path:
    """Copy photographs into made-up classes: decoding and losses take as long with any labels."""
    for number, photo in enumerate(photos):
        target = folder / f"class{number // _A_CLASS}"
        target.mkdir(exist_ok=True)
        shutil.copyfile(photo, target / f"{number}{Path(photo).suffix}")
    return folder


def cases(config: TrainingConfig, labelled: Path, batch: int) -> list[Case]:
    """Return the stages to measure.

    Raises
    ------
    ConfigError
        If the recipe lacks one of them.
    """
    trunk = GradientStage(
        kind="gradient",
        name="trunk",
        source=ClassesOptions(kind="classes", crop=CropConfig(square=250, window=224), measure_images=1),
        train=("trunk",),
        losses=(Softmax.Options(kind="softmax"),),
        steps=1,
        batch=batch,
        learning_rate=1e-4,
        optimiser="sgd",
    )
    found = [Case("trunk, from photographs", config.model_copy(update={"stages": (trunk,)}), trunk, (labelled,))]
    for part, name in (("layer3", "layer3, from cached conv3"), ("attention", "attention, from cached conv4")):
        stages = [s for s in config.gradient_stages if s.train == (part,)]
        if not stages:
            raise ConfigError(f"recipe {config.name} has no stage that trains {part} alone")
        found.append(Case(name, config, stages[0]))
    return found


def measure(case: Case, photos: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Measure one stage: bare and real rounds in turn."""
    run = _run(case, photos, args)
    steps = args.steps + _WARM
    stage = case.stage.model_copy(update={"steps": steps, "evaluate_every": 0})
    with deterministic(run.device):
        run.start(args.trunk)
        run.fitted = True  # not in truth: the match label takes as long with any projection
        rounds = []
        for _ in range(args.rounds):
            prepared = run.prepare(0, stage, None)
            bare = bare_rate(prepared, args.steps)
            rounds.append((real_rate(prepared), bare))
        if args.profile:
            _profile(run.prepare(0, stage, None))
        run.stores.close()
    real, bare = (median(rates) for rates in zip(*rounds, strict=True))
    return {
        "stage": case.name,
        "architecture": case.config.architecture,
        "device": str(run.device),
        "precision": str(run.dtype(stage)).removeprefix("torch."),
        "images_a_step": len(prepared.source.batch(0)) * stage.accumulate,
        "parameters": sum(p.numel() for p in prepared.parameters),
        "images_a_second": real,
        "bare_images_a_second": bare,
        "ratio": median(r / b for r, b in rounds),
        "rounds": [{"images_a_second": r, "bare_images_a_second": b} for r, b in rounds],
    }


def real_rate(prepared: GradientRun) -> float:
    """Return images a second of the stage as the trainer runs it, its first steps left out."""
    times: list[float] = []

    def note(*_: object) -> None:  # once a step's loss has come from the device
        times.append(time.perf_counter())

    prepared.reports = Reports(progress=note)
    prepared.evaluate = dict  # what is measured on held-out photographs is no part of a step
    images = len(prepared.source.batch(0)) * prepared.stage.accumulate
    prepared.run()
    return images * (len(times) - _WARM) / (times[-1] - times[_WARM - 1])


def bare_rate(prepared: GradientRun, steps: int) -> float:
    """Return images a second of forward and backward through what the stage trains, on one batch."""
    batch = prepared.source.batch(0).to(prepared.device)
    forward = _bare_forward(prepared, batch)
    prepared.set_trainable(True)
    times = []
    for _ in range(steps + 1):
        for parameter in prepared.parameters:
            parameter.grad = None
        forward().backward()
        _wait(prepared.device)
        times.append(time.perf_counter())
    prepared.set_trainable(False)
    return len(batch) * steps / (times[-1] - times[0])


def _bare_forward(prepared: GradientRun, batch: Batch) -> Callable[[], Tensor]:
    network, stage, dtype = prepared.network, prepared.stage, prepared.forward.dtype
    autocast = torch.autocast(prepared.device.type, dtype, enabled=dtype != torch.float32)
    if stage.level == "conv4":
        conv4 = batch.maps["conv4"].float().contiguous(memory_format=torch.channels_last)
        head: Any = network.attention
        return lambda: head.logits(conv4).mean()  # heads run in float32, in the trainer as well
    cached = stage.level == "conv3"
    start = batch.maps["conv3"].float() if cached else network.normalise(batch.maps["images"])
    start = start.contiguous(memory_format=torch.channels_last)
    part: Callable[[Tensor], Tensor] = network.trunk.last if cached else network.trunk

    def forward() -> Tensor:
        with autocast:
            return part(start).float().mean()

    return forward


def _run(case: Case, photos: Sequence[str], args: argparse.Namespace) -> Run:
    return Run(
        case.config,
        Photographs.find(case.roots or photos, case.config),
        RunOptions(device=args.device, precision=args.precision, checkpoint_seconds=float("inf")),
        Reports(lambda path, error: print(f"left out: {path}: {error.reason}")),
        Work(None),
        sample=2 * case.stage.batch,  # of the views: what is cached is the same for each
    )


def _profile(prepared: GradientRun) -> None:
    prepared.evaluate = dict
    activities = [torch.profiler.ProfilerActivity.CPU]
    if prepared.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        prepared.run()
    print(profile.key_averages().table(sort_by=f"self_{prepared.device.type}_time_total", row_limit=20))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_COLUMNS = {
    "stage": "{stage}",
    "precision": "{precision}",
    "images a step": "{images_a_step}",
    "images / s": "{images_a_second:.1f}",
    "bare images / s": "{bare_images_a_second:.1f}",
    f"ratio (target {_TARGET:g})": "{ratio:.2f}",
}


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/training_throughput.json")
    parser.add_argument("--recipe", default="delf_views", help="name or path")
    parser.add_argument("--trunk", help="weights to start from; without it, the recipe's, else torchvision's")
    parser.add_argument("--teacher", help="in place of the recipe's")
    parser.add_argument("--photos", nargs="+", help="without it, photos/ in the data folder")
    parser.add_argument("--data", help="folder that holds photos/")
    parser.add_argument("--max-photos", type=int, default=320, help="put into made-up classes")
    parser.add_argument("--batch", type=int, default=32, help="images, of the whole trunk's stage")
    parser.add_argument("--steps", type=int, default=5, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], help="without it, the recipe's")
    parser.add_argument("--profile", action="store_true", help="print where the time of each stage goes")
    args = parser.parse_args(given)
    if min(args.steps, args.rounds, args.max_photos) < 1 or args.batch < 2:
        parser.error("--steps, --rounds and --max-photos must be at least 1, --batch at least 2")
    autocast_dtype(args.precision or "auto", choose_device(args.device))  # refuses what cannot be
    return args


if __name__ == "__main__":
    main()
