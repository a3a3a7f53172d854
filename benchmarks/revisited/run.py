"""One run on a revisited set, from photographs to tables: what roxford.py and rparis.py do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from benchmarks.common import write_json
from benchmarks.revisited.candidates import Candidates, Gallery, codebook_of, of_index, of_shortlist
from benchmarks.revisited.features import FeatureFile, Stores, Views, all_of, extracted, key_of
from benchmarks.revisited.inputs import TITLES, Inputs, restricted
from benchmarks.revisited.methods import Measured, unverified, verified
from benchmarks.revisited.options import arguments
from benchmarks.revisited.report import markdown, read_result, write_benchmark_page
from benchmarks.revisited.result import result_of
from benchmarks.revisited.sources import Source, distractor_photographs, source_of, words_source
from benchmarks.revisited.stages import Stages
from benchmarks.systems import PEERS, System, model_system, peer_system
from delf_engine import Codebook, LocalFeatures, load_profile
from delf_engine.errors import ConfigError, DataError, DelfEngineError, ImageError, MismatchError
from delf_engine.evaluation import GroundTruth
from delf_engine.images import Box, ImageSource
from delf_engine.storage import FeatureStore

__all__ = ["main", "run"]

#: A title and photographs by name, or None where words need none.
WordsSource: TypeAlias = "tuple[str, Mapping[str, Path]] | None"

_WORDS, _SYNTHETIC_WORDS = 65_536, 16_384
_KINDS = {"asmk": "ASMK", "kdtree": "KD-tree", "ivf": "IVF"}
_FLANN_IMAGES = 50_000  # more, and KD-trees fill the memory of a small machine


def main(name: str) -> None:
    """Run on the set `name` as the command line says; errors of the package are one line."""
    args = arguments(name, TITLES[name])
    try:
        run(name, args)
    except DelfEngineError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written
        Console(stderr=True).print(
            f"error: {error}; what is done is kept below {args.work}, the same command goes on from there",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command goes on from there", highlight=False)
        sys.exit(130)


def run(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all systems; write JSON, Markdown and HTML; return what the JSON holds."""
    stages = Stages(args.work / "stages.json")
    with Stores(args.work) as stores:
        source = source_of(name, args, stores, stages)
        measurement = _Run(name, args, source, stores, stages)
        result = measurement.result()
    _write(args.out or args.work / source.inputs.name, result, measurement.photograph)
    return result


@dataclass(frozen=True)
class _Ready:
    """A system whose features are there.

    Attributes
    ----------
    system : System
    features, queries, distractors :
        Of the gallery, of the cropped queries, and of what was added to the gallery.
    """

    system: System
    features: FeatureFile
    queries: FeatureFile
    distractors: FeatureFile | None


