"""Runs one gradient stage: micro-batches, mixed precision, checkpoints, exact resume.

Every random number of step k is a function of (seed, stage, k). What a stage is at step k is therefore its
weights, its optimiser's state and k, and a run that was killed goes on from its last state to the same bits.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from delf_engine.errors import DataError, FormatError
from delf_engine.extraction.runtime import fetched
from delf_engine.model.network import DelfNetwork
from delf_engine.support.processes import map_ordered
from delf_engine.training.batches import Batch, Forward
from delf_engine.training.config import GradientStage
from delf_engine.training.contract import Loss, Source
from delf_engine.training.options import Reports, deterministic
from delf_engine.training.work import (
    Snapshot,
    load_optimiser,
    optimiser_tensors,
    read_snapshot,
    write_snapshot,
)

_AHEAD = 2  # micro-batches that are made ready while others are trained on


@dataclass
class GradientRun:
    """One gradient stage of one run."""

    stage: GradientStage
    network: DelfNetwork  # trained in place
    source: Source
    losses: Sequence[Loss]  # in the order of `stage.losses`
    forward: Forward
    evaluate: Callable[[], Mapping[str, float]]  # measures the network on held-out photographs
    path: Path | None = None  # file of the stage's state; None: it cannot be resumed
    checkpoint_seconds: float = 120.0  # between states that are written
    checkpoint_steps: int | None = None  # the same in steps; both hold
    reports: Reports = field(default_factory=Reports)
    # What was measured: step and figures.
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = self.forward.device
        self.modules = nn.ModuleList(self.losses).to(self.device)
        self.names, self.parameters = trained_parameters(self.network, self.stage, self.modules)
        self.optimiser = _optimiser(self.stage, self.names, self.parameters)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.forward.dtype == torch.float16)
        self.step = 0
        #: Steps by which reports are behind: on a GPU it works on the next one meanwhile.
        self.lag = 1 if self.device.type == "cuda" else 0

    def run(self) -> None:
        """Train to the end of the stage, from the state on disk if there is one.

        A `DataError` if the loss or a weight becomes NaN or infinite; a `KeyboardInterrupt` after Ctrl-C, once the
        step is done and the state is written.
        """
        self._resume()
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with deterministic(self.device), torch.random.fork_rng(devices=devices), _stoppable() as stopped:
            self.set_trainable(True)
            try:
                self._loop(stopped)
            finally:
                self.set_trainable(False)
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise DataError(f"stage {self.stage.name}: weights are not finite at its end; {self._advice()}")
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _loop(self, stopped: threading.Event) -> None:
        steps, accumulate = self.stage.steps, self.stage.accumulate
        written = time.monotonic()
        waiting: deque[tuple[int, Callable[[], float]]] = deque()
        with (
            ThreadPoolExecutor(1, thread_name_prefix="batches") as pool,
            closing(
                map_ordered(
                    lambda index: pool.submit(self._batch, index),
                    range(self.step * accumulate, steps * accumulate),
                    _AHEAD,
                )
            ) as batches,
        ):
            while self.step < steps:
                loss = self.optimise([(index, job.result()) for index, job in islice(batches, accumulate)])
                self.step += 1
                waiting.append((self.step, loss))
                every = self.stage.evaluate_every
                measured = self.step == steps or (every and self.step % every == 0)
                due = time.monotonic() - written > self.checkpoint_seconds
                due |= self.checkpoint_steps is not None and self.step % self.checkpoint_steps == 0
                self._report(waiting, 0 if measured or due else self.lag)
                if measured:
                    self._measure()
                if stopped.is_set():
                    self._report(waiting, 0)
                if self.path is not None and (stopped.is_set() or (due and self.step < steps)):
                    self.save(self.path)
                    written = time.monotonic()
                if stopped.is_set():
                    raise KeyboardInterrupt

    def _batch(self, index: int) -> Batch:
        batch = self.source.batch(index)
        return batch.pinned() if self.device.type == "cuda" else batch

    def _report(self, waiting: deque[tuple[int, Callable[[], float]]], behind: int) -> None:
        """Read the losses of all steps but the last `behind`; a `DataError` if one is not finite."""
        while len(waiting) > behind:
            step, loss = waiting.popleft()
            self.reports.progress(self.stage.name, step, self.stage.steps, loss())

    def optimise(self, batches: Sequence[tuple[int, Batch]]) -> Callable[[], float]:
        """Do one optimiser step on numbered micro-batches; return what waits for the loss, logs and returns it.

        It raises a `DataError` if the loss is not finite.
        """
        rate = learning_rate(self.stage, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.zero_grad(set_to_none=True)
        terms = torch.zeros(len(self.losses), dtype=torch.float64, device=self.device)
        for index, batch in batches:
            torch.manual_seed(int(np.random.default_rng((self.forward.seed, 8, index)).integers(2**62)))
            loss, parts = self._loss(batch, index)
            terms += parts / len(batches)
            if loss.requires_grad:
                self.scaler.scale(loss / len(batches)).backward()
        self._descend()
        return partial(self._total, fetched(terms), rate, self.step + 1)

    def _total(self, fetch: Callable[[], Tensor], rate: float, step: int) -> float:
        terms = fetch()
        weights = torch.tensor([options.weight for options in self.stage.losses], dtype=torch.float64)
        total = float((terms * weights).sum())
        if not np.isfinite(total):
            raise DataError(
                f"stage {self.stage.name}: the loss is {total:g} at step {step}, "
                f"learning rate {rate:g}; {self._advice()}"
            )
        self._record(total, terms, rate, step)
        return total

    def _loss(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        step = self.forward(batch, index)
        terms = [loss(step) for loss in self.losses]
        weighted = [o.weight * term for o, term in zip(self.stage.losses, terms, strict=True)]
        return torch.stack(weighted).sum(), torch.stack([term.detach().double() for term in terms])

    def _descend(self) -> None:
        if self.stage.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.parameters, self.stage.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def _record(self, total: float, terms: Tensor, rate: float, step: int) -> None:
        log = self.reports.log
        if log is None:
            return
        log.add_scalar(f"{self.stage.name}/loss", total, step)
        log.add_scalar(f"{self.stage.name}/learning_rate", rate, step)
        for options, term in zip(self.stage.losses, terms.tolist(), strict=True):
            log.add_scalar(f"{self.stage.name}/loss/{options.kind}", term, step)

    def _measure(self) -> None:
        self.set_trainable(False)
        with torch.no_grad():
            figures = {**self.evaluate(), **self._held_out()}
        self.set_trainable(True)
        self.history.append((self.step, figures))
        self.reports.figures(self.stage.name, self.step, figures)
        if self.reports.log is not None:
            for name, value in figures.items():
                self.reports.log.add_scalar(f"{self.stage.name}/{name}", value, self.step)

    def _held_out(self) -> dict[str, float]:
        """Measure the losses on the source's held-out batches, averaged by images."""
        sums: dict[str, float] = {}
        images: dict[str, int] = {}
        for index, batch in enumerate(self.source.held_out()):
            step = self.forward(batch, index)
            for loss in self.losses:
                for name, value in loss.measure(step).items():
                    sums[name] = sums.get(name, 0.0) + value * len(batch)
                    images[name] = images.get(name, 0) + len(batch)
        return {name: sums[name] / images[name] for name in sums}

    def set_trainable(self, on: bool) -> None:
        """Let the trained parameters collect gradients, or not."""
        self.modules.train(on)
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    def save(self, path: Path) -> None:
        """Write the state after `step` steps."""
        tensors: dict[str, Tensor] = {f"weights.{n}": p for n, p in zip(self.names, self.parameters, strict=True)}
        tensors.update({f"buffers.{name}": value for name, value in self.modules.named_buffers()})
        tensors.update(optimiser_tensors(self.optimiser))
        values = {"step": self.step, "scaler": self.scaler.state_dict(), "history": self.history}
        write_snapshot(path, Snapshot(tensors, values))

    def _resume(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        state = read_snapshot(self.path)
        try:
            with torch.no_grad():
                for name, parameter in zip(self.names, self.parameters, strict=True):
                    parameter.copy_(state.tensors[f"weights.{name}"])
                for name, buffer in self.modules.named_buffers():
                    buffer.copy_(state.tensors[f"buffers.{name}"])
            load_optimiser(self.optimiser, state.tensors)
        except (KeyError, RuntimeError) as error:
            raise FormatError(f"{self.path}: does not fit this stage: {error}; delete it to start anew") from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state.values["scaler"])
        self.step = int(state.values["step"])
        self.history[:] = [(int(step), figures) for step, figures in state.values["history"]]

    def _advice(self) -> str:
        kept = "" if self.path is None or not self.path.is_file() else f"; the last good state is in {self.path}"
        return f"lower learning_rate or raise warmup in the recipe, or set clip or precision = 'fp32'{kept}"


