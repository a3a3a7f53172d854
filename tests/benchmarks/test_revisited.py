"""roxford.py and rparis.py from stored features to figures: what is verified, what is counted, what is refused."""

from __future__ import annotations

import csv
import errno
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.revisited import candidates as revisited_candidates
from benchmarks.revisited import features as revisited_features
from benchmarks.revisited import run as revisited
from benchmarks.revisited.inputs import TITLES, read_inputs
from benchmarks.revisited.options import arguments
from benchmarks.revisited.result import result_of
from benchmarks.revisited.run import main, run
from benchmarks.revisited.stages import Stages
from benchmarks.systems import System
from delf_engine import AsmkIndex, Codebook, LocalFeatures, load_profile
from delf_engine.errors import DataError, FormatError, ImageError, MismatchError
from delf_engine.evaluation import SETUPS, GroundTruth, evaluate, load_ground_truth, restrict, save_ground_truth
from delf_engine.storage import FeatureStore
from delf_engine.verification import verify_features
from helpers import raises, random_features, seen_again, write_image

PLACES, OTHERS = 3, 12
KINDS = {"easy": (60, 3), "hard": (24, 2), "junk": (45, 2)}  # features shared with the query, and images


class World:
    """Stored features of queries and of images that show them more or less, and their ground truth."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(5)
        made: dict[str, LocalFeatures] = {}
        gnd: list[dict[str, Any]] = []
        names: list[str] = []
        for place in range(PLACES):
            query = made[f"query_{place}"] = random_features(rng, 80)
            lists: dict[str, list[int]] = {}
            for kind, (shared, count) in KINDS.items():
                lists[kind] = list(range(len(names), len(names) + count))
                for number in range(count):
                    names.append(f"place_{place}_{kind}_{number}")
                    made[names[-1]] = seen_again(rng, query, shared)
            gnd.append({"bbx": [0.0, 0.0, 640.0, 480.0], **lists})
        for number in range(OTHERS):
            names.append(f"other_{number}")
            made[names[-1]] = random_features(rng, 80)
        self.names = names
        self.queries = [f"query_{place}" for place in range(PLACES)]
        self.truth = folder / "gnd_world.pkl"
        self.truth.write_bytes(pickle.dumps({"imlist": names, "qimlist": self.queries, "gnd": gnd}))
        self.store = folder / "features"
        with FeatureStore.create(self.store, dim=40, model="made up") as store:
            store.put_many((f"jpg/{name}.jpg", item) for name, item in made.items())
            self.features = {name: store.get(f"jpg/{name}.jpg") for name in made}
        words = rng.normal(size=(24, 40)).astype(np.float32)
        self.words = folder / "words.safetensors"
        Codebook(words / np.linalg.norm(words, axis=1, keepdims=True)).save(self.words)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def options(world: World, work: Path, *more: str, candidates: str = "asmk") -> list[str]:
    return [
        *("--features", str(world.store), "--ground-truth", str(world.truth), "--codebook", str(world.words)),
        *("--candidates", *candidates.split(), "--verify", "8", "--work", str(work), *more),
    ]


def result(world: World, work: Path, *more: str, **kinds: str) -> dict[str, Any]:
    return run("rparis6k", arguments("rparis6k", "test", options(world, work, *more, **kinds)))


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {method["name"]: method for method in found["methods"]}


# ------------------------------------------------------------------------- the figures, one plain step at a time


def plain_lists(world: World) -> list[list[tuple[str, float]]]:
    profile = load_profile("default")
    index = AsmkIndex(Codebook.load(world.words), profile.asmk)
    index.add(world.names, [world.features[name] for name in world.names])
    found = [index.search(world.features[query], len(world.names)) for query in world.queries]
    return [list(zip(ids, scores.tolist(), strict=True)) for ids, scores in found]


def plain_rankings(
    world: World, truth: GroundTruth, setup: Any, junk: str, top_n: int
) -> tuple[list[list[str]], list[list[str]]]:
    """Verify the first of each list by hand; return the rankings and what was verified."""
    profile = load_profile("default")
    rankings, heads = [], []
    for query, found, out in zip(world.queries, plain_lists(world), truth.junk_of(setup), strict=True):
        ignored = {truth.names[i] for i in out}
        if junk == "before":
            kept = [entry for entry in found if entry[0] not in ignored]
            head = kept[:top_n]
        else:
            head = [entry for entry in found[:top_n] if entry[0] not in ignored]
            kept = head + [entry for entry in found[top_n:] if entry[0] not in ignored]
        inliers = {
            name: verify_features(
                world.features[query],
                world.features[name],
                config=profile.verification,
                exponent=profile.ranking.exponent,
                seed=0,
            ).inliers
            for name, _ in head
        }
        head.sort(key=lambda entry, counts=inliers: (-counts[entry[0]], -entry[1]))  # type: ignore[misc]
        rankings.append([name for name, _ in head + kept[len(head) :]])
        heads.append([name for name, _ in head])
    return rankings, heads


@pytest.mark.parametrize("junk", ["before", "after"])
def test_figures_are_those_of_plain_steps(world: World, tmp_path: Path, junk: str) -> None:
    truth = load_ground_truth(world.truth)
    found = by_name(result(world, tmp_path, "--junk", junk))
    assert list(found) == ["ASMK", "ASMK, first 8 verified"]
    for setup in SETUPS:
        lists = [[name for name, _ in entries] for entries in plain_lists(world)]
        plain = evaluate(lists, truth, setup=setup)
        assert found["ASMK"]["setups"][setup]["average_precision"] == plain.to_dict()["average_precision"]
        rankings, _ = plain_rankings(world, truth, setup, junk, 8)
        plain = evaluate(rankings, truth, setup=setup)
        ours = found["ASMK, first 8 verified"]["setups"][setup]
        assert ours["average_precision"] == plain.to_dict()["average_precision"]
        assert ours["mean_precision"] == plain.to_dict()["mean_precision"]
    assert found["ASMK, first 8 verified"]["parent"] == "ASMK"
    # The cut matters here: otherwise this could not tell the two ways apart.
    heads = [plain_rankings(world, truth, "hard", way, 8)[1] for way in ("before", "after")]
    assert heads[0] != heads[1]


def test_inliers_and_first_results_are_those_of_the_pairs(world: World, tmp_path: Path) -> None:
    truth = load_ground_truth(world.truth)
    found = result(world, tmp_path)
    profile = load_profile("default")

    def inliers(query: str, name: str) -> int:
        a, b = world.features[query], world.features[name]
        return verify_features(a, b, config=profile.verification, exponent=3.0, seed=0).inliers

    _, heads = plain_rankings(world, truth, "medium", "before", 8)
    right = [{truth.names[i] for i in found} for found in truth.positives_of("medium")]
    pairs = [(q, name) for q, head in enumerate(heads) for name in head]
    counts = found["inliers"]["ASMK, first 8 verified"]
    for kind, wanted in (("positives", True), ("negatives", False)):
        plain = [inliers(world.queries[q], name) for q, name in pairs if (name in right[q]) == wanted]
        assert sorted(counts[kind]) == sorted(plain)
    labels = {f"place_{place}_{kind}_": kind for place in range(PLACES) for kind in KINDS}
    for q, (query, shown) in enumerate(found["details"]["ASMK, first 8 verified"]["medium"].items()):
        assert query == world.queries[q]
        assert len(shown) == 8
        for hit in shown:
            own = hit["id"].startswith(f"place_{q}_")
            assert hit["label"] == (labels[hit["id"][:-1]] if own else "negative")
            assert hit["inliers"] == inliers(query, hit["id"])
        assert [hit["inliers"] for hit in shown] == sorted((hit["inliers"] for hit in shown), reverse=True)


def test_kd_trees_and_a_shortlist_beside(world: World, tmp_path: Path) -> None:
    """A shortlist of paths, as another search would write it, gives what the names alone give."""
    path = tmp_path / "global.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["query", "id", "score"])
        for query, entries in zip(world.queries, plain_lists(world), strict=True):
            rows.writerows([f"q/{query}.jpg", f"photos/{name}.jpg", repr(score)] for name, score in entries)
    found = by_name(result(world, tmp_path / "work", "--shortlist", str(path), candidates="asmk kdtree"))
    first = [name for name in found if found[name]["parent"] is None]
    assert first == ["ASMK", "KD-tree", "global"]
    for of_index, of_file in (("ASMK", "global"), ("ASMK, first 8 verified", "global, first 8 verified")):
        assert found[of_index]["setups"] == found[of_file]["setups"]
    assert found["global"]["seconds_per_query"] is None


# ------------------------------------------------------------------------------------------- from photographs


class Camera:
    """Photographs that stand for the world's features: an extractor that knows them by their names."""

    def __init__(self, world: World, folder: Path, rng: np.random.Generator) -> None:
        self.folder = folder
        self.features = dict(world.features) | {f"far_{k}": random_features(rng, 80) for k in range(6)}
        self.seen: list[str] = []  # what was extracted, in order
        self.stops_after = 10**9
        for number, name in enumerate(self.features):
            place = folder / ("far/away" if name.startswith("far") else "jpg")
            write_image(place / f"{name}.jpg", np.full((8, 8, 3), number, np.uint8))
        self.system = System("made up", "made up", 40, self, load_profile("default"), world.words)

    def __call__(self, image: Any, *, box: Any = None) -> LocalFeatures:
        path = Path(image)
        if len(self.seen) == self.stops_after:
            raise KeyboardInterrupt
        if path.stat().st_size < 100:
            raise ImageError(str(path), "is cut short")
        assert (box is not None) == path.stem.startswith("query")
        self.seen.append(path.stem)
        return self.features[path.stem]


