"""delf-engine evaluate: every protocol, every kind of file, a baseline, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import ConfigError, DataError, DelfEngineError, FormatError
from delf_engine.evaluation import PROTOCOLS, evaluate_setups, load_ground_truth
from helpers import write_lists

NAMES = [f"im[{i}]" for i in range(30)]  # brackets are markup to rich
QUERIES = [f"q{i}" for i in range(6)]


def run(*args: object) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", *map(str, args)])
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def values(*args: object) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.exception or result.output
    return json.loads(result.stdout)


@pytest.fixture
def ground_truth(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    gnd = []
    for _ in QUERIES:
        easy, hard, junk, _ = np.split(rng.permutation(30), [4, 8, 12])
        gnd.append({"bbx": [0, 0, 9, 9], "easy": easy.tolist(), "hard": hard.tolist(), "junk": junk.tolist()})
    path = tmp_path / "gnd_small.pkl"
    path.write_bytes(pickle.dumps({"imlist": NAMES, "qimlist": QUERIES, "gnd": gnd}))
    return path


@pytest.fixture
def ranks() -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.stack([rng.permutation(30)[:25] for _ in QUERIES])


def by_name(ranks: np.ndarray) -> dict[str, list[str]]:
    return {query: [NAMES[i] for i in row] for query, row in zip(QUERIES, ranks, strict=True)}


# -------------------------------------------------------------------------------------------------- revisited


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".run", ".txt", ".npy", ".npz"])
def test_files_of_every_format(ground_truth: Path, ranks: np.ndarray, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rankings{ending}"
    write_lists(path, by_name(ranks), names=NAMES)
    found = values(path, "--ground-truth", ground_truth)
    expected = evaluate_setups(ranks, load_ground_truth(ground_truth))
    for setup, figures in expected.items():
        row = found["results"][setup.capitalize()]
        assert row["mAP"] == figures.mean_ap
        assert [row[f"mP@{k}"] for k in (1, 5, 10)] == list(figures.mean_precision.values())
    assert found["title"] == "Revisited protocol, gnd_small.pkl: 6 queries, 30 images"
    assert found["left_out"] == []


def test_distances(ground_truth: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    lists, options = by_name(ranks), ("--ground-truth", ground_truth)
    rows = [f"{q} Q0 {name} {k} {k / 7} x" for q, names in lists.items() for k, name in enumerate(names)]
    path = written(tmp_path / "rankings.run", "\n".join(rows))
    refused(FormatError, "--distances", path, *options[1:])
    write_lists(tmp_path / "rankings.jsonl", lists)
    assert (
        values(path, *options, "--distances")["results"]
        == values(tmp_path / "rankings.jsonl", *options)["results"]
    )


def test_rank_matrices(ground_truth: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    expected = values(saved(tmp_path / "rows.npy", ranks), "--ground-truth", ground_truth)["results"]
    turned = saved(tmp_path / "columns.npy", ranks.T.astype(np.int32))
    assert values(turned, "--ground-truth", ground_truth, "--columns")["results"] == expected
    np.savez(tmp_path / "ranks.npz", ranks=ranks.T)
    assert values(tmp_path / "ranks.npz", "--ground-truth", ground_truth)["results"] == expected
    refused(FormatError, "25 rows for 6 queries", turned, ground_truth)
    padded = np.pad(ranks, ((0, 0), (0, 3)), constant_values=-1)
    assert values(saved(tmp_path / "a.npy", padded), "--ground-truth", ground_truth)["results"] == expected
    names, queries = tmp_path / "names.txt", tmp_path / "queries.txt"
    names.write_text("\n".join(NAMES[::-1]))
    queries.write_text("\n".join(QUERIES[::-1]))
    other = saved(tmp_path / "other.npy", 29 - ranks[::-1])
    options = ("--ground-truth", ground_truth, "--names", names, "--queries", queries)
    assert values(other, *options)["results"] == expected


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def refused(error: type[DelfEngineError], message: str, rankings: Path, truth: Path, *options: object) -> None:
    result = run(rankings, "--ground-truth", truth, *options)
    assert isinstance(result.exception, error), result.exception
    assert message in str(result.exception)


def test_the_table(ground_truth: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "rankings.jsonl"
    write_lists(path, by_name(ranks))
    text = run(path, "--ground-truth", ground_truth, "--per-query").output
    for word in ("Easy", "Medium", "Hard", "mAP", "mP@10", "6 queries, 30 images", "Hard, by query", "positives"):
        assert word in text
    assert "baseline" not in text


def test_a_baseline(ground_truth: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    truth = load_ground_truth(ground_truth)
    perfect = {
        query: [NAMES[i] for i in positives]
        for query, positives in zip(QUERIES, truth.positives_of("medium"), strict=True)
    }
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.csv"
    write_lists(good, perfect)
    write_lists(bad, by_name(ranks))
    found = values(good, "--ground-truth", ground_truth, "--baseline", bad, "--per-query")
    assert found["results"]["Medium"]["mAP"] == 100
    assert found["differences"]["Medium"]["verdict"] == "better than the baseline"
    difference = found["results"]["Medium"]["mAP"] - found["baseline"]["Medium"]["mAP"]
    assert found["differences"]["Medium"]["difference"] == pytest.approx(difference)
    rows = found["per_query"]["Medium"]
    assert [row["difference"] for row in rows] == sorted(row["difference"] for row in rows)
    assert {row["positives"] for row in rows} == {8}
    text = run(bad, "--ground-truth", ground_truth, "--baseline", good, "--per-query").output
    assert "worse than the baseline" in text
    assert "difference" in text
    same = values(bad, "--ground-truth", ground_truth, "--baseline", bad)
    assert {each["verdict"] for each in same["differences"].values()} == {"no difference shown"}


def test_queries_without_a_ranking(ground_truth: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    path, whole = tmp_path / "some.jsonl", tmp_path / "whole.jsonl"
    write_lists(whole, by_name(ranks))
    write_lists(path, {query: found for query, found in by_name(ranks).items() if query != "q2"})
    refused(DataError, "'q2'", path, ground_truth)
    result = run(path, "--ground-truth", ground_truth, "--allow-missing")
    assert "5 of 6 queries (1 LEFT OUT, without a ranking)" in result.output
    assert "without a ranking: q2" in result.output
    found = values(path, "--ground-truth", ground_truth, "--allow-missing", "--baseline", whole)
    assert found["left_out"] == ["q2"]
    assert found["results"] == found["baseline"]
    write_lists(path, {"x": []})
    refused(DataError, "another set", path, ground_truth, "--allow-missing")


def test_a_ground_truth_of_another_set(ground_truth: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_lists(path, {query: ["a", "b"] for query in QUERIES})
    refused(DataError, "2 of 2", path, ground_truth)
    write_lists(path, {"y": [], "z": []})
    refused(DataError, "2 of 2", path, ground_truth)
    refused(DataError, "index 40", saved(tmp_path / "x.npy", np.full((6, 1), 40)), ground_truth)


def test_what_is_refused(ground_truth: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"query": "q0", "candidates": [NAMES[0], NAMES[0]]}))
    refused(FormatError, repr(NAMES[0]), path, ground_truth)
    refused(DataError, "2 times", saved(tmp_path / "x.npy", np.zeros((6, 2), int)), ground_truth)
    path.write_text('{"query": "q0", "candidates": [["a", NaN]]}')
    refused(FormatError, "line 1", path, ground_truth)
    refused(ConfigError, "--columns", path, ground_truth, "--columns")
    refused(ConfigError, "'x'", path, ground_truth, "--protocol", "x")
    refused(ConfigError, "classes", path, ground_truth, "--query-folder", tmp_path)
    refused(FormatError, "gone.pkl", path, tmp_path / "gone.pkl")
    np.savez(tmp_path / "x.npz", ids=ranks, queries=QUERIES)
    refused(ConfigError, "--columns", tmp_path / "x.npz", ground_truth, "--columns")
    assert run(path).exit_code == 2
    assert all(name in run("--help").output for name in PROTOCOLS)


# ------------------------------------------------------------------------------------------------- landmarks

RETRIEVAL = "id,images,Usage\n1,a b,Public\n2,c,Private\n3,d e,Private\n4,None,Ignored\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_landmark_retrieval(tmp_path: Path) -> None:
    solution = written(tmp_path / "solution.csv", RETRIEVAL)
    submission = written(tmp_path / "submission.csv", "id,images\n1,a x b\n2,x c\n4,z\n")
    options = ("--ground-truth", solution, "--protocol", "gldv2-retrieval")
    found = values(submission, *options, "--per-query")
    assert found["results"]["Public"]["mAP@100"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert found["results"]["Private"] == {"queries": 2, "mAP@100": 25, "mP@1": 0, "mP@5": 10, "mP@10": 5}
    assert [row["query"] for row in found["per_query"]["Private"]] == ["3", "2"]
    lists = written(tmp_path / "lists.csv", "query,id,score\n1,a,3\n1,x,2\n1,b,1\n2,x,2\n2,c,1\n4,z,0\n")
    assert values(lists, *options)["results"] == found["results"]
    compared = values(submission, *options, "--baseline", lists)
    assert compared["differences"]["Private"]["verdict"] == "no difference shown"
    assert "mAP@100" in run(submission, *options).output
    other = written(tmp_path / "other.jsonl", '{"query": "9", "candidates": []}')
    refused(DataError, "'9'", other, *options[1:])
    refused(ConfigError, "--allow-missing", submission, *options[1:], "--allow-missing")


# --------------------------------------------------------------------------------------------------- classes


def test_classes(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    lists = {"cat/1.jpg": ["cat/1.jpg", "cat/2.jpg"], "cat/2.jpg": ["dog/1.jpg", "cat/1.jpg"], "dog/1.jpg": []}
    path = tmp_path / "x.jsonl"
    write_lists(path, lists)
    options = ("--ground-truth", folder, "--protocol", "classes")
    found = values(path, *options)
    assert found["results"]["All"]["mAP"] == 75
    assert found["results"]["All"]["recall@1"] == 50
    assert found["results"]["All"]["queries"] == 2
    assert found["title"].endswith("3 queries, 3 images, 2 classes")
    whole = {f"{folder}/{query}": [f"{folder}/{image}" for image in images] for query, images in lists.items()}
    write_lists(tmp_path / "whole.jsonl", whole)  # ids as `add` gives them
    assert values(tmp_path / "whole.jsonl", *options)["results"] == found["results"]
    array = saved(tmp_path / "x.npy", np.array([[0, 1], [2, 1], [-1, -1]]))
    write_lists(path, {"cat/1.jpg": [], "cat/2.jpg": []})
    refused(DataError, "1 of 3", path, *options[1:])
    part = values(path, *options, "--allow-missing")
    assert part["left_out"] == ["dog/1.jpg"]
    assert values(array, *options)["results"]["All"]["queries"] == 2
    separate = values(array, *options, "--query-folder", folder)
    assert separate["results"]["All"]["queries"] == 3
    assert separate["results"]["All"]["recall@1"] == pytest.approx(100 / 3)
