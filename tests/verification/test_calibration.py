"""`Calibration`: fits against plain oracles, what its probabilities promise, files and which holds, errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from delf_engine.config import load_profile, profile_names
from delf_engine.engine.pairs import calibration_of
from delf_engine.errors import ConfigError, DataError, FormatError, MismatchError
from delf_engine.model import checkpoint_names, checkpoint_path, read_checkpoint_info
from delf_engine.verification import FineEvidence, Verification
from delf_engine.verification.calibration import (
    COARSE,
    Calibration,
    _hashes,
    load_calibration,
)
from delf_engine.verification.curve import EVIDENCE
from helpers import raises
from verification.answers import answer, labelled

Float64 = npt.NDArray[np.float64]
DEFAULT = load_profile("default")


def fitted(seed: int = 0, **options: Any) -> Calibration:
    found, labels = labelled(seed)
    return Calibration.fit(found, labels, **{"trained_on": "made up", **options})


# ---------------------------------------------------------------------------------------------------- the fits


def weights_at(labels: npt.NDArray[np.bool_], prior: float) -> Float64:
    return np.where(labels, prior / labels.sum(), (1 - prior) / (~labels).sum())


def platt_oracle(evidence: Float64, labels: npt.NDArray[np.bool_], prior: float) -> Float64:
    """Minimise the definition of the loss with a general optimiser; return the probabilities of the pairs."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weight = weights_at(labels, prior)
    x = evidence / evidence.std()

    def loss(v: Float64) -> float:
        z = x * v[0] + v[1]
        return float((weight * (target * np.logaddexp(0, -z) + (1 - target) * np.logaddexp(0, z))).sum())

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    best = minimize(loss, np.zeros(2), method="L-BFGS-B", options=options)
    return np.asarray(1 / (1 + np.exp(-(x * best.x[0] + best.x[1]))))


@given(seed=st.integers(0, 300), prior=st.sampled_from([0.01, 0.5, 0.9]), name=st.sampled_from(COARSE))
def test_logistic_is_the_best_curve(seed: int, prior: float, name: str) -> None:
    found, labels = labelled(seed, 30, 40)
    evidence = np.array([EVIDENCE[name](v) for v in found])
    fit = Calibration.fit(found, labels, evidence=name, prior=prior, trained_on="made up").coarse  # type: ignore[arg-type]
    (slope,) = fit.weights.values()
    assert slope > 0
    p = 1 / (1 + np.exp(-(evidence * slope + fit.intercept)))
    np.testing.assert_allclose(p, platt_oracle(evidence, labels == 1, prior), atol=2e-3)


@given(seed=st.integers(0, 50), order=st.integers(0, 1000))
def test_order_of_pairs_does_not_change_a_bit(seed: int, order: int) -> None:
    found, labels = labelled(seed)
    options: dict[str, Any] = {"evidence": "log_inlier_similarity", "trained_on": "made up"}
    first = Calibration.fit(found, labels, **options)
    shuffled = np.random.default_rng(order).permutation(len(found))
    assert Calibration.fit([found[i] for i in shuffled], labels[shuffled], **options) == first


def test_pairs_without_an_overlap_get_a_finite_slope() -> None:
    found = [answer(n) for n in [0] * 40 + [200] * 20]
    calibration = Calibration.fit(found, [0] * 40 + [1] * 20, trained_on="made up")
    p = calibration.probabilities([answer(0), answer(200)])
    # Platt's targets are 1 / 42 and 21 / 22; of 20 positives none with so little evidence supports 1 / 23.
    np.testing.assert_allclose(p, [1 / 23, 21 / 22], atol=1e-6)


