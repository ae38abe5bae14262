import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from skqprobe.metrics import best_of_k_kl_bound, effective_candidates, kl_upper_estimate


def test_estimates_are_means_of_functions_of_the_entropy(rng):
    proba = rng.dirichlet(np.ones(6), size=5)
    h = entropy(proba, axis=1)
    assert kl_upper_estimate(proba) == pytest.approx((np.log(6) - h).mean())
    assert effective_candidates(proba) == pytest.approx(np.exp(h).mean())


def test_ragged_rows():
    proba, groups = [0.5, 1.0, 0.5, 0.0], ["a", "b", "a", "b"]
    assert kl_upper_estimate(proba, groups) == pytest.approx(np.log(2) / 2)
    assert effective_candidates(proba, groups) == 1.5


@given(st.integers(1, 10**6))
def test_bound_is_at_most_log_k(k):
    assert 0 <= best_of_k_kl_bound(k) <= np.log(k)


def test_bound_is_the_divergence_of_best_of_k_without_ties():
    """Of the density k u^(k - 1) of the best candidate's quantile, for m -> inf."""
    k = 5
    u = (np.arange(10**6) + 0.5) / 10**6
    density = k * u ** (k - 1)
    divergence = (density * np.log(density)).mean()
    assert best_of_k_kl_bound(k) == pytest.approx(divergence, abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "argument", "message"),
    [
        (best_of_k_kl_bound, [2, 0], "k must be 1 or more"),
        (best_of_k_kl_bound, None, "k must be 1 or more; got None"),
        (kl_upper_estimate, [1.0, 1.0], "proba has rows but no groups"),
        (effective_candidates, [[0.5, 0.4]], "proba must be non-negative and sum to 1"),
    ],
)
def test_bad_input(metric, argument, message):
    with pytest.raises(ValueError, match=message):
        metric(argument)


def test_bound_of_one_k_is_a_number():
    bounds = best_of_k_kl_bound([1, 2])
    assert bounds.shape == (2,) and bounds[0] == 0
    assert isinstance(best_of_k_kl_bound(2), float)
    assert best_of_k_kl_bound(2) == bounds[1] == pytest.approx(np.log(2) - 0.5)
