"""The gap model's figures by hand, what must not move them, and the gate that names each way of being wrong."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.config import GatesConfig
from pit_jax.evaluation.controls import Standing
from pit_jax.evaluation.gap_quality import NAMES, Agreement, Bin, agreement, gates, measure, oriented, restore, verdict

Gaps = dict[str, np.ndarray]


def four(*pairs: tuple[float, float, float, float]) -> Gaps:
    """Rows of (wl, ww, ll, lw)."""
    return dict(zip(NAMES, np.array(pairs, np.float64).T, strict=True))


def by_effects(candidate_N: np.ndarray, reference_N: np.ndarray) -> Gaps:
    """Gaps that add up: the better candidate is worth C, the worse reference R."""
    zero_N = np.zeros_like(candidate_N)
    return {"wl": candidate_N + reference_N, "ww": candidate_N, "ll": reference_N, "lw": zero_N}


def pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy preferences: true difference, length difference, and what a healthy model sees of w - l, each [N].

    The better answer is a little longer; the label is a Bradley-Terry draw, so a perfect model is right 3 times in 4.
    """
    rng = np.random.default_rng(seed)
    true_N = rng.normal(size=count)
    length_N = np.round(5 * (0.3 * true_N + rng.normal(size=count)))
    seen_N = true_N + 0.6 * rng.normal(size=count)
    label_N = np.where(rng.random(count) < 1 / (1 + np.exp(-2 * true_N)), 1.0, -1.0)
    return true_N * label_N, length_N * label_N, seen_N * label_N


def failures(gaps: Gaps, length_N: np.ndarray, limits: GatesConfig | None = None) -> list[str]:
    return [gate.name for gate in gates(measure(gaps, length_N), limits or GatesConfig()) if not gate.passed]


def test_known_numbers() -> None:
    """Three pairs, means wl 2, ww 1, ll 0, lw -1: C = (2 + 1 - 0 + 1) / 2 = 2, R = (2 + 0 - 1 + 1) / 2 = 1.

    Second pair: wl = ww is a tie; third pair: wl < ww and ll < lw. |wl - lw| is 6, 3, 0; |ww - ll| is 1, 3, 1 and
    |wl + lw - ww - ll| is |3 - 3 - 0 - 1|, |3 + 0 - 3 - 0|, |0 + 0 - 0 + 1|.
    """
    gaps = four((3, 0, 1, -3), (3, 3, 0, 0), (0, 0, -1, 0))
    found = measure(gaps, np.array([1, -1, 0]))
    assert found.pairs == 3
    assert found.means == pytest.approx({"wl": 2, "ww": 1, "ll": 0, "lw": -1})
    assert found.reference_share == pytest.approx(1 / 3) and found.candidate_share == pytest.approx(2 / 3)
    assert found.order == pytest.approx(1 / 3)  # wl - ww = ll - lw = 1, of a spread of 3
    assert asdict(found.agreement) == pytest.approx({"tie": 5 / 9, "antisymmetry": 2 / 9})
    assert found.accuracies == pytest.approx(
        {"wl_ww": 2 / 3, "wl_ll": 1, "wl_lw": 2.5 / 3, "ww_lw": 2.5 / 3, "ll_lw": 1.5 / 3}
    )
    assert [(b.label, b.pairs, b.accuracy) for b in found.by_length] == [
        ("better answer longer", 1, 1.0),
        ("better answer as long", 1, 0.5),
        ("better answer shorter", 1, 1.0),
    ]
    assert found.length_bias is None and found.by_truth == ()
    assert found.length_correlation == pytest.approx(1.5 / np.sqrt(4.5 * 2))  # h = 3, 1.5, 0 against 1, -1, 0