def test_the_prior_is_the_stated_one_whatever_the_numbers_of_pairs() -> None:
    """As many inliers on both sides tell nothing: what is left there is the prior."""
    counts = [10] * 60 + [50] * 60
    for repeat in (1, 7):
        found = [answer(n) for n in counts] + [answer(n) for n in [5, *counts, 90]] * repeat
        labels = [0] * 120 + [0, *[1] * 120, 1] * repeat
        calibration = Calibration.fit(found, labels, prior=0.2, trained_on="made up")
        assert calibration.probability(answer(10)) == pytest.approx(0.2, abs=0.03)
        assert (calibration.coarse.positives, calibration.coarse.negatives) == (121 * repeat, 120 + repeat)


# --------------------------------------------------------------------------------------------- probabilities


@given(seed=st.integers(0, 20), counts=st.lists(st.integers(0, 3000), min_size=2, max_size=6))
def test_more_inliers_never_make_it_less_probable(seed: int, counts: list[int]) -> None:
    calibration = fitted(seed)
    p = calibration.probabilities([answer(n) for n in sorted(counts)])
    assert (np.diff(p) >= 0).all()
    assert p.tolist() == [calibration.probability(answer(n)) for n in sorted(counts)]


def test_no_probability_goes_beyond_what_the_pairs_support() -> None:
    for positives, negatives in ((50, 50), (60, 400)):
        found, labels = labelled(1, positives, negatives)
        calibration = Calibration.fit(found, labels, trained_on="made up")
        p = calibration.probabilities([answer(0), answer(100_000)])
        assert p[0] >= 1 / (positives + 3) * (1 - 1e-12)
        assert p[1] == pytest.approx(1 - 1 / (negatives + 3), abs=1e-12)
        for prior in (5e-324, 1e-300, 1 - 2**-53):
            assert all(0 < v < 1 for v in calibration.probabilities([answer(0), answer(10**5)], prior=prior))


def test_another_prior_multiplies_the_odds() -> None:
    calibration = fitted(prior=0.5)
    for n in (0, 3, 12, 20, 60, 500):
        odds = calibration.probability(answer(n)) / (1 - calibration.probability(answer(n)))
        p = calibration.probability(answer(n), prior=0.1)
        assert p / (1 - p) == pytest.approx(odds / 9)
    assert calibration.probability(answer(9), prior=0.5) == calibration.probability(answer(9))


