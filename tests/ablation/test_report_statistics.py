"""Seed spread, paired differences, and the bootstrap interval."""

import numpy as np
import pytest
from scipy import stats

from nnunetv2_xattnres.ablation.report.statistics import bootstrap_interval, paired_difference, spread

NAN = np.nan


def test_spread_is_over_seeds_of_the_mean_over_cases_then_labels():
    scores = np.array([[[0.8, 0.4], [0.6, NAN]], [[0.9, 0.5], [0.9, NAN]]])  # two seeds, cases and labels
    found = spread(scores)
    assert found.mean == pytest.approx((0.55 + 0.7) / 2)  # (0.7 + 0.4) / 2 and (0.9 + 0.5) / 2
    assert found.sd == pytest.approx(np.std([0.55, 0.7], ddof=1))
    assert found.seeds == 2


def test_one_seed_has_no_spread():
    found = spread(np.full((1, 3, 1), 0.5))
    assert found.mean == 0.5
    assert np.isnan(found.sd)


def test_difference_is_paired_by_case():
    """Cases differ by far more than the configurations do; pairing leaves the difference alone."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0.2, 0.9, size=(1, 40, 1))
    noise = rng.normal(0, 0.001, size=(2, 3, 40, 1))
    found = paired_difference(level + noise[0], level + 0.01 + noise[1])
    assert found.value == pytest.approx(0.01, abs=0.001)
    assert 0.009 < found.low < found.value < found.high < 0.011
    assert found.cases == 40


def test_interval_is_that_of_scipy():
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 1.0, size=50) - 1.5
    low, high = bootstrap_interval(values[:, None])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=0
    ).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.03)
    assert high == pytest.approx(theirs.high, abs=0.03)
    assert (low, high) == bootstrap_interval(values[:, None])  # the same data give the same interval


def test_interval_draws_cases_not_scores():
    """Two labels of a case go together: drawn apart, opposite errors would not cancel."""
    rng = np.random.default_rng(2)
    errors = rng.normal(0, 1, size=30)
    low, high = bootstrap_interval(np.stack([errors, -errors], axis=1))
    assert abs(low) < 1e-12
    assert abs(high) < 1e-12


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.normal(0.5, 1.0, size=(40, 1)), resamples=500)
        covered += low <= 0.5 <= high
    assert 85 <= covered <= 99


def test_interval_needs_two_cases():
    assert np.isnan(bootstrap_interval(np.array([[0.3]]))).all()


def pair(difference, seed_noise, case_noise, seeds=3, cases=30):
    rng = np.random.default_rng(4)
    offsets = np.linspace(-1, 1, seeds).reshape(seeds, 1, 1) if seeds > 1 else np.zeros((1, 1, 1))
    base = 0.5 + seed_noise * offsets + np.zeros((seeds, cases, 1))
    return base, base + difference + case_noise * rng.normal(size=(1, cases, 1))


@pytest.mark.parametrize(
    ("difference", "seed_noise", "case_noise", "higher", "reading"),
    [
        (0.002, 0.01, 0.001, True, "within seed spread"),
        (0.05, 0.01, 0.001, True, "better"),
        (-0.05, 0.01, 0.001, True, "worse"),
        (-0.05, 0.01, 0.001, False, "better"),
        (0.05, 0.01, 0.9, True, "beyond seed spread, but the interval includes 0"),
        (0.016, 0.01, 0.001, True, "beyond seed spread, but too few seeds to tell"),
        (0.05, 0.0, 0.001, True, "no spread: all seeds score the same"),
    ],
)
def test_reading(difference, seed_noise, case_noise, higher, reading):
    base, variant = pair(difference, seed_noise, case_noise)
    if "includes" in reading:
        variant += difference - (variant - base).mean()
    assert paired_difference(base, variant, higher).reading == reading


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_configurations_are_rarely_called_better_or_worse(seeds):
    """Same network twice: cases and seeds vary, nothing else does."""
    rng = np.random.default_rng(5)
    calls = 0
    for _ in range(80):
        case_level = rng.normal(0.8, 0.1, size=(1, 20, 1))
        pair = case_level + rng.normal(0, 0.01, size=(2, seeds, 1, 1)) + rng.normal(0, 0.02, size=(2, seeds, 20, 1))
        calls += paired_difference(*pair).reading in ("better", "worse")
    assert calls <= 8  # 5 % of 80 and a little


def test_seed_spread_is_that_of_two_single_runs():
    base, variant = pair(0.1, 0.02, 0.0)
    assert paired_difference(base, variant).seed_spread == pytest.approx(np.sqrt(2) * 0.02)


def test_one_seed_proves_nothing():
    base, variant = pair(0.3, 0.0, 0.001, seeds=1)
    assert paired_difference(base, variant).reading == "single run: the seed spread is unknown"


def test_seeds_that_score_the_same_up_to_rounding_have_no_spread():
    """Nothing was learned: all background, all foreground, whatever the cases' sizes."""
    rng = np.random.default_rng(6)
    for _ in range(50):
        base = np.zeros((3, 40, 1)) + rng.uniform(0, 0.1, size=(1, 40, 1))
        variant = np.zeros((3, 40, 1)) + rng.uniform(0.1, 0.3, size=(1, 40, 1))
        variant[1:] += 1e-17 * rng.normal(size=(2, 40, 1)) + 1e-16  # the same sum in another order
        assert paired_difference(base, variant).reading == "no spread: all seeds score the same"


def test_what_only_some_runs_score_is_left_out_of_the_difference_and_counted():
    """A lesion invented in healthy cases: the baseline has no Dice there, the variant 0."""
    rng = np.random.default_rng(7)
    base = rng.uniform(0.7, 0.9, size=(3, 20, 1))
    variant = base + 0.05 + rng.normal(0, 1e-3, size=base.shape)
    base[:, 10:] = NAN
    variant[:, 10:] = 0
    variant[2, 0] = NAN  # and one that a single run lacks
    found = paired_difference(base, variant)
    assert (found.cases, found.left_out) == (9, 11)
    assert found.value == pytest.approx((variant - base)[:, 1:10].mean())
    assert found.reading.endswith("(11 left out)")


def test_only_common_cases_count():
    base, variant = np.full((1, 4, 1), 0.5), np.full((1, 4, 1), 0.6)
    base[0, 0], variant[0, 3] = NAN, NAN
    variant[0, 1] = 0.8
    found = paired_difference(base, variant)
    assert found.cases == 2
    assert found.value == pytest.approx((0.3 + 0.1) / 2)
    assert paired_difference(base, np.full((1, 4, 1), NAN)).reading == "no case in common"
