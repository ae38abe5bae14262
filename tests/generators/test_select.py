"""select_candidates: farthest-first traversal."""

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_array_equal

from skqprobe.generators import _select, select_candidates


@pytest.fixture(name="X")
def make_sets(rng):
    return rng.normal(size=(7, 9, 3)) * [1, 100, 0.01] + [0, 50, 3]


def traverse(Z, n_select):
    """Select from the candidates of one prompt, by the definition."""
    apart = np.linalg.norm(Z[:, None] - Z, axis=2)
    picked = [int(np.linalg.norm(Z - Z.mean(axis=0), axis=1).argmax())]
    while len(picked) < n_select:
        rest = [j for j in range(len(Z)) if j not in picked]
        picked.append(max(rest, key=lambda j: apart[j, picked].min()))
    return picked


@pytest.mark.parametrize("n_select", [1, 2, 4, 9])
def test_selection_follows_the_definition(X, n_select):
    scaled = X / X.std(axis=(0, 1))
    expected = [traverse(Z, n_select) for Z in scaled]
    found = select_candidates(X, n_select)
    assert found.shape == (7, n_select)
    assert_array_equal(found, expected)


def test_selection_of_fewer_is_the_beginning(X):
    assert_array_equal(select_candidates(X, 3), select_candidates(X, 8)[:, :3])


def test_scale_and_constants_of_prompts_have_no_effect(X, rng):
    other = X * [1e-3, 5, 1e3] + [4, 0, -7]
    assert_array_equal(select_candidates(other, 4), select_candidates(X, 4))
    constant = np.concatenate([X, np.full((7, 9, 1), 0.1)], axis=2)
    assert_array_equal(select_candidates(constant, 4), select_candidates(X, 4))


def test_rows_of_any_order_and_size(X, rng):
    rows, _, groups = as_rows(X, np.zeros(X.shape[:2]))
    order = rng.permutation(len(rows))
    chosen = select_candidates(rows[order], 4, groups[order])
    labels = groups[order][chosen]
    assert (labels == labels[:, :1]).all()  # of one prompt
    _, first = np.unique(groups[order], return_index=True)
    assert_array_equal(labels[:, 0], groups[order][np.sort(first)])
    expected = select_candidates(X, 4) + 9 * np.arange(7)[:, None]
    assert_array_equal(order[chosen], expected[labels[:, 0]])
    ragged = order[(groups[order] > 1) | (order % 9 < 5)]
    scaled = rows / rows[ragged].std(axis=0)
    for label, picked in zip(
        dict.fromkeys(groups[ragged]),
        select_candidates(rows[ragged], 4, groups[ragged]),
        strict=True,
    ):
        of_prompt = ragged[groups[ragged] == label]
        expected = of_prompt[traverse(scaled[of_prompt], 4)]
        assert_array_equal(ragged[picked], expected)


def test_blocks_do_not_change_the_selection(X, monkeypatch):
    expected = select_candidates(X, 4)
    monkeypatch.setattr(_select, "ENTRIES_AT_ONCE", 60)  # two prompts
    assert_array_equal(select_candidates(X, 4), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_types(X, dtype):
    X = X.astype(dtype)
    assert_array_equal(
        select_candidates(X, 4), select_candidates(X.astype(np.float64), 4)
    )


def test_duplicates_are_selected_last_and_at_random():
    X = np.zeros((1, 6, 1))
    X[0, 4:, 0] = 9, 5
    picks = np.array([select_candidates(X, 4, random_state=i)[0] for i in range(200)])
    assert_array_equal(picks[0], select_candidates(X, 4, random_state=0)[0])
    assert all(len(set(row)) == 4 for row in picks.tolist())
    assert (picks[:, 0] == 4).all()
    assert (picks[:, 2] == 5).all()
    counts = np.bincount(picks[:, 1], minlength=4)[:4]
    assert counts.sum() == 200 and counts.min() > 25  # one of four equal ones


@pytest.mark.parametrize("n_select", [0, -1, 1.0, True, "2", None])
def test_n_select_must_be_a_count(X, n_select):
    with pytest.raises(ValueError, match="n_select must be an integer of 1 or more"):
        select_candidates(X, n_select)


def test_prompts_with_too_few_candidates(X):
    with pytest.raises(ValueError, match="n_select=10, but a prompt has 9 candidates"):
        select_candidates(X, 10)


def test_rows_without_groups(X):
    with pytest.warns(UserWarning, match="no groups were given"):
        assert_array_equal(select_candidates(X[0], 1), np.zeros((9, 1)))


def test_not_finite_numbers_are_named(X):
    X[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"The first is X\[1, 2, 0\]"):
        select_candidates(X, 2)