def test_calibrated_on_pairs_of_its_own_kind() -> None:
    """Of many new pairs that get about the same probability, about that share shows one place."""
    found, labels = labelled(1, 500, 500)
    new, truth = labelled(2, 3000, 3000)
    p = Calibration.fit(found, labels, trained_on="made up").probabilities(new)
    for low in np.arange(0, 1, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        if inside.sum() > 200:
            assert p[inside].mean() == pytest.approx(truth[inside].mean(), abs=0.12)


# -------------------------------------------------------------------------------------- verdicts, fine evidence


def detailed(seed: int) -> tuple[list[Verification], npt.NDArray[np.int64]]:
    """Pairs whose fine matches tell look-alikes from the same place."""
    rng = np.random.default_rng(seed)
    found, labels = labelled(seed)
    return [
        replace(v, fine=FineEvidence(200, int(rng.integers(8, 20)) + 60 * int(same), 5 + 30 * int(same)))
        for v, same in zip(found, labels, strict=True)
    ], labels


def test_fine_evidence_has_a_curve_of_its_own() -> None:
    found, labels = detailed(0)
    calibration = Calibration.fit(found, labels, trained_on="made up")
    assert calibration.fine is not None
    look_alike = answer(60)
    assert calibration.curve_for(look_alike) is calibration.coarse
    sure = calibration.judged(look_alike)
    for fine in (FineEvidence(90, 12, 5), FineEvidence(90, 0, 0)):
        judged = calibration.judged(replace(look_alike, fine=fine))
        assert judged.probability is not None
        assert sure.probability is not None
        assert judged.probability < sure.probability
        assert judged.verdict != "same"
        assert judged.accept == calibration.fine.accept
    for likeness in (answer(10**5), answer(900, similarity=1.0)):  # two gradients: all alike, and nothing to see
        assert calibration.judged(replace(likeness, fine=FineEvidence(0, 16, 6))).verdict != "same"
    confirmed = calibration.judged(replace(look_alike, fine=FineEvidence(90, 60, 35)))
    assert confirmed.verdict == "same"
    plain = [replace(v, fine=None) for v in found]
    assert Calibration.fit(plain, labels, trained_on="made up").fine is None
    few = [v if i < 20 else p for i, (v, p) in enumerate(zip(found, plain, strict=True))]
    assert Calibration.fit(few, labels, trained_on="made up").fine is None  # of one label fewer than 10


@given(seed=st.integers(0, 20), epipolar=st.integers(0, 500), planar=st.integers(0, 500), more=st.integers(0, 50))
def test_more_fine_inliers_never_make_it_less_probable(seed: int, epipolar: int, planar: int, more: int) -> None:
    calibration = Calibration.fit(*detailed(seed), trained_on="made up")
    v = answer(20, fine=FineEvidence(900, epipolar, planar))
    for other in (FineEvidence(900, epipolar + more, planar), FineEvidence(900, epipolar, planar + more)):
        assert calibration.probability(replace(v, fine=other)) >= calibration.probability(v)


@given(seed=st.integers(0, 50))
def test_few_of_the_different_pairs_are_the_same(seed: int) -> None:
    found, labels = labelled(seed, 40, 300)
    calibration = Calibration.fit(found, labels, trained_on="made up")
    verdicts = [calibration.judged(v).verdict for v in found]
    assert calibration.coarse.accept >= 0.9
    most = calibration.probability(answer(10**6))
    if calibration.coarse.accept < most:  # else some have the highest probability of all
        assert "same" not in [verdict for verdict, same in zip(verdicts, labels, strict=True) if not same]
    for v in found:
        judged = calibration.judged(v)
        assert judged.probability == calibration.probability(v)
        expected = "same" if judged.probability >= calibration.coarse.accept else "unsure"
        assert judged.verdict == ("different" if judged.probability < 0.5 else expected)
        assert bool(judged) is judged.same is (judged.verdict == "same")


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "homography"}, "geometry 'affine'"),
        ({"estimator": "ransac"}, "estimator 'exhaustive'"),
        ({"residual_px": 20.0}, "residual_px 24.0"),
        ({"reference_size": None}, "reference_size 1024"),
        ({"exponent": 2.0}, "exponent 3.0"),
    ],
)
def test_a_verification_of_other_options_is_refused(changes: dict[str, Any], what: str) -> None:
    other = answer(40, **changes)
    with pytest.raises(MismatchError, match=what):
        fitted().probability(other)
    found, labels = labelled(0)
    with raises(MismatchError, "150"):
        Calibration.fit([*found, other], [*labels, 1], trained_on="made up")
    with raises(MismatchError, "'default'"):
        Calibration.fit(
            [answer(v.inliers, **changes) for v in found], labels, trained_on="made up", profile=DEFAULT
        )
    counted = fitted(evidence="log_inliers")
    if "exponent" in changes:  # counts do not depend on it
        assert counted.probability(other) == counted.probability(answer(40))
    else:
        with pytest.raises(MismatchError):
            counted.probability(other)