@pytest.fixture
def camera(world: World, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Camera:
    made = Camera(world, tmp_path / "photographs", rng)
    monkeypatch.setattr(revisited, "_systems", lambda args, source: [made.system])
    return made


def photographed(world: World, camera: Camera, work: Path, *more: str) -> dict[str, Any]:
    given = ["--images", str(camera.folder / "jpg"), "--ground-truth", str(world.truth), "--codebook", "shipped"]
    more = ("--candidates", "asmk", "--verify", "8", "--work", str(work), *more)
    return run("rparis6k", arguments("rparis6k", "test", [*given, *more]))


def test_photographs_give_what_their_features_give(world: World, camera: Camera, tmp_path: Path) -> None:
    found = photographed(world, camera, tmp_path / "work")
    assert sorted(camera.seen) == sorted(world.features)
    assert by_name(found) == {
        name: method | {"seconds_per_query": by_name(found)[name]["seconds_per_query"]}
        for name, method in by_name(result(world, tmp_path / "stored")).items()
    }


def test_extraction_goes_on_where_it_was_stopped(
    world: World, camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisited_features, "_COMMIT", 4)
    camera.stops_after = 10
    with pytest.raises(KeyboardInterrupt):
        photographed(world, camera, tmp_path / "work")
    before, camera.seen, camera.stops_after = camera.seen, [], 10**9
    photographed(world, camera, tmp_path / "work")
    assert sorted(before[:8] + camera.seen) == sorted(world.features)
    (camera.folder / "jpg" / "other_4.jpg").write_bytes(b"another photograph" * 20)
    camera.seen = []
    photographed(world, camera, tmp_path / "work")
    assert camera.seen == ["other_4"]


def test_an_unreadable_photograph(world: World, camera: Camera, tmp_path: Path) -> None:
    (camera.folder / "jpg" / "other_4.jpg").write_bytes(b"short")
    with raises(DataError, "other_4"):
        photographed(world, camera, tmp_path / "work")
    camera.seen = []
    found = photographed(world, camera, tmp_path / "work", "--allow-missing")
    assert camera.seen == []  # all others were kept
    assert found["dataset"]["missing"] == {"images": ["other_4"], "queries": []}
    assert found["title"].startswith("world, restricted to")


def test_distractors_are_searched_with_the_rest(world: World, camera: Camera, tmp_path: Path) -> None:
    profile, truth = load_profile("default"), load_ground_truth(world.truth)
    index = AsmkIndex(Codebook.load(world.words), profile.asmk)
    far = [f"distractors/away/far_{k}" for k in range(6)]
    index.add([*far, *world.names], [camera.features[name.rpartition("/")[2]] for name in [*far, *world.names]])
    lists = [index.search(world.features[query], len(index))[0] for query in world.queries]
    whole = GroundTruth((*truth.names, *far), truth.query_names, truth.boxes, truth.easy, truth.hard, truth.junk)
    found = photographed(world, camera, tmp_path / "work", "--distractors", str(camera.folder / "far"))
    for setup in SETUPS:
        expected = evaluate(lists, whole, setup=setup).to_dict()["average_precision"]
        assert by_name(found)["ASMK"]["setups"][setup]["average_precision"] == expected
    assert found["title"] == "world + 6 distractors"
    assert (found["dataset"]["images"], found["dataset"]["distractors"]) == (len(world.names), 6)
    camera.seen = []
    again = photographed(world, camera, tmp_path / "work", "--distractors", str(camera.folder / "far"))
    assert camera.seen == []
    assert again["methods"][0]["setups"] == found["methods"][0]["setups"]
    stages = {stage["name"]: (stage["items"], stage["cached"]) for stage in again["stages"]}
    assert stages["ASMK: index of distractors"] == (6, 6)


# -------------------------------------------------------------------------------------------------- going on


def test_a_second_run_finds_everything_and_says_the_same(world: World, tmp_path: Path) -> None:
    first = result(world, tmp_path, candidates="asmk kdtree")
    again = result(world, tmp_path, candidates="asmk kdtree")
    assert by_name(first).keys() == by_name(again).keys()
    for name, method in by_name(first).items():
        assert method["setups"] == by_name(again)[name]["setups"]
    cached = {stage["name"]: stage["cached"] for stage in again["stages"]}
    items = {stage["name"]: stage["items"] for stage in again["stages"]}
    assert cached["ASMK: index"] == items["ASMK: index"] > 0
    assert cached["ASMK, first 8 verified"] == items["ASMK, first 8 verified"] > 0
    seconds = [{s["name"]: s["seconds"] for s in run_["stages"]}["ASMK: index"] for run_ in (first, again)]
    assert seconds[1] == seconds[0]  # what was done is not timed again


def test_words_trained_in_two_runs_are_those_of_one(world: World, tmp_path: Path) -> None:
    from benchmarks.revisited.features import Stores, all_of

    def trained(work: Path) -> str:
        with Stores(work) as stores:
            path = revisited_candidates.codebook_of(
                all_of(stores.given(world.store)),
                16,
                per_image=50,
                seed=0,
                folder=work,
                title="words",
                stages=Stages(work / "stages.json"),
            )
        return Codebook.load(path).hash

    whole = trained(tmp_path / "one")
    stopped, train = 4, Codebook.train

    def stopping(*args: Any, **kwargs: Any) -> Codebook:
        nonlocal stopped
        stopped -= 1
        if not stopped:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revisited_candidates.Codebook, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "two")
    assert len(list((tmp_path / "two").glob("*.after-03.safetensors"))) == 1
    assert trained(tmp_path / "two") == whole
    assert not list((tmp_path / "two").glob("*.after-*"))


