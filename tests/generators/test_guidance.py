"""Guidance, with a tiny model whose layers the tests apply one by one."""

import pickle
import string

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.generators import Guidance, TransformersGenerator, collect
from skqprobe.io import trusted_types
from skqprobe.preprocessing import PerCandidate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("kept_models")

LETTERS = ["<unk>", "<s>", "</s>", "\n", " ", *string.ascii_letters]


LINE = np.eye(16), np.linspace(-1, 1, 16)


@pytest.fixture
def states(rng):
    """States of 20 prompts with features of very different spread, and rewards."""
    X = rng.normal(size=(20, 5, 16)) * np.logspace(-2, 2, 16) + 3
    y = (X[..., 2] - 3) / 0.03 + (X[..., 9] - 3) / 2 + rng.normal(size=(20, 5))
    return X, y


@pytest.fixture
def policy(states):
    scale = PerCandidate(StandardScaler())
    return make_pipeline(scale, QProbePolicy("pairwise_logistic")).fit(*states)


def log_probabilities(folder, shift, layer, prompt, completion):
    """Log-probabilities of all tokens in place of each token of a completion.

    The state of the layer is moved from the last token of the prompt on.
    """
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    ids = [1, *map(LETTERS.index, " " + prompt + completion)]
    first = len(ids) - len(completion) - 1
    with torch.inference_mode():
        x = model.model.embed_tokens(torch.tensor([ids]))
        place = torch.arange(len(ids))[None]
        rotation = model.model.rotary_emb(x, place)
        for number, each in enumerate(model.model.layers, start=1):
            out = each(x, position_embeddings=rotation, position_ids=place)
            x = out[0] if isinstance(out, tuple) else out
            if number == layer:
                x[:, first:] += torch.tensor(shift)
        logits = model.lm_head(model.model.norm(x))[0, first:]
    return logits.double().log_softmax(1).numpy(), ids[first + 1 :]


@pytest.mark.parametrize("strength", [-3, 0, 3])
def test_draws_are_those_of_the_model_with_moved_states(tiny, strength):
    """One token: its frequency. Several: the log-likelihood, with cached states."""
    guidance = Guidance(Ridge().fit(*LINE), layer=1, strength=strength)
    np.testing.assert_allclose(np.linalg.norm(guidance.shift), abs(strength), 1e-5)
    generator = TransformersGenerator(
        tiny, max_tokens=1, seed=0, log_likelihoods=True, guidance=guidance
    )
    texts = generator.sample("ab", 4000)["completions"]
    log_p, _ = log_probabilities(tiny, guidance.shift, 1, "ab", "")
    weight = np.exp(log_p[0])
    counts = [texts.count(letter) for letter in LETTERS[4:]]
    np.testing.assert_allclose(np.array(counts) / 4000, weight[4:], atol=0.03)
    record = generator.set_params(max_tokens=5).sample("xyz", 40)
    n_checked = 0
    for text, found, n_tokens in zip(
        record["completions"],
        record["log_likelihoods"],
        record["n_tokens"],
        strict=True,
    ):
        if "<" not in text and len(text) == n_tokens and n_tokens > 1:
            log_p, ids = log_probabilities(tiny, guidance.shift, 1, "xyz", text)
            expected = log_p[range(len(ids)), ids].sum()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            n_checked += 1
    assert n_checked > 10


def test_strength_0_equals_no_guidance(tiny, policy):
    captured = {"hidden_states": [1, 2], "log_likelihoods": True}
    generator = TransformersGenerator(tiny, max_tokens=6, seed=0, **captured)
    expected, moved = (
        clone(generator).set_params(guidance=guidance).sample("ab", 20)
        for guidance in (None, Guidance(policy, 1, 0))
    )
    assert expected["completions"] == moved["completions"]
    for key in ("hidden_states", "log_likelihoods"):
        np.testing.assert_array_equal(expected[key], moved[key])
    moved = clone(generator).set_params(guidance=Guidance(Ridge().fit(*LINE), 1, 5))
    assert moved.sample("ab", 20)["completions"] != expected["completions"]
    again = generator.sample("ab", 20)  # nothing is moved after a call
    assert again["completions"] == expected["completions"]


def test_captured_states_are_those_that_are_moved(tiny, policy):
    """With no token before the state, only the shift is added."""
    generator = TransformersGenerator(
        tiny, max_tokens=1, stop=LETTERS[3:], seed=0, hidden_states=1
    )
    guidance = Guidance(policy, 1, 2)
    before, after = (
        clone(generator).set_params(guidance=each).sample("ab", 1)["hidden_states"][0]
        for each in (None, guidance)
    )
    np.testing.assert_allclose(after - before, guidance.shift, rtol=1e-3, atol=1e-3)


