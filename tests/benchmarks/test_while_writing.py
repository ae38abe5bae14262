"""The benchmark of choices while the model writes."""

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.linear_model import Ridge

from skqprobe.generators import BlockwiseBestOfK, TransformersGenerator


def test_no_word_is_in_two_parts(while_writing):
    parts = while_writing.make_parts()
    words = {k: [w for i in items for w in i["words"]] for k, items in parts.items()}
    assert len(words["test"]) == len(set(words["test"])) >= 300
    assert not set(words["test"]) & (set(words["train"]) | set(words["settings"]))
    assert not set(words["train"]) & set(words["settings"])
    pairs = [frozenset(i["words"]) for items in parts.values() for i in items]
    assert len(pairs) == len(set(pairs))
    shipped = {frozenset(pair) for pair in while_writing.draw_pairs(240).tolist()}
    assert not shipped & set(pairs)
    assert all(" and ".join(i["words"]) in i["prompt"] for i in parts["test"])


def test_the_curve_is_that_of_the_best_of_k(while_writing):
    """A completion of 5 is good: with k draws, the chance is that of any good one."""
    y = np.tile([0.0, 0, 1, 0, 0], (3, 1))
    curve = while_writing.Curve(y, y, np.full(y.shape, 10.0))
    for k in range(1, 5):
        chance = 1 - hypergeom(5, 1, k).pmf(0)
        np.testing.assert_allclose(curve.at(10.0 * k), chance)
        np.testing.assert_allclose(curve.tokens_for(chance), 10 * k)
    np.testing.assert_allclose(curve.at(25.0), (0.4 + 0.6) / 2)
    found = while_writing.compare(np.full(3, 0.6), 20.0, curve)
    np.testing.assert_allclose(found["gain"]["value"], 0.2)
    np.testing.assert_allclose(found["saved"], 1 / 3)


@pytest.mark.parametrize("max_tokens", [7, 8])
def test_a_run_is_that_of_the_class(while_writing, tiny, rng, max_tokens):
    """With the random numbers of the generator, and one run."""
    X = rng.normal(size=(40, 32))
    value = Ridge().fit(X, X[:, 3] - X[:, 20])
    generator = TransformersGenerator(
        tiny, max_tokens=max_tokens, stop="a", seed=3, hidden_states=[1, 2]
    )

    class Uniforms:
        def __init__(self, prompt):
            self.left = generator._uniforms(prompt, 4)

        def random(self, shape, dtype):
            drawn, self.left = self.left[:, : shape[1]], self.left[:, shape[1] :]
            assert drawn.shape == shape
            return drawn

    for prompt in ("x", "hello", "gg", "mn", "opq"):
        best = BlockwiseBestOfK(
            generator,
            value,
            4,
            while_writing.BLOCK_TOKENS,
            embeddings="hidden_states",
        )
        [text], [record] = best.generate([prompt], return_candidates=True)
        arguments = (generator, prompt, value, 4, 1, Uniforms(prompt))
        [answer], n_tokens = while_writing.write_blockwise(*arguments)
        assert answer == text
        assert n_tokens == sum(step["n_tokens"] for step in record["steps"])


def test_runs_are_independent(while_writing, tiny, rng):
    X = rng.normal(size=(40, 32))
    value = Ridge().fit(X, X[:, 3] - X[:, 20])
    generator = TransformersGenerator(tiny, max_tokens=6, seed=3, hidden_states=[1, 2])
    arguments = (generator, "hello", value, 2, 30, rng)
    answers, n_tokens = while_writing.write_blockwise(*arguments)
    assert len(answers) == 30 and len(set(answers)) > 10
    assert n_tokens <= 2 * 6
