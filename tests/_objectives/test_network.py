from dataclasses import replace

import numpy as np
import pytest
from cases import make_objective
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._objectives.network import NetworkObjective, network_scores


@pytest.fixture
def objective(rows):
    X, y, groups = rows
    return make_objective(X, y, "log_loss", groups, hidden_layer_sizes=(8, 4))


def split(objective):
    return objective.hold_out(np.random.RandomState(0))


def test_scores_in_blocks(monkeypatch, rng):
    X = rng.normal(size=(50, 3))
    coefs = [rng.normal(size=shape) for shape in [(3, 20), (20, 1)]]
    intercepts = [rng.normal(size=20), rng.normal(size=1)]
    expected = np.maximum(X @ coefs[0] + intercepts[0], 0) @ coefs[1] + intercepts[1]
    assert_allclose(network_scores(X, coefs, intercepts), expected[:, 0], rtol=1e-12)
    monkeypatch.setattr("skqprobe._objectives.network.BLOCK_BYTES", 7 * 20 * 8)
    assert_allclose(network_scores(X, coefs, intercepts), expected[:, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("n_prompts", "n_rows", "n_least", "low", "high"),
    [
        (40, 1, 1, 40, 40),
        (40, 10**6, 1, 1, 1),
        # At least n_least, if there are as many prompts.
        (40, 10**6, 10, 8, 10),
        (3, 10**6, 10, 1, 3),
    ],
)
def test_batches_are_whole_prompts(objective, n_prompts, n_rows, n_least, low, high):
    prompts = np.arange(n_prompts)[::-1]
    batches = objective.batches(prompts, n_rows, n_least)
    assert low <= len(batches) <= high
    assert all(len(batch) for batch in batches)
    assert_array_equal(np.concatenate(batches), prompts)


@pytest.mark.parametrize(
    ("n_prompts", "expected"), [(1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (60, 6)]
)
def test_a_tenth_of_the_prompts_is_held_out(sets, n_prompts, expected):
    X, y = (array[:n_prompts] for array in sets)
    train, held_out = split(make_objective(X, y, "log_loss", hidden_layer_sizes=(2,)))
    assert len(held_out) == expected
    assert_array_equal(np.sort(np.append(train, held_out)), np.arange(n_prompts))


def test_sets_of_one_prompt_are_held_out_together(sets):
    origin = np.repeat(np.arange(20), 3)
    settings = {"hidden_layer_sizes": (2,), "origin": origin}
    train, held_out = split(make_objective(*sets, "log_loss", **settings))
    assert len(held_out) == 6
    assert np.intersect1d(origin[train], origin[held_out]).size == 0


def test_outputs_of_several_rewards(sets, rng):
    X, y = sets
    first, other = (
        make_objective(X, y, "log_loss"),
        make_objective(X, 1 - y, "log_loss"),
    )
    weight = np.arange(60.0)
    other = replace(other, prompt_weight=weight)
    objective = NetworkObjective([first, other], (8,))
    assert objective.layer_shapes == [(4, 8), (8, 2)]
    theta = rng.normal(size=objective.n_parameters)
    assert len(theta) == 4 * 8 + 8 * 2 + 8 + 2
    weights, biases = objective.split(theta)
    assert_array_equal(objective.join(weights, biases), theta)
    scores = network_scores(objective.X, weights, biases)
    assert scores.shape == (360, 2)
    prompts = np.array([5, 0, 7])
    rows = (prompts[:, None] * 6 + np.arange(6)).ravel()
    _, copies, loss = objective.read(prompts)
    assert_allclose(copies, np.repeat(1 / 60 + weight[prompts] / weight.sum(), 6))
    values, slopes = loss(scores[rows])
    for j, each in enumerate((first, other)):
        expected, slope = each._weighted_loss(
            scores[rows, j], prompts, rows, np.array([0, 6, 12, 18])
        )
        assert values[j] == pytest.approx(expected)
        assert_allclose(slopes[:, j], slope)