class _Run:
    """What one run has found so far."""

    def __init__(
        self, name: str, args: argparse.Namespace, source: Source, stores: Stores, stages: Stages
    ) -> None:
        self.name = name
        self.args = args
        self.source = source
        self.stores = stores
        self.stages = stages
        self.notes: list[str] = []
        self.configuration: dict[str, Any] = {}
        self.measured: list[Measured] = []
        self.added = distractor_photographs(args)

    def photograph(self, name: str) -> Path:
        """Return the photograph of an image or query, for the report."""
        found = self.source.inputs.images.get(name) or self.added.get(name)
        if found is None:
            raise ImageError(name, "no photograph: features were given")
        return found

    def result(self) -> dict[str, Any]:
        """Do everything, features first; return the result."""
        for path in self.args.shortlist:  # what is wrong with them is to be said before hours of work
            of_shortlist(path, self.source.inputs.truth, self.source.inputs.whole)
        systems = _systems(self.args, self.source)
        words = None if self._words_are_there() else words_source(self.name, self.source, self.args, self.stages)
        ready = [self._ready(system) for system in systems]
        inputs = self._readable(ready)
        read = [each.distractors.ids for each in ready if each.distractors is not None]
        names = [name for name in (read[0] if read else ()) if all(name in ids for ids in read)]
        truth = replace(inputs.truth, names=(*inputs.truth.names, *names))
        for each in ready:
            trimmed = _Ready(
                each.system,
                each.features.only(inputs.truth.names),
                each.queries.only(inputs.truth.query_names),
                each.distractors.only(names) if each.distractors is not None and names else None,
            )
            self._measure(trimmed, inputs, truth, words, prefix=f"{each.system.name}: " if len(ready) > 1 else "")
        return result_of(
            inputs,
            truth,
            self.measured,
            configuration=self.configuration,
            stages=self.stages.to_list(),
            notes=self.notes,
            seed=self.args.seed,
        )

    def _words_are_there(self) -> bool:
        """Whether no photograph is needed for words: none are trained, or features are given."""
        given_ = self.args.codebook == "shipped" or Path(self.args.codebook).suffix == ".safetensors"
        return given_ or not (set(self.args.candidates) - {"kdtree"}) or _is_store(Path(self.args.codebook))

    def _ready(self, system: System) -> _Ready:
        source, inputs = self.source, self.source.inputs
        distractors = self._distractors(system)
        if source.features is not None and source.query_features is not None:
            return _Ready(system, source.features, source.query_features, distractors)
        gallery = Views(inputs.name, {name: inputs.images[name] for name in inputs.truth.names})
        asked = {name: inputs.images[name] for name in inputs.truth.query_names}
        boxes = dict(zip(asked, inputs.truth.boxes.tolist(), strict=True))
        features, _ = extracted(self.stores, system, inputs.name, gallery, self.stages)
        queries, _ = extracted(
            self.stores, system, inputs.name, Views(f"queries of {inputs.name}", asked, boxes), self.stages
        )
        return _Ready(system, features, queries, distractors)

    def _distractors(self, system: System) -> FeatureFile | None:
        if self.args.distractors is None:
            return None
        if _is_store(Path(self.args.distractors)):
            own = self.source.features
            model = system.identity if own is None else own.store.model  # a store may name none
            store = self.stores.given(Path(self.args.distractors), (system.dim, model))
            return all_of(store, prefix="distractors/")
        what = f"distractors-{Path(self.args.distractors).name}"
        views = Views(f"{len(self.added):,} distractors", self.added)
        found, failed = extracted(self.stores, system, what, views, self.stages)
        if failed:
            self.notes.append(f"{len(failed):,} distractors could not be read")
        return found

    def _readable(self, ready: Sequence[_Ready]) -> Inputs:
        """Return the inputs without the photographs that some system could not read."""
        inputs = self.source.inputs
        images = [n for n in inputs.truth.names if any(n not in each.features.ids for each in ready)]
        queries = [n for n in inputs.truth.query_names if any(n not in each.queries.ids for each in ready)]
        if (images or queries) and not self.args.allow_missing:
            raise DataError(
                f"{len(images) + len(queries)} images cannot be read, such as {(images + queries)[0]}; replace "
                "them, or say --allow-missing to restrict the protocol to the others. What is extracted is kept"
            )
        return restricted(inputs, images, queries) if images or queries else inputs

    def _measure(
        self, ready: _Ready, inputs: Inputs, truth: GroundTruth, words: WordsSource, *, prefix: str
    ) -> None:
        system, args = ready.system, self.args
        needs_words = bool(set(args.candidates) - {"kdtree"})
        path, trained_on = self._codebook(system, words) if needs_words else (None, None)
        codebook = None if path is None else Codebook.load(path)
        gallery = Gallery(ready.features, ready.distractors)
        for candidates in self._candidates(ready, codebook, gallery, inputs, truth, prefix):
            self.measured.append(unverified(candidates, truth))
            self.measured.append(
                verified(
                    candidates,
                    truth,
                    ready.queries,
                    gallery,
                    system.profile,
                    top_n=args.verify,
                    junk=args.junk,
                    journals=args.work / "verified",
                    seed=args.seed,
                    workers=args.workers,
                    stages=self.stages,
                )
            )
        self.configuration[system.name] = {
            "features": system.identity,
            "images": key_of(*ready.features.ids.values()),
            "queries": key_of(*ready.queries.ids.values()),
            "codebook": None
            if codebook is None
            else {
                "path": None if path is None else Path(path).name,
                "trained_on": trained_on,
                "hash": codebook.hash,
                "words": codebook.words,
            },
            "verified": args.verify,
            "junk taken out": f"{args.junk} the cut",
            "seed": args.seed,
            "profile": system.profile.model_dump(mode="json"),
        }

    def _candidates(
        self,
        ready: _Ready,
        codebook: Codebook | None,
        gallery: Gallery,
        inputs: Inputs,
        truth: GroundTruth,
        prefix: str,
    ) -> Iterator[Candidates]:
        for kind in self.args.candidates:
            if kind == "kdtree" and len(gallery) > _FLANN_IMAGES:
                self.notes.append(f"no KD-trees over {len(gallery):,} images: they would not fit into memory")
                continue
            yield of_index(
                kind,
                codebook,
                ready.system.profile,
                gallery,
                ready.queries,
                truth,
                name=f"{prefix}{_KINDS[kind]}",
                folder=self.args.work / "index",
                top_n=self.args.verify,
                seed=self.args.seed,
                stages=self.stages,
                threads=self.args.workers,
            )
        for path in self.args.shortlist:
            found = of_shortlist(path, truth, inputs.whole)
            yield replace(found, name=f"{prefix}{found.name}")

    def _codebook(self, system: System, words: WordsSource) -> tuple[Path, str]:
        """Return the words of a system, and what they were trained on."""
        which, count = self.args.codebook, self.args.words
        if which == "shipped":
            if system.codebook is None:
                raise ConfigError(f"{system.name} comes with no codebook; leave out --codebook, or name another")
            return system.codebook, "comes with the checkpoint"
        if Path(which).suffix == ".safetensors":
            return Path(which), "given"
        if words is None:
            features = all_of(self.stores.given(Path(which)))
            title = Path(which).name
        else:
            title, photographs = words
            features, _ = extracted(self.stores, system, title, Views(title, photographs), self.stages)
        path = codebook_of(
            features,
            count or (_SYNTHETIC_WORDS if self.args.synthetic else _WORDS),
            per_image=self.args.codebook_features,
            seed=self.args.seed,
            folder=self.args.work / "codebooks",
            title=f"{system.name}: words of {title}",
            stages=self.stages,
        )
        return path, f"{len(features.ids):,} photographs of {title}"


