"""One run of a recipe: its network from stage to stage."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from delf_engine.config import load_profile
from delf_engine.errors import ConfigError, ImageError
from delf_engine.extraction import Extractor
from delf_engine.model.device import choose_device
from delf_engine.model.network import AttentionHead, DelfNetwork, GlobalLayer
from delf_engine.training.batches import START, Forward, StageFacts, Teacher, TeacherContext
from delf_engine.training.config import GradientStage, Stage, TrainingConfig, teacher_names, with_teacher
from delf_engine.training.contract import Loss, Source, SourceContext
from delf_engine.training.global_head import fit_head, start_layer
from delf_engine.training.losses.match import MatchOptions
from delf_engine.training.options import Reports, RunOptions, autocast_dtype, deterministic
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import PcaStage, fit_projection, spread
from delf_engine.training.registry import LOSSES, SOURCES, build_teacher, find, teacher_file
from delf_engine.training.retrieval import global_map, match_precision, retrieval_map
from delf_engine.training.sources.views import photo_items
from delf_engine.training.stores import Encoder, Stores, ViewStore, fingerprint
from delf_engine.training.trainer import GradientRun
from delf_engine.training.weights import load_trunk
from delf_engine.training.work import Snapshot, Work, chained_key, file_digest, photographs_key

_MEASURED = 128  # held-out photographs that the retrieval figure looks at, at most


class Run:
    """A recipe at work on some photographs, in `work`, which is entered.

    With a `sample` only so many items of each store are rendered, to plan with; torchvision's weights are not
    fetched.
    """

    def __init__(
        self,
        config: TrainingConfig,
        photographs: Photographs,
        options: RunOptions,
        reports: Reports,
        work: Work,
        *,
        sample: int | None = None,
    ) -> None:
        if options.teacher is not None:
            config = with_teacher(config, options.teacher)
        head = config.global_head
        learns = head is not None and head.pairs(options.pairs) is not None
        draws = any(stage.source.kind == "mined" for stage in config.gradient_stages)
        if options.pairs is not None and not draws and not learns:
            raise ConfigError(
                f"{options.pairs}: recipe {config.name} draws no mined pairs; "
                "take one that does, such as delf_self"
            )
        self.config, self.photographs, self.options, self.work = config, photographs, options, work
        self.reports, self.seed = replace(reports, error=_once(reports.error)), options.seed
        self.sample = sample
        self.device = choose_device(options.device)
        self.stores = Stores(
            limit=int(options.cache_gb * 1e9),
            folder=work.cache,
            workers=options.workers,
            on_error=self.reports.error,
            progress=lambda name, done, total: reports.progress(name, done, total, None),
            sample=sample,
        )
        self.fitted = self.attends = self.pools = False
        self.history: dict[str, list[tuple[int, Mapping[str, float]]]] = {}

    def run(self, trunk_weights: Any) -> dict[str, float]:
        """Run all stages and return the final figures; stages that `work` holds are taken from there."""
        with deterministic(self.device):
            self.start(trunk_weights)
            key = chained_key("", *self._facts())
            for number, stage in enumerate(self.config.stages):
                if isinstance(stage, GradientStage) and stage.steps == 0:
                    continue
                key = chained_key(key, number, stage.model_dump(mode="json"), *self._stage_facts(stage))
                self._stage(number, stage, key)
            figures = self._final_figures()
        self.stores.close()
        return figures

    def start(self, trunk_weights: Any) -> None:
        """Build the network that the first stage begins with."""
        config = self.config
        start = config.trunk if trunk_weights is None else trunk_weights
        trunk = load_trunk(config.architecture, start, trained=self.sample is None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = DelfNetwork(
                config.architecture,
                config.dim,
                hidden=config.attention.hidden,
                norm_weighted=config.attention.norm_weighted,
                trunk=trunk,
            )
            if "global" in config.trained and config.global_head is not None:
                network.global_layer = GlobalLayer(network.trunk.channels, config.global_head.dim)
        _round_trunk(network)
        self.network = network.requires_grad_(False).eval().to(self.device).to(memory_format=torch.channels_last)

    def _facts(self) -> tuple[object, ...]:
        """Return what every stage's result depends on."""
        unused = {"stages", "codebook", "name", "profile", "trunk"}  # the trunk itself is in the key
        if "global" not in self.config.trained:
            unused.add("global_head")
        config = self.config.model_dump(mode="json", exclude=unused)
        labelled = self.photographs.labelled
        return (
            config,
            self.seed,
            torch.__version__,
            self.device.type,
            fingerprint(self.network.trunk),
            photographs_key(self.photographs.held_in),
            photographs_key(self.photographs.held_out),
            *(() if labelled is None else (labelled.key,)),
        )

    def _stage_facts(self, stage: Stage) -> tuple[object, ...]:
        dtype = str(self.dtype(stage))
        if isinstance(stage, PcaStage):
            return (dtype,)
        teachers = {name: file_digest(teacher_file(name)) for name in teacher_names([stage])}
        paired = stage.source.kind == "mined" or "global" in stage.train
        pairs = {"pairs": file_digest(self.options.pairs)} if paired else {}
        return (dtype, teachers, pairs)

    def dtype(self, stage: Stage) -> torch.dtype:
        """Return the type that the trunk computes in."""
        return autocast_dtype(self.options.precision or stage.precision, self.device)

    def _stage(self, number: int, stage: Stage, key: str) -> None:
        """Run one stage, or take its result from disk."""

        def compute() -> Snapshot:
            if isinstance(stage, PcaStage):
                self._fit(stage)
                history: list[tuple[int, dict[str, float]]] = []
            else:
                history = self._train(number, stage, key)
            flags = {"fitted": self.fitted, "attends": self.attends, "pools": self.pools}
            values = {**flags, "history": history}
            return Snapshot(dict(self.network.state_dict()), values)

        result = self.work.once(stage.name, key, compute)
        self.network.load_state_dict(result.tensors)
        self.fitted, self.attends = bool(result.values["fitted"]), bool(result.values["attends"])
        self.pools = bool(result.values.get("pools", False))  # not stated by earlier versions
        if result.values["history"]:
            self.history[stage.name] = [(int(step), figures) for step, figures in result.values["history"]]

    def _fit(self, stage: PcaStage) -> None:
        if stage.select == "attention" and not self.attends:
            raise ConfigError(
                f"stage {stage.name}: select = 'attention', but no stage before it trains the attention"
            )
        projection = fit_projection(
            self.photographs.held_in,
            self.network,
            stage,
            device=self.device,
            dtype=self.dtype(stage),
            workers=self.options.workers,
            progress=lambda done, total: self.reports.progress(stage.name, done, total, None),
        )
        self.network.projection.load_state_dict(projection.state_dict())
        self.fitted = True

    def _fit_global(self) -> None:
        """Begin the global descriptor as it is fitted to the network as it is now."""
        config, layer = self.config.global_head, self.network.global_layer
        assert config is not None, "the recipe was checked"
        assert layer is not None, "made at the start"
        extractor = Extractor(self.network, load_profile(self.config.profile).extraction, device=str(self.device))
        head = fit_head(
            extractor,
            self.photographs.held_in,
            config,
            config.pairs(self.options.pairs),
            lambda done, total: self.reports.progress("global vectors", done, total, None),
            self.reports.error,
        )
        start_layer(layer, head)
        self.pools = True

    def _train(self, number: int, stage: GradientStage, key: str) -> list[tuple[int, dict[str, float]]]:
        if "projection" in stage.train and not self.fitted:
            raise ConfigError(f"stage {stage.name}: trains the projection: put a pca stage before it")
        if "global" in stage.train and not self.pools:
            self._fit_global()
        run = self.prepare(number, stage, self.work.running(stage.name, key))
        before = [parameter.detach().clone() for parameter in run.parameters]
        run.run()
        with torch.no_grad():
            for parameter, old in zip(run.parameters, before, strict=True):
                parameter.lerp_(old, stage.keep)
        self.attends = self.attends or "attention" in stage.train
        # What will be shipped in half precision: later stages, PCA and figures see the rounded trunk.
        _round_trunk(self.network)
        return run.history

    def prepare(self, number: int, stage: GradientStage, path: Path | None) -> GradientRun:
        """Build what a gradient stage needs; `path` is for its state."""
        dtype, seed = self.dtype(stage), self.seed * 1000 + number
        teachers = self._teachers(stage, dtype)
        start = None
        if any(START in loss.teachers for loss in stage.losses):
            start = copy.deepcopy(self.network.trunk).requires_grad_(False)
        self.stores.begin(Encoder(self.network.trunk, stage.level, teachers, self.device, dtype, start))
        source: Source = SOURCES[stage.source.kind](stage.source, self._source_context(stage, seed))
        channels = {START: self.network.trunk.channels, **{name: t.channels for name, t in teachers.items()}}
        facts = StageFacts(source.kind, source.n_classes, self.fitted, frozenset(stage.train), channels)
        attends = self.attends or "attention" in stage.train
        measured = Forward(self.network, self.fitted, seed, self.device, dtype)
        held_out = self._held_out_store()

        def evaluate() -> dict[str, float]:
            figures = {"held-out retrieval mAP": retrieval_map(held_out, measured, self._scores(attends))}
            if "global" in stage.train:
                figures["held-out global mAP"] = global_map(held_out, measured)
            return figures

        return GradientRun(
            stage,
            self.network,
            source,
            build_losses(stage, self.network, facts, seed),
            replace(measured, trains=stage.train, teachers=teachers, start=start),
            evaluate=evaluate,
            path=path,
            checkpoint_seconds=self.options.checkpoint_seconds,
            checkpoint_steps=self.options.checkpoint_steps,
            reports=self.reports,
        )

    def _teachers(self, stage: GradientStage, dtype: torch.dtype) -> dict[str, Teacher]:
        def progress(done: int, total: int) -> None:
            self.reports.progress("PCA of the teacher", done, total, None)

        context = TeacherContext(self.photographs.held_in, self.device, dtype, progress)
        return {name: build_teacher(name, context) for name in teacher_names([stage])}

    def _source_context(self, stage: GradientStage, seed: int) -> SourceContext:
        return SourceContext(
            photos=self.photographs.held_in,
            held_out=self.photographs.held_out,
            labelled=self.photographs.labelled,
            seed=seed,
            run_seed=self.seed,
            views=self.config.views,
            batch=stage.batch,
            workers=self.options.workers,
            stores=self.stores,
            pairs=self.options.pairs,
            on_error=self.reports.error,
        )

    def _held_out_store(self) -> ViewStore:
        chosen = spread(self.photographs.held_out, _MEASURED)
        items = photo_items(chosen, self.config.views, self.seed + 1)
        return self.stores.open("held-out views", items, teachers=False)

    def _scores(self, attends: bool) -> Callable[[Tensor], Tensor]:
        head = self.network.attention
        return head if attends else (lambda features: features.norm(dim=1))

    def _final_figures(self) -> dict[str, float]:
        """Measure the finished network on the held-out photographs."""
        dtype = autocast_dtype(self.options.precision or "auto", self.device)
        self.stores.begin(Encoder(self.network.trunk, "conv4", {}, self.device, dtype))
        store = self._held_out_store()
        forward = Forward(self.network, self.fitted, self.seed, self.device, dtype)
        options = _match_options(self.config)
        figures = {"held-out retrieval mAP": retrieval_map(store, forward, self._scores(self.attends))}
        for name, attends in (("norm", False), ("attention", True)):
            if attends and not self.attends:
                continue
            figures[f"held-out match precision of the better half, by {name}"] = match_precision(
                store, forward, self._scores(attends), options, seed=self.seed
            )
        for history in self.history.values():
            figures.update({k: v for k, v in history[-1][1].items() if k not in figures})
        return figures


def build_losses(stage: GradientStage, network: DelfNetwork, facts: StageFacts, seed: int) -> list[Loss]:
    """Build the losses of a stage, their first weights from the seed.

    A `ConfigError` if one cannot work in this stage; it names the stage.
    """
    if "attention" in stage.train and not isinstance(network.attention, AttentionHead):
        raise ConfigError(f"stage {stage.name}: this network has no attention head to train")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return [find(LOSSES, "loss", options.kind)(options, network, facts) for options in stage.losses]
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from error


def _once(report: Callable[[str, ImageError], None]) -> Callable[[str, ImageError], None]:
    """Report each photograph the first time only: later batches and stages read it again."""
    seen: set[str] = set()

    def first(path: str, error: ImageError) -> None:
        if path not in seen:
            seen.add(path)
            report(path, error)

    return first


def _match_options(config: TrainingConfig) -> MatchOptions:
    for stage in config.stages:
        for loss in stage.losses if isinstance(stage, GradientStage) else ():
            if isinstance(loss, MatchOptions):
                return loss
    return MatchOptions(kind="match")


def _round_trunk(network: DelfNetwork) -> None:
    with torch.no_grad():
        for parameter in network.trunk.parameters():
            parameter.copy_(parameter.half().float())