def test_calibration_by_hand() -> None:
    """|h| = ln 3 says 3 in 4. Of 100 pairs 75 right: no error; 50 right: an error of 1/4. |h| = 0 says 1 in 2."""
    for right, error in ((75, 0.0), (50, 0.25), (100, 0.25)):
        sign_N = np.where(np.arange(100) % 4 < right // 25, 1.0, -1.0)
        found = measure(by_effects(np.log(3) * sign_N, np.log(3) * sign_N), np.zeros(100))
        assert found.calibration_error == pytest.approx(error, abs=0.011)
        assert [b.expected for b in found.by_confidence] == pytest.approx([0.75, 0.75])
    silent = measure(by_effects(np.zeros(4), np.zeros(4)), np.zeros(4))
    assert silent.calibration_error == 0.0
    assert silent.by_confidence == (Bin("sure 0.50 to 0.50", 4, 0.5, 0.5),)


def test_sureness_is_binned_in_order() -> None:
    true_N, length_N, seen_N = pairs(1000, 0)
    rows = measure(by_effects(seen_N, seen_N), length_N).by_confidence
    assert [row.pairs for row in rows] == [100] * 10
    assert [row.expected for row in rows] == sorted(row.expected for row in rows)
    assert rows[-1].accuracy > rows[0].accuracy + 0.2


def test_accuracy_by_the_size_of_the_true_difference() -> None:
    """The truth may contradict the label: then the gap is right when it is negative. Equal worth is left out."""
    half_N = np.array([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    truth_N = np.array([1.0, 1.0, -2.0, -2.0, 7.0, 0.0])
    rows = measure(by_effects(half_N, half_N), np.zeros(6), truth_N).by_truth
    assert [(row.label, row.pairs, row.accuracy) for row in rows] == [
        ("truth 1 to 1 apart", 2, 0.5),
        ("truth 2 to 2 apart", 2, 0.5),
        ("truth 7 to 7 apart", 1, 1.0),
    ]
    assert measure(by_effects(half_N, half_N), np.zeros(6), np.zeros(6)).by_truth == ()


def test_a_perfect_gap_is_a_difference_of_two_worths() -> None:
    """r(a, b) = s(a) - s(b): both texts count alike, equal texts tie, swapped texts cancel."""
    worth_N = np.random.default_rng(0).uniform(0.5, 2, 50)
    found = measure(four(*[(w, 0, 0, -w) for w in worth_N]), np.zeros(50))
    assert found.agreement == Agreement(0.0, 0.0)
    assert (found.reference_share, found.candidate_share, found.order) == pytest.approx((0.5, 0.5, 0.5))
    assert set(found.accuracies.values()) == {1.0}


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_a_zero_of_its_own_for_every_prompt_moves_nothing(seed: int, scale: float) -> None:
    """The loss leaves r + c(x) free, and every figure but the means is blind to it; only calibration sees the scale."""
    rng = np.random.default_rng(seed)
    gaps = dict(zip(NAMES, rng.normal(size=(4, 80)), strict=True))
    length_N, offset_N = rng.integers(-3, 4, 80), rng.normal(size=80)
    before = measure(gaps, length_N)
    moved = measure({name: gap_N + offset_N for name, gap_N in gaps.items()}, length_N)
    scaled = measure({name: gap_N * scale for name, gap_N in gaps.items()}, length_N)
    for other in (moved, scaled):
        for name in ("reference_share", "candidate_share", "order", "length_correlation", "length_bias"):
            assert getattr(other, name) == pytest.approx(getattr(before, name), abs=1e-6)
        assert asdict(other.agreement) == pytest.approx(asdict(before.agreement))
        assert other.accuracies == pytest.approx(before.accuracies)
    assert moved.calibration_error == pytest.approx(before.calibration_error)


@given(seed=st.integers(0, 10_000))
def test_swapped_labels_turn_every_accuracy_round(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gaps, length_N = dict(zip(NAMES, rng.normal(size=(4, 90)), strict=True)), rng.integers(-3, 4, 90)
    swapped = oriented(gaps, -np.ones(90))
    before, after = measure(gaps, length_N), measure(swapped, -length_N)
    assert after.accuracies["wl_lw"] == pytest.approx(1 - before.accuracies["wl_lw"])
    assert after.accuracies["wl_ww"] == pytest.approx(1 - before.accuracies["ll_lw"])
    assert after.reference_share == pytest.approx(-before.reference_share)
    assert asdict(agreement(swapped)) == pytest.approx(asdict(agreement(gaps)))
    assert after.length_bias == pytest.approx(before.length_bias)


def test_orienting_names_the_better_text_w() -> None:
    """Pair 1 stays, pair 2 changes letters, pair 3 has no better text."""
    found = oriented(four((1, 2, 3, 4), (5, 6, 7, 8), (9, 9, 9, 9)), np.array([2.5, -0.5, 0.0]))
    assert {name: gap_N.tolist() for name, gap_N in found.items()} == {
        "wl": [1, 8],
        "ww": [2, 7],
        "ll": [3, 6],
        "lw": [4, 5],
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_model_of_noisy_preferences_passes(seed: int) -> None:
    """Right about 7 times in 10, with gaps that do not quite add up."""
    rng = np.random.default_rng(seed)
    _, length_N, seen_N = pairs(1000, seed)
    gaps = {k: gap_N + 0.3 * rng.normal(size=1000) for k, gap_N in by_effects(1.2 * seen_N, 0.8 * seen_N).items()}
    assert 0.65 < measure(gaps, length_N).accuracies["wl_lw"] < 0.75
    assert failures(gaps, length_N) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("swapped labels", "direction"),
        ("shuffled labels", "accuracy"),
        ("longer is better", "length"),
        ("shorter is better", "length"),
        ("no reference", "reference"),
        ("adds both texts up", "reference"),
        ("no candidate", "candidate"),
        ("never punishes", "antisymmetry"),
        ("shouts", "calibration"),
    ],
)
def test_a_bad_model_is_refused_by_the_gate_that_names_its_fault(bad: str, named: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, length_N, seen_N = pairs(1000, seed)
    noise_N = 0.05 * rng.normal(size=1000)
    gaps = {
        "swapped labels": by_effects(-seen_N, -seen_N),
        "shuffled labels": by_effects(*(seen_N * rng.choice([-1.0, 1.0], 1000),) * 2),
        "longer is better": by_effects(np.tanh(length_N), np.tanh(length_N) + noise_N),
        "shorter is better": by_effects(-length_N / 5, -length_N / 5),
        "no reference": by_effects(seen_N, noise_N),
        "adds both texts up": by_effects(seen_N, -0.4 * seen_N),
        "no candidate": by_effects(noise_N, seen_N),
        "never punishes": by_effects(seen_N, 0 * seen_N) | {"ww": 0 * seen_N},
        "shouts": by_effects(9 * seen_N, 9 * seen_N),
    }[bad]
    assert failures(gaps, length_N)[0] == named


def test_a_model_that_ignores_its_reference_ranks_pairs_as_well_as_any() -> None:
    """wl = ww and ll = lw: nothing but the reference's share, and a |ww - ll| of the whole spread, gives it away."""
    _, length_N, seen_N = pairs(1000, 0)
    blind, whole = (
        measure(by_effects(seen_N, reference_N), length_N) for reference_N in (np.zeros_like(seen_N), seen_N)
    )
    assert blind.accuracies["wl_lw"] == whole.accuracies["wl_lw"] > 0.65
    assert blind.agreement == Agreement(1.0, 0.0) and whole.agreement == Agreement(0.0, 0.0)
    assert (blind.reference_share, whole.reference_share) == (0.0, 0.5)
    assert blind.accuracies["wl_ww"] == blind.accuracies["ll_lw"] == 0.5  # an exact tie is chance
    assert failures(by_effects(seen_N, 0 * seen_N), length_N) == ["reference", "weakest"]


def test_length_on_one_side_only_leaves_the_correlation() -> None:
    """Where chosen is always longer, both sides cannot be compared; counting tokens still shows."""
    length_N = np.random.default_rng(0).integers(1, 20, 400).astype(float)
    assert measure(by_effects(length_N, length_N), length_N).length_bias is None
    assert failures(by_effects(length_N, length_N), length_N)[0] == "length-correlation"
    assert "length-correlation" not in failures(by_effects(np.ones(400), np.ones(400)), length_N)


SOUND = {
    "longest": Standing(256, win=0.1, lose=0.9),
    "copy": Standing(0, 0.0, 0.0),
    "empty": Standing(256, win=0.0, lose=1.0),
    "another": Standing(256, win=0.2, lose=0.8),
    "cut": Standing(256, win=0.3, lose=0.6),
}


def refused(controls: dict[str, Standing], limits: GatesConfig) -> list[str]:
    """The gates that fail for a healthy model that takes the controls as said, and the others as a sound one."""
    _, length_N, seen_N = pairs(1000, 0)
    quality = replace(measure(by_effects(seen_N, seen_N), length_N), controls=SOUND | controls)
    return [gate.name for gate in gates(quality, limits) if not gate.passed]


@pytest.mark.parametrize(
    ("controls", "failed"),
    [
        ({}, []),
        ({"longest": Standing(256, win=1.0, lose=0.0)}, ["longest"]),
        ({"longest": Standing(256, win=0.55, lose=0.45)}, []),  # as even as noise leaves it
        ({"longest": Standing(256, win=0.0, lose=0.0)}, []),  # all ties: nothing is counted
        ({"empty": Standing(256, win=0.3, lose=0.7)}, ["empty"]),
        ({"another": Standing(256, win=0.45, lose=0.55)}, ["another"]),
        ({"cut": Standing(256, win=0.5, lose=0.5)}, ["cut"]),
        ({name: Standing(29, win=1.0, lose=0.0) for name in SOUND}, []),
        ({name: Standing(30, win=1.0, lose=0.0) for name in SOUND}, ["longest", "empty", "another", "cut"]),
        ({name: Standing(256, win=0.0, lose=0.0) for name in SOUND}, ["empty", "another", "cut"]),
    ],
)
def test_controls_are_gates(controls: dict[str, Standing], failed: list[str]) -> None:
    """Too few prompts that a control changes say nothing."""
    assert refused(controls, GatesConfig()) == failed


def test_a_control_that_nobody_asked_is_not_measurable() -> None:
    quality = measure(four((1, 1, 0, 0)), np.zeros(1))
    for controls in ({}, {name: Standing(29, 0.0, 0.0) for name in SOUND}):
        found = {gate.name: gate for gate in gates(replace(quality, controls=controls), GatesConfig())}
        assert all(found[name].figure is None and found[name].passed for name in SOUND if name != "copy")


@pytest.mark.parametrize("name", ["longest", "empty", "another", "cut"])
def test_the_limit_of_a_control_can_be_moved_either_way(name: str) -> None:
    worst = {name: Standing(256, win=1.0, lose=0.0)}
    assert refused(worst, replace(GatesConfig(), **{f"min_{name}": -1.0})) == []
    best = {name: Standing(256, win=0.05, lose=0.95)}
    assert refused(best, replace(GatesConfig(), **{f"min_{name}": 0.95})) == [name]


@pytest.mark.parametrize(("count", "limit"), [(25, 0.7), (100, 0.6), (10_000, 0.6)])
def test_few_pairs_need_a_higher_accuracy(count: int, limit: float) -> None:
    """Two standard errors over chance: 0.5 + 1 / sqrt(25) = 0.7."""
    half_N = np.ones(count)
    (gate,) = [g for g in gates(measure(by_effects(half_N, half_N), 0 * half_N), GatesConfig()) if g.name == "accuracy"]
    assert gate.limit == pytest.approx(limit)


def test_limits_are_the_callers() -> None:
    _, length_N, seen_N = pairs(1000, 0)
    gaps = by_effects(seen_N, seen_N)
    assert failures(gaps, length_N) == []
    for knob, value, name in (
        ("max_length_bias", -1.0, "length"),
        ("max_length_correlation", -1.0, "length-correlation"),
        ("min_accuracy", 0.8, "accuracy"),
        ("min_share", 0.6, "reference"),
        ("min_weakest", 0.8, "weakest"),
        ("max_asymmetry", -1.0, "antisymmetry"),
        ("max_calibration_error", -1.0, "calibration"),
    ):
        assert failures(gaps, length_N, replace(GatesConfig(), **{knob: value}))[0] == name


def test_a_verdict_says_figure_and_limit() -> None:
    found = {gate.name: gate for gate in gates(measure(four((1, 1, 0, 0)), np.zeros(1)), GatesConfig())}
    assert verdict(found["reference"]) == "reference 0.000, asked for at least 0.200"
    assert verdict(found["length"]) == "length not measurable, asked for at most 0.500"
    assert found["length"].passed and found["reference"].knob == "--rm.gates.min-share"


def test_measurements_survive_json() -> None:
    true_N, length_N, seen_N = pairs(200, 0)
    before = replace(measure(by_effects(seen_N, seen_N), length_N, true_N), controls=SOUND)
    assert len(before.by_truth) == 4
    assert restore(json.loads(json.dumps(asdict(before), allow_nan=False))) == before


def test_measurements_of_another_form_are_named() -> None:
    content = json.loads(json.dumps(asdict(measure(four((1, 1, 0, 0)), np.zeros(1)))))
    for change, found in (({"pairs": "three"}, r"got `str` - at `\$.pairs`"), ({"agreement": {}}, "field `tie`")):
        with pytest.raises(
            ValueError, match=f"figures of a gap model: .*{found}.*; delete its quality.json to measure"
        ):
            restore(content | change)


@pytest.mark.parametrize(
    ("gaps", "lengths", "message"),
    [
        ({name: np.zeros(0) for name in NAMES}, 0, r"found shapes \[\(0,\)"),
        (four((1, 1, 0, 0)) | {"lw": np.zeros(2)}, 1, r"\(2,\)"),
        (four((1, 1, 0, 0), (np.nan, 1, 0, 0), (0, np.inf, 0, 0)), 3, "2 of 3 pairs have a NaN or infinite gap"),
        (four((1, 1, 0, 0)), 2, "one length difference a pair"),
    ],
)
def test_unusable_gaps(gaps: Gaps, lengths: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(gaps, np.zeros(lengths))
