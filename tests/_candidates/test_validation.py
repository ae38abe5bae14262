import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe import QProbePolicy
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import (
    check_candidates,
    check_limits,
    check_proba,
    check_weights,
)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_are_not_copied(rng, dtype):
    X = rng.normal(size=(5, 3, 2)).astype(dtype)
    for given_X, shape in [(X, (5, 3)), (X.reshape(15, 2), (15,))]:
        checked, leading = check_candidates(QProbePolicy(), given_X, reset=True)
        assert np.shares_memory(checked, X)
        assert checked.dtype == dtype
        assert checked.shape == (15, 2)
        assert leading == shape


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, bool, object])
def test_other_dtypes_are_converted_to_float64(rng, dtype):
    X = rng.integers(0, 2, size=(5, 3, 2)).astype(dtype)
    checked, _ = check_candidates(QProbePolicy(), X, reset=True)
    assert checked.dtype == np.float64
    assert_array_equal(checked, X.reshape(15, 2).astype(float))


@pytest.mark.parametrize("hint", [(), (", or by hand",)])
@pytest.mark.parametrize(("size", "word"), [(1e-9, "small"), (1e9, "large")])
def test_limits_of_embeddings(hint, size, word):
    check_limits(np.eye(2), (2,), 1.0, 1.0, *hint)
    message = rf"^X has numbers .* too {word} .* Rescale X{''.join(hint)}\.$"
    with pytest.raises(ValueError, match=message):
        check_limits(size * np.eye(2), (2,), 1e-6, 1e6, *hint)


SETS, ROWS, NO_GROUPS, SQUARE = (
    check_layout(*arguments)
    for arguments in [((2, 3),), ((3,), [0, 1, 0]), ((3,),), ((2, 2),)]
)


@pytest.mark.parametrize(
    ("layout", "weight", "by_prompt", "by_candidate"),
    [
        (SETS, None, [1, 1], None),
        (ROWS, None, [1, 1], None),
        (NO_GROUPS, None, [1, 1, 1], None),
        (SETS, 2.0, [2, 2], None),
        (SETS, [1, 2], [1, 2], None),
        (SETS, [[1, 2, 3], [4, 5, 6]], [1, 1], [[1, 2, 3], [4, 5, 6]]),
        # Rows: weights are of candidates with groups, otherwise of prompts.
        (ROWS, [1, 2, 3], [1, 1], [1, 2, 3]),
        (NO_GROUPS, [1, 2, 3], [1, 2, 3], None),
        # n_prompts == k: only the number of axes distinguishes the two kinds.
        (SQUARE, [3, 4], [3, 4], None),
        (SQUARE, [[3, 4], [5, 6]], [1, 1], [[3, 4], [5, 6]]),
    ],
)
def test_weights_of_prompts_and_of_candidates(layout, weight, by_prompt, by_candidate):
    found = check_weights(weight, layout)
    expected = by_prompt, by_candidate
    assert tuple(w if w is None else w.tolist() for w in found) == expected


@pytest.mark.parametrize(
    ("proba", "groups", "message"),
    [
        ([[0.5, 0.6]], None, "proba must .*sum to 1 inside each prompt.*1.1"),
        ([[0.5, 0.5], [0.1, 0.2]], None, "proba must .*sum to 1.* from 0.3 to 1"),
        ([[0.0, 0.0]], None, "proba must .*sum to 1"),
        ([[-0.5, 1.5]], None, r"proba must be non-negative.* the lowest is -0\.5, "),
        ([[np.nan, 1.0]], None, "proba contains NaN"),
        ([[np.inf, 0.0]], None, "proba contains infinity"),
        ([0.5, 0.5], [0, 1], "proba must .*sum to 1 inside each prompt"),
        ([0.5, 0.5], [0], "groups has 1 label"),
        ([0.5, 0.5], [0, None], "groups contains None"),
        (np.full((2, 2, 2), 0.25), None, r"proba must have shape .*\(2, 2, 2\)"),
        (1.0, None, r"proba must have shape .*\(\)"),
        ([["a", "b"]], None, "proba must hold real numbers; got 'a'"),
        (np.empty((0, 3)), None, r"no candidates.*\(0, 3\)"),
        (np.empty((3, 0)), None, r"no candidates.*\(3, 0\)"),
        ([], [], "no candidates"),
    ],
)
def test_bad_probabilities(proba, groups, message):
    with pytest.raises(ValueError, match=message):
        check_proba(proba, groups)


def test_a_number_weights_all_rows_of_prompts(rows):
    X, y, groups = rows
    fitted = [QProbePolicy().fit(X, y, groups, sample_weight=w) for w in (None, 2.0)]
    np.testing.assert_allclose(fitted[1].coef_, fitted[0].coef_, rtol=1e-4)
