from functools import partial

import numpy as np
import pytest
from cases import ConstantState
from numpy.testing import assert_array_equal
from scipy.special import softmax
from scipy.stats import chisquare

from skqprobe import sample_candidates
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.sampling import draw_candidates

BELOW_ONE = np.nextafter(1, 0)


@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_frequencies_match_the_probabilities(rng, layout):
    proba = rng.dirichlet(np.ones(6), size=40)
    options = {"size": 4000, "random_state": 0}
    if layout == "sets":
        draws = 6 * np.arange(40)[:, None] + sample_candidates(proba, **options)
    else:
        order = rng.permutation(240)
        groups = np.repeat(np.arange(40), 6)[order]
        draws = order[sample_candidates(proba.ravel()[order], groups, **options)]
    counts = np.bincount(draws.ravel(), minlength=240)
    pvalues = chisquare(counts.reshape(40, 6), 4000 * proba, axis=1).pvalue
    # By Bonferroni, none should be below this. Nor should all of them fit too well.
    assert 0.01 / 40 < min(pvalues) < 0.5


def test_draws_of_a_prompt_are_independent():
    draws = sample_candidates(np.full((20_000, 2), 0.5), size=2, random_state=0)
    counts = np.bincount(2 * draws[:, 0] + draws[:, 1], minlength=4)
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
    ("uniform", "expected"),
    [
        *((uniform, [0, 3]) for uniform in (0.0, 0.249)),
        *((uniform, [1, 3]) for uniform in (0.25, 0.499)),
        (0.5, [1, 4]),
        *((uniform, [2, 4]) for uniform in (0.751, BELOW_ONE)),
    ],
)
def test_a_draw_inverts_the_distribution_function(uniform, expected):
    layout = check_layout((5,), ["a", "a", "a", "b", "b"])
    proba = np.array([0.25, 0.5, 0.25, 0.5, 0.5])
    for scale in (1, 0.5):  # sums of 1 up to rounding are accepted
        draws = draw_candidates(scale * proba, layout, None, ConstantState(uniform))
        assert draws.tolist() == expected


@pytest.mark.parametrize("edge", [0.0, BELOW_ONE, None])
def test_a_candidate_of_probability_zero_is_never_drawn(rng, edge):
    """Not even if the uniform number is at the edge of a prompt."""
    proba = rng.random(size=(500, 7)) ** 4
    proba[rng.random(size=proba.shape) < 0.6] = 0
    proba[np.arange(500), rng.integers(0, 7, size=500)] += 0.1
    proba /= proba.sum(axis=1, keepdims=True)
    assert (proba[:, 0] == 0).any()
    assert (proba[:, -1] == 0).any()
    draw = {"size": 50, "random_state": 0 if edge is None else ConstantState(edge)}
    assert np.take_along_axis(proba, sample_candidates(proba, **draw), 1).min() > 0
    groups = np.repeat(np.arange(500), 7)
    draws = sample_candidates(proba.ravel(), groups, **draw)
    assert proba.ravel()[draws].min() > 0
    assert (groups[draws] == np.arange(500)[:, None]).all()


@pytest.mark.parametrize("edge", [0.0, BELOW_ONE])
def test_draws_stay_in_their_prompt_among_very_many(edge):
    """Rounding of sums over many prompts does not carry a draw into the next one."""
    proba = np.tile([0.0, 1.0, 0.0], (200_000, 1))
    assert (sample_candidates(proba, random_state=ConstantState(edge)) == 1).all()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_lists(library):
    frames = pytest.importorskip(library)
    index = {"index": [3, 2, 1, 0]} if library == "pandas" else {}
    sets = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for proba in (sets, sets.tolist(), frames.DataFrame(sets)):
        assert sample_candidates(proba).tolist() == [1, 2]
    rows, groups = [0.0, 1.0, 1.0, 0.0], ["b", "a", "b", "a"]
    for make in (list, np.array, partial(frames.Series, **index)):
        assert sample_candidates(make(rows), make(groups)).tolist() == [2, 1]


def test_input_is_not_changed():
    proba, groups = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1, 0, 1, 0])
    proba.setflags(write=False)
    groups.setflags(write=False)
    sample_candidates(proba, random_state=0)
    sample_candidates(np.full(4, 0.5), groups, random_state=0)


def test_rounded_probabilities_are_accepted(rng):
    proba = softmax(rng.normal(size=(50, 9)), axis=1)
    draws, rounded = (
        sample_candidates(values, size=5, random_state=0)
        for values in (proba, proba.astype(np.float32))
    )
    assert_array_equal(rounded, draws)
    sample_candidates(proba.astype(np.float16))


def test_one_draw_without_an_axis(rng):
    proba = rng.dirichlet(np.ones(6), size=40)
    one, many = (sample_candidates(proba, size=k, random_state=0) for k in (None, 1))
    assert_array_equal(one[:, None], many)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", (2,)])
def test_bad_size(size):
    with pytest.raises(ValueError, match=r"size must be None or an integer of 1"):
        sample_candidates([[0.5, 0.5]], size=size)


def test_rows_without_groups_warn():
    with pytest.warns(UserWarning, match="no groups were given"):
        draws = sample_candidates([1.0, 1.0])
    assert draws.tolist() == [0, 0]
    assert sample_candidates([1.0]).tolist() == [0]  # without a warning