def _systems(args: argparse.Namespace, source: Source) -> list[System]:
    """Load the models, all of them before any is run; features that are given need none."""
    if source.features is not None:
        store = source.features.store
        profile = load_profile(args.profile or "default")
        shipped = _shipped_words(args.model[0], store) if args.codebook == "shipped" else None
        identity = store.model or str(args.features)
        return [System(args.features.name, identity, store.dim, _no_model, profile, shipped)]
    systems = []
    for model in args.model:
        if model in PEERS:
            systems.append(peer_system(model, args.profile, args.weights or Path("weights")))
        else:
            systems.append(
                model_system(model, name=Path(model).stem, profile=args.profile, precision=args.precision)
            )
    doubled = {s.name for s in systems if [t.name for t in systems].count(s.name) > 1}
    return [replace(s, name=m) if s.name in doubled else s for s, m in zip(systems, args.model, strict=True)]


def _shipped_words(model: str, store: FeatureStore) -> Path | None:
    """Return the words that come with a checkpoint, if the features are its own.

    Raises
    ------
    MismatchError
        If the store says that they are of another model.
    """
    from delf_engine.model import codebook_path, read_checkpoint_info

    wanted = read_checkpoint_info(model).identity
    if store.model and not store.model.startswith(wanted):
        raise MismatchError(
            f"{store.path}: holds features of {store.model.split()[0]}, and --codebook shipped means the words of "
            f"{wanted}; name their checkpoint with --model, or another --codebook"
        )
    return codebook_path(model)


def _no_model(image: ImageSource, *, box: Box | None = None) -> LocalFeatures:
    raise ConfigError("--features are given: there is no model to extract others with; name a --codebook file")


def _is_store(path: Path) -> bool:
    return (path / "data.mdb").is_file()


def _write(out: Path, result: dict[str, Any], photograph: Callable[[str], Path]) -> None:
    """Write the three files, and print the tables."""
    out.parent.mkdir(parents=True, exist_ok=True)
    ending = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("json", "md", "html")}
    write_json(ending["json"], result)
    written = read_result(ending["json"])
    text = markdown(written)
    ending["md"].write_text(text, encoding="utf-8")
    write_benchmark_page(ending["html"], written, images=photograph)
    print(text)
