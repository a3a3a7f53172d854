"""What all indexes owe their callers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from helpers import raises, random_features
from index.kinds import IMAGES, NAMES, OTHER_CODEBOOK, OTHER_MIXTURE, QUERY, VARIANTS, Kind, assert_same


def test_repeated_is_an_index_to_which_all_were_added_again(kind: Kind) -> None:
    index = kind.new()
    index.add(NAMES[:3], [IMAGES[name] for name in NAMES[:3]])
    index.remove(NAMES[1:2])
    many, left = kind.new(), [NAMES[0], NAMES[2]]
    for number in ("", "1 ", "2 "):
        many.add([number + name for name in left], [IMAGES[name] for name in left])
    assert_same(index.repeated(3), many)
    assert index.ids() == left


def test_add_and_remove(kind: Kind) -> None:
    index = kind.new()
    assert index.add(NAMES[:2], [IMAGES[n] for n in NAMES[:2]]) == NAMES[:2]
    assert index.add([*NAMES[:3], NAMES[2]], [IMAGES[NAMES[4]]] * 4) == NAMES[2:3]
    assert index.ids() == NAMES[:3]
    assert index.add([], []) == []
    assert (len(index), index.dim) == (3, 8)
    assert NAMES[0] in index
    assert "nobody" not in index
    assert None not in index
    with raises(UnknownIdError, "nobody"):
        index.remove([NAMES[0], "nobody"])
    assert len(index) == 3
    index.search(QUERY, 1)
    index.remove([NAMES[1], NAMES[1]])
    with pytest.raises(UnknownIdError):
        index.remove([NAMES[1]])
    index.add(NAMES[1:2], [IMAGES[NAMES[1]]])
    assert index.ids() == [NAMES[0], NAMES[2], NAMES[1]]
    info = index.info()
    assert (info.kind, info.images, info.removed, info.segments, info.dim) == (kind.name, 3, 1, 2, 8)
    assert info.to_dict()["images"] == 3


def test_an_index_takes_another_behind_its_own(kind: Kind, tmp_path: Path) -> None:
    index, other, wanted = kind.new(), kind.new(), kind.new()
    index.add(NAMES[:2], [IMAGES[name] for name in NAMES[:2]])
    other.add(NAMES[2:], [IMAGES[name] for name in NAMES[2:]])
    other.remove(NAMES[3:4])
    other.save(tmp_path / "other")
    index.extend(kind.load(tmp_path / "other"))
    kept = [*NAMES[:3], *NAMES[4:]]
    wanted.add(kept, [IMAGES[name] for name in kept])
    assert_same(index, wanted)
    index.save(tmp_path / "joined")
    assert_same(kind.load(tmp_path / "joined"), wanted)
    with raises(MismatchError, NAMES[2]):
        index.extend(other)
    assert_same(index, wanted)


def test_empty_cases(kind: Kind, tmp_path: Path) -> None:
    index = kind.new()
    for stage in range(2):
        ids, scores = index.search(QUERY, 5)
        assert (ids, scores.shape, scores.dtype) == ([], (0,), np.float32)
        index.save(tmp_path)
        assert len(kind.load(tmp_path)) == stage
        if stage == 0:
            index.add(["empty"], [LocalFeatures.empty((5, 5), 8)])
    index.add(NAMES, list(IMAGES.values()))
    assert index.search(LocalFeatures.empty((5, 5), 8), 5)[0] == []
    assert index.search_many([], 5) == []
    everything = index.search(QUERY, 10**9)[0]
    assert len(everything) == len(set(everything)) <= len(index)
    assert index.search(QUERY, np.int64(2))[0] == everything[:2]
    index.remove(index.ids())
    assert index.search(QUERY, 5)[0] == []
    index.save(tmp_path)
    assert kind.load(tmp_path).ids() == []


NARROW = random_features(np.random.default_rng(0), 2, 9)
BAD: list[tuple[type[Exception], tuple[str, ...], Callable[[Any], object]]] = [
    *((ConfigError, ("top_k",), lambda index, k=k: index.search(QUERY, k)) for k in (0, -1, 1.5, None)),
    (ConfigError, ("top_k",), lambda index: index.search_many([], 0)),
    (MismatchError, ("query", "9", "8"), lambda index: index.search(NARROW, 5)),
    (MismatchError, ("query 1", "9", "8"), lambda index: index.search_many([QUERY, NARROW], 5)),
    (FeatureError, ("query", "ndarray"), lambda index: index.search(QUERY.descriptors, 5)),
    (ConfigError, ("queries",), lambda index: index.search_many(QUERY, 5)),
    (ConfigError, ("2", "1"), lambda index: index.add(["x", "y"], [QUERY])),
    (ConfigError, ("''",), lambda index: index.add(["x", ""], [QUERY, QUERY])),
    (ConfigError, ("'x'",), lambda index: index.add("x", [QUERY])),
    (ConfigError, ("'x'",), lambda index: index.remove("x")),
    (MismatchError, ("y", "9"), lambda index: index.add(["x", "y"], [QUERY, NARROW])),
    (FeatureError, ("x", "NoneType"), lambda index: index.add(["x"], [None])),
    (ConfigError, ("threads",), lambda index: index.add([], [], threads=0)),
    *(
        (ConfigError, ("threads",), lambda index, n=n: index.search_many([QUERY], 5, threads=n))
        for n in (0, -1, 1.5, True, "2")
    ),
    *(
        (ConfigError, ("min_score", repr(v)), lambda index, v=v: index.search(QUERY, 5, min_score=v))
        for v in (float("nan"), float("inf"), "1", True, 1j)
    ),
    *(
        (ConfigError, (fact,), lambda index, o=option, v=value: index.search(QUERY, 5, **{o: v}))
        for option in ("among", "exclude")
        for fact, value in (("image 0", "image 0"), ("None", [None]))
    ),
]


def test_bad_arguments(kind: Kind) -> None:
    index = kind.of(NAMES)
    for error, facts, call in BAD:
        with raises(error, *facts):
            call(index)
    assert index.ids() == NAMES


def test_save_writes_what_is_new(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES[:3])
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), index)

    def written() -> dict[Path, int]:
        # Taking the lock may touch its file, that depends on the version of filelock.
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.name != ".lock"}

    before = written()
    index.save(tmp_path)
    assert written() == before
    loaded = kind.load(tmp_path)
    loaded.add(NAMES[3:], [IMAGES[n] for n in NAMES[3:]])
    loaded.remove([NAMES[0]])
    loaded.save(tmp_path)
    first = tmp_path / "segment-00000001"
    assert all(
        file.stat().st_mtime_ns == at for file, at in before.items() if file.is_file() and file.parent == first
    )
    assert loaded.info().segments == 2
    assert_same(kind.load(tmp_path), kind.of(NAMES[1:]))
    loaded.remove([NAMES[2]])  # two thirds of the first segment are gone: it is rewritten
    loaded.save(tmp_path)
    assert loaded.info().removed == 0
    assert not first.exists()
    assert_same(kind.load(tmp_path), kind.of([NAMES[1], *NAMES[3:]]))


def test_many_small_saves_are_merged(kind: Kind, tmp_path: Path) -> None:
    index = kind.new()
    wanted = kind.new()
    for i in range(25):
        name, image = f"{i} é", IMAGES[NAMES[i % 8]]
        index.add([name], [image])
        wanted.add([name], [image])
        if i % 3 == 0:
            index.remove([name])
            wanted.remove([name])
        index.save(tmp_path)
        assert index.info().segments <= 8
    assert len(list(tmp_path.glob("segment-*"))) == index.info().segments
    assert_same(index, wanted)
    assert_same(kind.load(tmp_path), wanted)


def test_adding_and_searching_in_turns(kind: Kind) -> None:
    index = kind.new()
    for name in 3 * NAMES:
        index.add([name], [IMAGES[name]])
        index.search(QUERY, 2)
        if name in NAMES[::3]:
            index.remove([name])
    assert index.info().segments <= 9
    order = [n for n in NAMES if n not in NAMES[::3]]
    assert_same(index, kind.of(order))
    index.remove(order)
    for name in NAMES:
        index.search(QUERY, 2)
        index.add([name], [IMAGES[name]])
    assert_same(index, kind.of(NAMES))


def test_save_to_another_place(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES[:4])
    index.save(tmp_path / "a")
    index.remove([NAMES[1]])
    index.save(tmp_path / "b" / "c")
    assert_same(kind.load(tmp_path / "a"), kind.of(NAMES[:4]))
    assert_same(kind.load(tmp_path / "b" / "c"), index)
    with raises(MismatchError, str(tmp_path / "a")):
        kind.of(NAMES).save(tmp_path / "a")
    kind.of(NAMES).save(tmp_path / "a", overwrite=True)
    assert_same(kind.load(tmp_path / "a"), kind.of(NAMES))
    other = Kind("asmk" if kind.name == "kdtree" else "kdtree")
    with raises(MismatchError, str(tmp_path / "a")):
        other.of(NAMES).save(tmp_path / "a")
    with raises(FormatError, repr(kind.name), repr(other.name)):
        other.load(tmp_path / "a")
    other.of(NAMES).save(tmp_path / "a", overwrite=True)
    assert_same(other.load(tmp_path / "a"), other.of(NAMES))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "asmk idf"])
def test_images_find_themselves_first_and_ties_keep_the_order_of_insertion(name: str) -> None:
    kind = Kind(name)
    if name == "asmk":  # of more words an image needs not be the nearest to itself
        kind.config = kind.changed(query_assignments=1)
    index = kind.of(NAMES)
    for image_id, image in IMAGES.items():
        if len(image) > 2:
            assert index.search(image, 1)[0] == [image_id]
    same, image = NAMES[3], IMAGES[NAMES[3]]
    index.add(["b", "a"], [image, image])
    assert index.search(image, 3)[0] == [same, "b", "a"]
    index.remove([same])
    index.add([same], [image])
    assert index.search(image, 3)[0] == ["b", "a", same]


@pytest.mark.parametrize("name", ["kdtree", "kdtree randomised", "ivf", "ivf pq"])
def test_removed_images_take_no_neighbours_from_the_rest(name: str) -> None:
    image, names, kind = IMAGES[NAMES[0]], [str(i) for i in range(40)], Kind(name)
    kind.config = kind.config.model_copy(update={"neighbours": 5})
    index = kind.new()
    index.add(names, [image] * 40)
    assert len(index.search(image, 50)[0]) == 5 or name == "kdtree randomised"
    index.remove(names[:38])
    assert set(index.search(image, 50)[0]) == {"38", "39"}


@pytest.mark.parametrize("name", ["asmk", "vlad"])
def test_regions_are_of_indexed_images_only(tmp_path: Path, name: str) -> None:
    plain, regional = Kind(name), Kind(name)
    regional.config = plain.changed(regions="grid")
    with_regions = regional.of(NAMES)
    assert with_regions.info().bytes == plain.of(NAMES).info().bytes
    with_regions.save(tmp_path)
    assert_same(regional.load(tmp_path), with_regions)
    ids, scores = with_regions.search(IMAGES[NAMES[4]], 9)
    assert (ids[0], 0.3 < scores[0] < 0.999) == (NAMES[4], True)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("asmk", "image_assignments", 2),
        ("asmk", "regions", "grid"),
        ("ivf pq", "codec", "uint8"),
        ("vlad", "power", 0.25),
        ("vlad", "intra", True),
        ("vlad", "regions", "grid"),
        ("fisher", "power", 1.0),
    ],
)
def test_options_that_indexed_images_depend_on_are_kept(
    tmp_path: Path, name: str, option: str, value: object
) -> None:
    kind = Kind(name)
    kind.of(NAMES).save(tmp_path)
    with raises(MismatchError, str(tmp_path), f"{option} = {getattr(kind.config, option)}", f"{value}"):
        kind.load(tmp_path, config=kind.changed(**{option: value}))


@pytest.mark.parametrize("name", VARIANTS)
def test_words_are_kept_and_options_of_searches_are_not(tmp_path: Path, name: str) -> None:
    kind = Kind(name)
    index = kind.of(NAMES)
    index.save(tmp_path)
    assert kind.load(tmp_path).config == index.config
    free = {"asmk": {"alpha": 2.0}, "bow": {"query_assignments": 3, "idf": False}, "ivf": {"probes": 9}}
    other = index.config.model_copy(update=free.get(kind.name, {}))
    assert kind.load(tmp_path, config=other).config == other
    if kind.encoder is not None:
        words = OTHER_MIXTURE if kind.name == "fisher" else OTHER_CODEBOOK
        if name != "ivf pq":  # which takes no codebook as small
            with raises(MismatchError, kind.encoder.hash[:8], words.hash[:8]):
                type(index).load(tmp_path, words)
        assert repr(kind.encoder) in repr(index)
    assert "(8 images" in repr(index) or kind.name in repr(index)


class IndexAgainstDictionary(RuleBasedStateMachine):
    """Any sequence of calls gives the same index as adding what is left, in its order, at once."""

    names = st.sampled_from(NAMES)

    @initialize(name=st.sampled_from(VARIANTS))
    def start(self, name: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.kind = Kind(name)
        self.index = self.kind.new()
        self.wanted: list[str] = []
        self.saved: list[str] | None = None

    @rule(names=st.lists(names, max_size=4))
    def add(self, names: list[str]) -> None:
        new = [n for n in dict.fromkeys(names) if n not in self.wanted]
        assert self.index.add(names, [IMAGES[n] for n in names]) == new
        self.wanted += new

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.wanted:
            self.index.remove([name])
            self.wanted.remove(name)

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def save(self) -> None:
        self.index.save(self.folder.name)
        self.saved = list(self.wanted)

    @rule()
    def load(self) -> None:
        if self.saved is not None:
            self.index = self.kind.load(Path(self.folder.name))
            self.wanted = list(self.saved)

    @rule()
    def search(self) -> None:
        assert_same(self.index, self.kind.of(self.wanted))

    @invariant()
    def same_ids(self) -> None:
        assert self.index.ids() == self.wanted

    def teardown(self) -> None:
        self.folder.cleanup()


IndexAgainstDictionary.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestIndexAgainstDictionary = IndexAgainstDictionary.TestCase