# ---------------------------------------------------------------------------------------------------- files


def test_three_files_are_written(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(world, tmp_path)
    assert json.loads((tmp_path / "world.json").read_text())["methods"] == found["methods"]
    text = (tmp_path / "world.md").read_text()
    assert "ASMK, first 8 verified" in text
    assert text.strip() in capsys.readouterr().out
    assert (tmp_path / "world.html").read_text().startswith("<!doctype html>")
    assert found["dataset"]["ground_truth"]["sha256"]
    assert found["configuration"]["features"]["codebook"]["hash"] == Codebook.load(world.words).hash
    assert found["published"] == []  # they are of another ground truth


# ---------------------------------------------------------------------------------------------------- bad input


def without(world: World, folder: Path, gone: set[str]) -> Path:
    with FeatureStore.create(folder, dim=40) as store:
        store.put_many((name, item) for name, item in world.features.items() if name not in gone)
    return folder


def test_missing_images_stop_the_run_before_it_begins(world: World, tmp_path: Path) -> None:
    store = without(world, tmp_path / "some", {"other_3", "place_0_easy_1", "query_2"})
    given = options(world, tmp_path / "work", "--features", str(store))
    with raises(DataError, "place_0_easy_1", "other_3"):
        run("rparis6k", arguments("rparis6k", "test", given))
    assert not (tmp_path / "work" / "world.json").exists()
    found = run("rparis6k", arguments("rparis6k", "test", [*given, "--allow-missing"]))
    assert (
        found["title"]
        == f"world, restricted to {len(world.names) - 2} of {len(world.names)} images and 2 of 3 queries"
    )
    assert found["dataset"]["missing"] == {"images": ["place_0_easy_1", "other_3"], "queries": ["query_2"]}
    assert found["queries"]["query_0"]["positives"]["easy"] == KINDS["easy"][1] - 1
    assert "world, restricted to" in (tmp_path / "work" / "world.md").read_text()


def test_figures_are_quoted_beside_the_whole_official_set_only(tmp_path: Path, data: Path) -> None:
    official = data / "revisited" / "gnd_rparis6k.pkl"
    truth = load_ground_truth(official)
    some = restrict(truth, truth.names[:50], truth.query_names)
    save_ground_truth(tmp_path / "gnd_rparis6k.pkl", some)
    mine = tmp_path / "gnd_rparis6k.pkl"
    titles = {
        "RParis6k": (official, truth.names),
        "RParis6k, restricted to 40 of 6,322 images and 70 of 70 queries": (official, truth.names[:40]),
        "rparis6k, not by the official ground truth": (mine, some.names),
    }
    for title, (path, images) in titles.items():
        rest: Any = {"known_queries": truth.query_names, "allow_missing": True, "where": "here"}
        inputs = read_inputs("rparis6k", path, {}, known=images, **rest)
        quoted = result_of(inputs, inputs.truth, [], configuration={}, stages=[], notes=[], seed=0)["published"]
        assert inputs.title == title
        assert {entry["dataset"] for entry in quoted} == ({"rparis6k"} if title == "RParis6k" else set())


def test_a_ground_truth_of_another_set(world: World, tmp_path: Path, data: Path) -> None:
    wrong = data / "revisited" / "gnd_roxford5k.pkl"
    with raises(DataError, "ROxford5k", "RParis6k"):
        result(world, tmp_path, "--ground-truth", str(wrong))
    right = data / "revisited" / "gnd_rparis6k.pkl"  # of other images than the features
    with raises(DataError, "6,322"):
        result(world, tmp_path, "--ground-truth", str(right), "--allow-missing")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([(f"query_{k}", "nowhere", 1.0) for k in range(3)], DataError, "nowhere"),
        ([("query_0", "other_0", float("nan"))], FormatError, "nan"),
        ([("query_0", "other_0", 1.0)], FormatError, "2 of 3"),
        (
            [
                (q, name, 1.0)
                for q in ("query_0", "query_1", "query_2")
                for name in ("a/other_0.jpg", "b/other_0.jpg")
            ],
            DataError,
            "query_0",
        ),
    ],
    ids=["unknown", "nan", "absent", "doubled"],
)
def test_bad_shortlists(
    world: World, tmp_path: Path, rows: list[tuple[str, str, float]], error: type[Exception], message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("query,id,score\n" + "".join(f"{q},{i},{s}\n" for q, i, s in rows))
    with raises(error, message):
        result(world, tmp_path / "work", "--shortlist", str(path), candidates="")


@pytest.mark.parametrize("option", ["--query-features", "--distractors"])
@pytest.mark.parametrize(("dim", "model"), [(64, None), (40, "another one")], ids=["dimension", "model"])
def test_features_that_do_not_go_together(
    world: World, tmp_path: Path, rng: np.random.Generator, option: str, dim: int, model: str | None
) -> None:
    with FeatureStore.create(tmp_path / "others", dim=dim, model=model) as store:
        store.put_many((query, random_features(rng, 5, dim)) for query in world.queries)
    with raises(MismatchError, "others"):
        result(world, tmp_path / "work", option, str(tmp_path / "others"))


def test_shipped_words_are_of_the_model_that_the_features_are_of(world: World, tmp_path: Path) -> None:
    with raises(MismatchError, "made", "delf-r18@"):
        result(world, tmp_path, "--codebook", "shipped")


def test_a_disk_that_is_full_at_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x.json")

    monkeypatch.setattr(revisited, "write_json", full)
    monkeypatch.setattr("sys.argv", ["rparis.py", *options(world, tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main("rparis6k")
    assert stopped.value.code == 1
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    stages = {stage["name"]: (stage["items"], stage["cached"]) for stage in result(world, tmp_path)["stages"]}
    assert stages["ASMK, first 8 verified"][0] == stages["ASMK, first 8 verified"][1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "x"], "belong together"),
        (["--synthetic", "--data", "x"], "makes its own"),
        (["--query-features", "x"], "needs --features"),
        (["--candidates"], "nothing to measure"),
        (["--verify", "0"], "--verify must be at least 1"),
    ],
    ids=["images", "synthetic", "queries", "nothing", "verify"],
)
def test_options_that_do_not_fit(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        arguments("rparis6k", TITLES["rparis6k"], more)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