def test_the_unit_is_the_spread_of_the_layer(states, policy):
    """A step of 1 raises the value by the norm of the coefficients.

    The direction is that of the gradient with respect to the states.
    """
    X, y = states
    shift = Guidance(policy, 1, 1).shift.astype(float)
    values = policy.decision_function(X)
    coef = policy[-1].coef_
    raised = policy.decision_function(X + shift) - values
    np.testing.assert_allclose(raised, np.linalg.norm(coef), rtol=1e-4)
    steps = np.eye(16)
    gradient = [policy.decision_function(X + e)[0, 0] - values[0, 0] for e in steps]
    cosine = shift @ gradient / np.linalg.norm(shift) / np.linalg.norm(gradient)
    np.testing.assert_allclose(cosine, 1)
    np.testing.assert_allclose(Guidance(policy, 1, -2).shift, -2 * shift, rtol=1e-5)
    # Whatever the units of the states are.
    scaled = clone(policy).fit(X * 1000, y)
    np.testing.assert_allclose(
        Guidance(scaled, 1, 1).shift, shift * 1000, rtol=1e-3, atol=1e-2
    )


def test_linear_probes_of_any_kind(states):
    X, y = states
    rows = X.reshape(-1, 16)
    by_hand = Ridge().fit(rows, y.ravel())
    direction = by_hand.coef_ / np.linalg.norm(by_hand.coef_)
    np.testing.assert_allclose(Guidance(by_hand, 1, 2).shift, 2 * direction, rtol=1e-5)
    for probe in (QProbePolicy(), QProbeRegressor()):
        assert Guidance(probe.fit(X, y), 1, 1).shift.shape == (16,)
    for with_std in (True, False):
        model = make_pipeline(
            "passthrough", StandardScaler(with_std=with_std), LogisticRegression(C=1e-6)
        )
        assert Guidance(model.fit(rows, y.ravel() > 0), 1, 1).shift.shape == (16,)


def test_bad_arguments(tiny, states, policy):
    X, y = states
    with pytest.raises(NotFittedError):
        Guidance(clone(policy), 1, 1)
    two = QProbePolicy().fit(X, np.stack([y, -y], axis=-1))
    reduced = make_pipeline(PCA(3), Ridge()).fit(X.reshape(-1, 16), y.ravel())
    with pytest.warns(ConvergenceWarning):
        network = QProbePolicy(hidden_layer_sizes=(2,), max_iter=2).fit(X, y)
    for bad in (two, reduced, network):
        with pytest.raises(TypeError, match="policy must be a linear probe of one"):
            Guidance(bad, 1, 1)
    with pytest.raises(ValueError, match="All coefficients of policy are 0"):
        Guidance(QProbeRegressor().fit(X, np.ones_like(y)), 1, 1)
    for arguments, message in (
        ((1.5, 1), "layer must be an integer; got 1.5"),
        ((True, 1), "layer must be an integer; got True"),
        ((1, np.nan), "strength must be a finite number; got nan"),
        ((1, "1"), "strength must be a finite number; got '1'"),
    ):
        with pytest.raises(ValueError, match=message):
            Guidance(policy, *arguments)
    small = Ridge().fit(np.eye(2), [0.0, 1.0])
    for guidance, message in (
        (Guidance(policy, 0, 1), "layer=0 of guidance must be one of 1 to 1"),
        (Guidance(policy, 2, 1), "layer=2 of guidance must be one of 1 to 1"),
        (Guidance(policy, -1, 1), "layer=-1 of guidance must be one of 1 to 1"),
        (Guidance(policy, 7, 1), "layer=7: the model has layers 0"),
        (Guidance(small, 1, 1), "has 2 features, but a state of the model 16"),
        (policy, "'guidance' parameter"),
    ):
        generator = TransformersGenerator(tiny, max_tokens=2, guidance=guidance)
        with pytest.raises(ValueError, match=message):
            generator.sample("ab", 2)


def test_clone_pickle_and_collect(tiny, policy, tmp_path):
    guidance = Guidance(policy, 1, 2)
    generator = TransformersGenerator(
        str(tiny), max_tokens=3, seed=0, guidance=guidance
    )
    expected = generator.sample("ab", 9)["completions"]
    skops = pytest.importorskip("skops.io")
    for other in (
        clone(generator),
        pickle.loads(pickle.dumps(generator)),
        skops.loads(skops.dumps(generator), trusted=trusted_types()),
    ):
        assert other.sample("ab", 9)["completions"] == expected
    assert (
        repr(guidance) == repr(Guidance(policy, 1, 2)) != repr(Guidance(policy, 1, 3))
    )

    def collect_with(guidance):
        generator.set_params(guidance=guidance)
        options = {"path": tmp_path / "records.jsonl"}
        return collect(["ab"], generator, lambda item, text: len(text), 4, **options)

    with pytest.warns(RuntimeWarning, match="were cut off"):
        records = collect_with(guidance)
    assert (
        collect_with(Guidance(policy, 1, 2))[0]["completions"]
        == (records[0]["completions"])
    )
    for other in (None, Guidance(policy, 1, 3), Guidance(Ridge().fit(*LINE), 1, 2)):
        with pytest.raises(ValueError, match="guidance"):
            collect_with(other)
    assert "guidance" not in TransformersGenerator(tiny)._settings()