def test_pairs_that_cannot_be_fitted() -> None:
    found, labels = labelled(0)
    cases: list[tuple[Any, Any, str]] = [
        (found, labels[:-1], "150"),
        (found, labels[:, None], "150"),
        ([], [], "0 pairs with label 1"),
        (found, np.ones(len(found)), "0 pairs with label 0"),
        (found, np.where(labels == 1, math.nan, 0), "labels"),
        (found, labels * 2, "labels"),
        (found, ["same"] * len(found), "labels"),
        (found[:12], [1] * 3 + [0] * 9, "3 pairs with label 1.*10"),
        (found, 1 - labels, "inliers"),
        ([answer(7)] * len(found), labels, "inliers"),
        ([*found[:-1], answer(1, math.nan)], labels, "pair 149"),
    ]
    for verifications, given_labels, fact in cases:
        with pytest.raises(DataError, match=fact):
            Calibration.fit(verifications, given_labels, trained_on="made up")
    with raises(DataError):
        fitted().probability(answer(1, math.nan))


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"evidence": "matches"}, r"'matches'.*inliers"),
        ({"prior": 0.0}, "prior"),
        ({"prior": 1.0}, "prior"),
        ({"prior": math.nan}, "prior"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        fitted(**options)
    if set(options) == {"prior"}:
        with pytest.raises(ConfigError, match=fact):
            fitted().probability(answer(1), prior=options["prior"])


# ----------------------------------------------------------------------------------------------------- files


def kept(**options: Any) -> Calibration:
    return fitted(**{"trained_on": "Häuser \udcff", "checkpoint": "tiny@0123", "profile": DEFAULT, **options})


def test_comes_back_from_its_file_with_the_same_bits(tmp_path: Path) -> None:
    calibration = kept()
    calibration.save(tmp_path / "c.json")
    back = Calibration.load(tmp_path / "c.json")
    assert back == calibration
    items = [answer(n) for n in range(0, 300, 7)]
    assert back.probabilities(items).tolist() == calibration.probabilities(items).tolist()
    first = (tmp_path / "c.json").read_bytes()
    back.save(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
    assert json.loads(first)["trained_on"] == "Häuser \udcff"  # of a file name that is not UTF-8


CURVE = {"weights": {"log_inliers": 1.0}, "intercept": -3.0, "positives": 20, "negatives": 30, "accept": 0.95}
DAMAGE: list[tuple[Any, str]] = [
    ({"format": None}, "not a calibration"),
    ({"format_version": 1}, "1.*2"),
    ({"prior": 1.5}, "prior"),
    ({"prior": "0.5"}, "prior"),
    ({"coarse": None}, "coarse"),
    ({"coarse": {**CURVE, "intercept": float("nan")}}, "intercept"),
    ({"coarse": {**CURVE, "intercept": None}}, "intercept"),
    ({"coarse": {**CURVE, "weights": {"log_inliers": -1.0}}}, "log_inliers"),
    ({"coarse": {**CURVE, "weights": {"matches": 1.0}}}, "matches"),
    ({"coarse": {**CURVE, "positives": 0}}, "positives"),
    ({"fine": {**CURVE, "accept": 1.0}}, "accept"),
    ({"evidence": "matches"}, "evidence"),
    ({"evidence": ["inliers"]}, "evidence"),
    ({"surprise": 1}, "'surprise'"),
    ({"verification_sha256": "abc"}, "verification_sha256"),
]


@pytest.mark.parametrize(("changes", "fact"), DAMAGE)
def test_damaged_values_are_named(changes: dict[str, Any], fact: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**kept().to_dict(), **changes}), encoding="utf-8")
    with pytest.raises(FormatError, match=fact) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "{}", "[" * 100_000, "\ud800"])
def test_what_is_no_calibration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with raises(FormatError, "bad.json"):
        Calibration.load(path)


