"""The benchmark of choices while the model writes."""

import string

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
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


# Guidance

LETTERS = ["<unk>", "<s>", "</s>", "\n", " ", *string.ascii_letters]


def log_probabilities(folder, shift, prompt, completion):
    """Log-probabilities of all tokens in place of each token of a completion.

    The layers are applied one by one. The states of the first one are moved from the
    last token of the prompt on.
    """
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    ids = [1, *map(LETTERS.index, " " + prompt + completion)]
    first = len(ids) - len(completion) - 1
    with torch.inference_mode():
        x, place = model.model.embed_tokens(torch.tensor([ids])), torch.arange(len(ids))
        options = {"position_ids": place[None]}
        options["position_embeddings"] = model.model.rotary_emb(x, place[None])
        for number, layer in enumerate(model.model.layers):
            out = layer(x, **options)
            x = out[0] if isinstance(out, tuple) else out
            if number == 0:
                x[:, first:] += torch.tensor(shift)
        logits = model.lm_head(model.model.norm(x))[0, first:]
    return logits.double().log_softmax(1).numpy(), ids[first + 1 :]


@pytest.mark.parametrize("strength", [-3, 0, 3])
def test_draws_are_those_of_the_model_with_moved_states(while_writing, tiny, strength):
    """One token: its frequency. Several: the log-likelihood, with cached states."""
    shift = strength * np.linspace(-0.4, 0.4, 16, dtype=np.float32)
    generator = TransformersGenerator(tiny, max_tokens=1, seed=0, log_likelihoods=True)
    with while_writing.moved_states(generator, shift, layer=1):
        texts = generator.sample("ab", 4000)["completions"]
        record = generator.set_params(max_tokens=5).sample("xyz", 40)
    log_p, _ = log_probabilities(tiny, shift, "ab", "")
    counts = [texts.count(letter) for letter in LETTERS[4:]]
    np.testing.assert_allclose(np.array(counts) / 4000, np.exp(log_p[0, 4:]), atol=0.03)
    n_checked = 0
    keys = ("completions", "log_likelihoods", "n_tokens")
    for text, found, size in zip(*(record[key] for key in keys), strict=True):
        if "<" not in text and len(text) == size > 1:
            log_p, ids = log_probabilities(tiny, shift, "xyz", text)
            expected = log_p[range(len(ids)), ids].sum()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            n_checked += 1
    assert n_checked > 10
    plain = generator.sample("xyz", 40)["completions"]  # nothing is moved any more
    assert (plain == record["completions"]) == (strength == 0)


def test_the_unit_is_the_spread_of_the_layer(while_writing, rng):
    """A step raises the value by the norm of the coefficients, along the gradient."""
    X = rng.normal(size=(200, 6)) * np.logspace(-2, 2, 6) + 3
    y = X @ (rng.normal(size=6) / np.logspace(-2, 2, 6))
    policy = make_pipeline(StandardScaler(), QProbePolicy("pairwise_logistic"))
    policy.fit(X, y, qprobepolicy__groups=np.arange(200) // 5)
    shift = while_writing.unit_shift(policy)
    values = policy.decision_function(X[:1])
    raised = policy.decision_function(X[:1] + shift) - values
    np.testing.assert_allclose(raised, np.linalg.norm(policy[-1].coef_), rtol=1e-4)
    gradient = [policy.decision_function(X[:1] + e) - values for e in np.eye(6)]
    cosine = shift @ np.ravel(gradient) / np.linalg.norm(shift)
    np.testing.assert_allclose(cosine, np.linalg.norm(gradient))
