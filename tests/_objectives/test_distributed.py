"""Objectives in partitions are those of one process."""

import numpy as np
import pytest
from cases import every_loss
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe import QProbePolicy
from skqprobe._arrays import blocks
from skqprobe._arrays.collections import Parts
from skqprobe._estimators._fit import check_training_data, make_grid, make_objectives
from skqprobe._objectives.distributed import _pieces_of
from skqprobe.losses import LOSSES

pytest.importorskip("dask.array")


@pytest.fixture
def grids_of(data, chunked, rng):
    """Function that makes the grid in one process, and that in partitions."""
    X, y, groups = data
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        X, y, groups = X[order], y[order], groups[order]
    n_prompts = 60 if groups is None else 40
    in_fold = rng.integers(0, 3, (2, n_prompts))

    def make(loss, *, folds):
        settings = {"alpha": 0.1, "fit_intercept": True}
        checked = check_training_data(QProbePolicy(), X, y, groups)
        objectives = make_objectives(checked, LOSSES[loss](), **settings)
        lazy = (chunked(each, 17) for each in (X, y, groups))
        checked = check_training_data(QProbePolicy(), *lazy)
        others = make_objectives(checked, LOSSES[loss](), **settings)
        if not folds:
            return make_grid(objectives), make_grid(others)
        alphas = [0.1, 1.0]
        n = np.cumsum([each.n_prompts for each in checked.summaries])[:-1]
        parts = Parts.scatter(np.split(in_fold, n, axis=1))
        return make_grid(objectives, in_fold, alphas), make_grid(others, parts, alphas)

    return make


@pytest.mark.parametrize("folds", [False, True])
@every_loss
def test_protocol_of_a_grid(loss, folds, grids_of, rng):
    one, other = grids_of(loss, folds=folds)
    assert (one.n_objectives, one.n_folds) == (other.n_objectives, other.n_folds)
    thetas = rng.normal(size=(one.n_objectives, one.objective.n_parameters))
    which = np.arange(one.n_objectives)
    for grid in (other, other.with_loss(LOSSES[loss]())):
        pair = (
            one.value_and_gradient(thetas, which),
            grid.value_and_gradient(thetas, which),
        )
        for expected, found in zip(*pair, strict=True):
            assert_allclose(found, expected, atol=1e-13)
    assert_allclose(other.best_constants(), one.best_constants(), atol=1e-12)
    pair = (each.score_curvatures(thetas, which) for each in (one, other))
    for expected, found in zip(*pair, strict=True):
        assert found.sum() == pytest.approx(expected.sum())
        assert found.max() == pytest.approx(expected.max())
        low = expected.mean()
        assert found.clip(low).sum() == pytest.approx(expected.clip(low).sum())
    pair = ([*each.fold_objectives, *each.objectives] for each in (other, one))
    for fold, expected in zip(*pair, strict=True):
        assert (fold.n_rows, fold.n_prompts) == (expected.n_rows, expected.n_prompts)
        if fold in other.fold_objectives:  # random numbers of all prompts are not kept
            assert fold.curvature_at_zero == pytest.approx(expected.curvature_at_zero)
        for full in (False, True):
            pair = fold.moments(full), expected.moments(full)
            (found_mean, found), (mean, moment) = pair
            if not LOSSES[loss].shift_invariant:  # else only about the mean
                assert_allclose(found_mean, mean, atol=1e-13)
            lower = np.tril if full else np.asarray
            assert_allclose(lower(found), lower(moment), atol=1e-13)
            pair = fold.sampled_moments(full, 50), expected.sampled_moments(full, 50)
            assert_allclose(lower(pair[0][1]), lower(pair[1][1]), atol=1e-13)
    gathered = other.gathered().value_and_gradient(thetas, which)
    assert_allclose(gathered[0], one.value_and_gradient(thetas, which)[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_samples_are_those_of_one_process(weighted, grids_of, rng, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 400)
    one, other = grids_of("log_loss", folds=False)
    thetas = rng.normal(size=(1, one.objective.n_parameters))
    weights = [None, None]
    if weighted:
        weights = [
            each.score_curvatures(thetas, np.arange(1))[0] for each in (one, other)
        ]
    expected, share = one.objective.sample(50, weights[0])
    found, found_share = other.objective.sample(50, weights[1])
    rows = np.concatenate(
        [np.arange(rows.start, rows.stop) for _, rows, _ in expected._blocks]
    )
    assert_array_equal(found.X, one.objective.X[rows])
    assert found.n_rows == expected.n_rows
    if weighted:
        assert_allclose(found_share, share[rows])


@pytest.mark.parametrize(
    ("starts", "numbers", "n_prompts", "expected"),
    [
        ([0, 3, 5], [0, 1], [5], [[(0, 0, 3), (1, 3, 5)]]),
        ([0, 3, 5], [0, 1], [2, 3], [[(0, 0, 2)], [(0, 0, 1), (1, 1, 3)]]),
        ([0, 3, 5], [1], [2, 3], [None, [(1, 1, 3)]]),
        ([0, 3], [0], [2, 0, 1], [[(0, 0, 2)], None, [(0, 0, 1)]]),
        ([0, 1, 2, 3], [0, 1, 2], [1, 2], [[(0, 0, 1)], [(1, 0, 1), (2, 1, 2)]]),
        ([0, 1, 2, 3], [0, 2], [1, 2], [[(0, 0, 1)], [(2, 1, 2)]]),
    ],
)
def test_pieces(starts, numbers, n_prompts, expected):
    assert _pieces_of(np.array(starts), np.array(numbers), n_prompts) == expected