def test_missing_values_and_files(tmp_path: Path) -> None:
    values = kept().to_dict()
    del values["geometry"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    with raises(FormatError):
        Calibration.load(tmp_path / "c.json")
    with raises(FormatError, "none.json"):
        Calibration.load(tmp_path / "none.json")
    with raises(FormatError, "c.json"):
        kept().save(tmp_path / "no" / "c.json")


def changed(**options: Any) -> Any:
    """The default profile with other options of verification."""
    return DEFAULT.model_copy(update={"verification": DEFAULT.verification.model_copy(update=options)})


def test_holds_for_its_model_and_options_only() -> None:
    calibration = kept()
    assert calibration.holds_for()
    assert calibration.holds_for(profile=DEFAULT, checkpoint="tiny@0123")
    ranked = DEFAULT.model_copy(update={"ranking": load_profile("strong").ranking})
    assert calibration.holds_for(profile=ranked)  # another ranking rule, the same evidence
    assert calibration.holds_for(profile=changed(min_inliers=9))
    for options in ({"max_distance": 0.7}, {"ratio": 0.9}, {"max_iterations": 9}):
        assert not calibration.holds_for(profile=changed(**options))
    precise = DEFAULT.extraction.model_copy(update={"precision": "fp32"})
    assert calibration.holds_for(profile=DEFAULT.model_copy(update={"extraction": precise}))
    assert not calibration.holds_for(profile=load_profile("fast"))  # other features
    assert not calibration.holds_for(profile=load_profile("delf"))
    other_details = DEFAULT.fine.model_copy(update={"ratio": 0.8})
    assert not calibration.holds_for(profile=DEFAULT.model_copy(update={"fine": other_details}))
    assert not calibration.holds_for(checkpoint="tiny@4567")
    other = DEFAULT.model_copy(update={"ranking": DEFAULT.ranking.model_copy(update={"exponent": 2.0})})
    assert not calibration.holds_for(profile=other)
    assert kept(evidence="inliers").holds_for(profile=other)
    assert kept(checkpoint=None, profile=None).holds_for(profile=DEFAULT, checkpoint="tiny@0123")


def test_found_beside_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.v2.safetensors"
    path = tmp_path / "tiny.v2.calibration.json"
    assert load_calibration(checkpoint) is None
    calibration = kept()
    calibration.save(path)
    assert load_calibration(checkpoint, profile=DEFAULT, identity="tiny@0123") == calibration
    assert load_calibration(str(checkpoint)) == calibration
    fast = load_profile("fast")
    assert load_calibration(checkpoint, profile=fast) is None
    assert load_calibration(checkpoint, identity="tiny@4567") is None
    other = calibration.model_copy(update=_hashes(fast))
    other.save(tmp_path / "tiny.v2.fast.calibration.json")
    assert load_calibration(checkpoint, profile=fast) == other
    assert load_calibration(checkpoint, profile=DEFAULT) == calibration
    path.write_text("{")
    with pytest.raises(FormatError):
        load_calibration(checkpoint)


def test_details_alone_judge_whatever_made_the_coarse_features() -> None:
    found, labels = labelled(0)
    rng = np.random.default_rng(1)
    counts = [(rng.integers(30, 90), rng.integers(10, 60)) if same else (14, 5) for same in labels]
    details = [FineEvidence(100, int(epipolar), int(planar)) for epipolar, planar in counts]
    seen = [replace(v, fine=d) for v, d in zip(found, details, strict=True)]
    alone = Calibration.fit(
        seen, labels, evidence=None, trained_on="made up", checkpoint="tiny@0123", profile=DEFAULT
    )
    assert (alone.coarse, alone.evidence, alone.checkpoint, alone.verification_sha256) == (None, None, None, None)
    assert alone.holds_for(profile=load_profile("delf"), checkpoint="other@4567")
    assert Calibration.model_validate(alone.model_dump()) == alone
    other = replace(seen[0], model="homography", estimator="ransac", exponent=1.0)
    for one in (seen[0], other, answer(0, fine=details[0])):
        assert alone.judged(one).same == labels[0]
    bare = found[0]
    assert alone.judged(bare) is bare
    small = FineEvidence(50, 9, 4, small=True)
    alike, unlike = (alone.judged(answer(inliers, fine=small)) for inliers in (35, 34))
    assert (alike.probability, alike.verdict) == (0.5, "unsure")
    assert (unlike.probability, unlike.verdict) == (None, "different")
    assert alone.judged(replace(bare, fine=FineEvidence(50, 9, 4))).verdict == "different"
    assert fitted().judged(replace(bare, fine=FineEvidence(50, 9, 4, small=True))).probability is not None
    with raises(DataError, "pair 1"):
        alone.probabilities([seen[0], bare])
    with raises(DataError, "0 pairs with label"):
        Calibration.fit(found, labels, evidence=None, trained_on="made up")


def test_named_outright_it_must_be_there_and_hold(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    with raises(FormatError, "own.json"):
        load_calibration(path)
    kept().save(path)
    assert load_calibration(path, profile=DEFAULT) == kept()
    with raises(MismatchError, "tiny@0123", "tiny@4567"):
        load_calibration(path, identity="tiny@4567")


@pytest.mark.parametrize("name", checkpoint_names())
def test_shipped_checkpoints_have_one_that_holds(name: str) -> None:
    """Where it fails because options changed: ``python -m benchmarks.verification.calibration`` fits them anew."""
    info = read_checkpoint_info(name)
    found = load_calibration(checkpoint_path(name), profile=load_profile(info.profile), identity=info.identity)
    assert found is not None
    options: dict[str, Any] = {
        "model": found.geometry,
        "estimator": found.estimator,
        "residual_px": found.residual_px,
        "reference_size": found.reference_size,
        "exponent": found.exponent,
    }
    p = found.probabilities([answer(n, **options) for n in (0, 10, 35, 200)])
    assert p[0] < 0.1
    assert p[3] > 0.95
    assert (np.diff(p) >= 0).all()


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize("name", checkpoint_names())
def test_every_checkpoint_and_profile_has_one(name: str, profile: str) -> None:
    options = load_profile(profile)
    found = calibration_of(name, options, read_checkpoint_info(name).identity)
    assert found is not None
    assert found.fine is not None
    geometry = {
        "model": options.verification.model,
        "estimator": options.verification.estimator,
        "residual_px": options.verification.residual_px,
        "reference_size": options.verification.reference_size,
        "exponent": options.ranking.exponent,
    }
    sure = answer(150, fine=FineEvidence(400, 120, 80), **geometry)
    assert found.judged(sure).verdict == "same"
    for inliers in (0, 20):
        assert found.judged(answer(inliers, fine=FineEvidence(100, 12, 5), **geometry)).verdict == "different"


def test_probabilities_need_no_scikit_learn(tmp_path: Path) -> None:
    kept().save(tmp_path / "c.json")
    code = (
        "import sys\nimport numpy as np\n"
        "from delf_engine.verification import Verification\n"
        "from delf_engine.verification.calibration import Calibration\n"
        "v = Verification('affine', np.eye(3), [[0, 0]], [0.9], 1, 24.0, 1024, 35, 1.0, 3.0, 'exhaustive')\n"
        f"print(Calibration.load({str(tmp_path / 'c.json')!r}).probability(v))\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'sklearn', 'scipy', 'torch', 'numba', 'cv2'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    value, modules = done.stdout.split("\n")[:2]
    assert 0 < float(value) < 1
    assert modules == "[]"


def test_a_pair_may_stand_for_several() -> None:
    found, labels = labelled(3)
    weights = np.random.default_rng(3).integers(1, 40, len(labels))
    weighted = Calibration.fit(found, labels, trained_on="made up", weights=weights)
    many = [v for v, times in zip(found, weights, strict=True) for _ in range(times)]
    repeated = Calibration.fit(many, np.repeat(labels, weights), trained_on="made up")
    assert weighted.coarse.positives == repeated.coarse.positives == weights[labels == 1].sum()
    assert weighted.coarse.accept == pytest.approx(repeated.coarse.accept)
    assert weighted.probabilities(found) == pytest.approx(repeated.probabilities(found))
    with pytest.raises(DataError):
        Calibration.fit(found, labels, trained_on="made up", weights=weights[1:])