def learning_rate(stage: GradientStage, step: int) -> float:
    """Return the rate of step `step`, from 0: linear warm-up, then cosine to 0 or constant."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    if stage.schedule == "constant":
        return stage.learning_rate
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.learning_rate * float(0.5 * (1 + np.cos(np.pi * min(1.0, done))))


def trained_parameters(
    network: DelfNetwork, stage: GradientStage, losses: nn.ModuleList
) -> tuple[list[str], list[Tensor]]:
    """Return names and parameters that a stage trains: its parts of the network, then those of its losses."""
    trunk: Any = network.trunk
    modules: dict[str, list[tuple[str, nn.Module]]] = {
        "trunk": [("trunk", trunk)],
        "layer3": [("trunk.layer3", trunk.layer3), ("trunk.layer4", trunk.layer4)],
        "attention": [("attention", network.attention)],
        "global": [("global_layer", network.global_layer)] if network.global_layer is not None else [],
    }
    found: dict[str, Tensor] = {}
    for part in stage.train:
        for prefix, module in modules.get(part, ()):
            found.update({f"{prefix}.{name}": p for name, p in module.named_parameters()})
    if "projection" in stage.train:  # a buffer: elsewhere it is fitted, not trained
        found["projection.components"] = network.projection.components
    found.update({f"losses.{name}": p for name, p in losses.named_parameters()})
    return list(found), list(found.values())


def _optimiser(stage: GradientStage, names: Sequence[str], parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Parts of the network first, then parameters of the losses, each with its share of the learning rate."""
    own = [p for name, p in zip(names, parameters, strict=True) if name.startswith("losses.")]
    network = [p for name, p in zip(names, parameters, strict=True) if not name.startswith("losses.")]
    groups = [{"params": network, "share": 1.0}, {"params": own, "share": stage.loss_rate}]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay}
    if stage.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=stage.momentum, **options)
    return torch.optim.AdamW(groups, **options)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that a step is never left half done; the second one interrupts."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
