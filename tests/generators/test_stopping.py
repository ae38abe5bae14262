"""BestOfK with a stopping rule, and with predicted rewards."""

import numpy as np
import pytest
from scipy.stats import chisquare
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from skqprobe import CalibratedPolicyCV, QProbePolicy, QProbeRegressor
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.generators import (
    BaseGenerator,
    BestOfK,
    ExpectedGain,
    RejectionSampling,
    Threshold,
    collect,
)
from skqprobe.preprocessing import SiblingFeatures


class Letters(BaseGenerator):
    """Words of 1 to 9 letters; other words in each call, unless there is a seed."""

    def __init__(self, seed=None, calls=None, progress="auto"):
        self.seed = seed
        self.calls = calls
        self.progress = progress

    def generate(self, prompts, k):
        if self.calls is not None:
            self.calls.append((list(prompts), k))
        return super().generate(prompts, k)

    def sample(self, prompt, k):
        seed = None if self.seed is None else [self.seed, *prompt.encode()]
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 10, size=k)
        return {
            "prompt": prompt,
            "completions": ["a" * n for n in lengths],
            "hidden_states": np.array([[n] for n in lengths], "float32"),
            "n_tokens": lengths.tolist(),
        }


def share(item, completion):
    return len(completion) / 9


PROMPTS = [f"prompt {i}" for i in range(40)]
NEW = [f"new {i}" for i in range(12)]
embedded = []


def embed(texts):
    embedded.extend(texts)
    return [[len(text)] for text in texts]


def letters():
    return VectorizerEmbedder(embed, join=lambda prompt, completion: completion)


@pytest.fixture(scope="module")
def records():
    return collect(PROMPTS, Letters(seed=3), share, k=6)


@pytest.fixture(scope="module")
def calibrated(records):
    rng = np.random.default_rng(0)
    X = rng.integers(1, 10, size=(40, 6, 1)) * 1.0
    policy = QProbePolicy("squared_error", alpha=1e-6)
    return CalibratedPolicyCV(policy, "linear").fit(X, X[..., 0] / 9)


@pytest.fixture
def best(calibrated):
    def make(stopping, **options):
        options = {"embeddings": "hidden_states", "random_state": 0} | options
        options = {"k": 16, "batch_size": 4} | options
        generator = options.pop("generator", Letters())
        return BestOfK(generator, calibrated, stopping=stopping, **options)

    return make


def test_prompts_that_need_more_go_on_together(best):
    calls = []
    rule = Threshold(0.99)
    completions, records = best(rule, generator=Letters(calls=calls)).generate(
        NEW, return_candidates=True
    )
    n_drawn = [record["n_drawn"] for record in records]
    assert len(set(n_drawn)) > 1 and set(n_drawn) <= {4, 8, 12, 16}
    assert len(calls) == max(n_drawn) / 4 > 1
    for number, (prompts, k) in enumerate(calls):
        assert k == 4
        assert prompts == [
            prompt for prompt, n in zip(NEW, n_drawn, strict=True) if n > 4 * number
        ]
    for completion, record in zip(completions, records, strict=True):
        n = record["n_drawn"]
        for key in ("completions", "hidden_states", "n_tokens", "values"):
            assert len(record[key]) == n
        assert record["probabilities"].shape == (n,)
        lengths = np.array([len(text) for text in record["completions"]])
        np.testing.assert_array_equal(record["hidden_states"][:, 0], lengths)
        assert record["n_tokens"] == lengths.tolist()
        assert record["accepted"] == (lengths.max() == 9)
        assert n == 16 or lengths[: n - 4].max(initial=0) < 9 == lengths.max()
        assert len(completion) == lengths.max()
        assert record["predicted_reward"] == pytest.approx(lengths.max() / 9)


def test_the_limit_need_not_be_a_multiple(best):
    calls = []
    never = best(Threshold(2.0), k=6, generator=Letters(calls=calls))
    _, records = never.generate(NEW, return_candidates=True)
    assert [k for _, k in calls] == [4, 2]
    assert {r["n_drawn"] for r in records} == {6}
    assert not any(record["accepted"] for record in records)
    calls.clear()
    best(Threshold(2.0), k=3, generator=Letters(calls=calls)).generate(NEW)
    assert [k for _, k in calls] == [3]


def test_values_that_only_the_last_candidates_have_are_left_out(best):
    """Servers know the number of tokens of a single completion only."""

    class Single(Letters):
        def sample(self, prompt, k):
            record = super().sample(prompt, k)
            if k > 1:
                del record["n_tokens"]
            return record

    never = best(Threshold(2.0), k=5, generator=Single())  # 4, and one more
    _, records = never.generate(NEW, return_candidates=True)
    assert all(len(record["completions"]) == 5 for record in records)
    assert not any("n_tokens" in record for record in records)


def test_without_a_rule_all_are_drawn_at_once(best):
    calls = []
    every = best(None, generator=Letters(calls=calls))
    _, records = every.generate(NEW, return_candidates=True)
    assert [k for _, k in calls] == [16]
    assert {record["n_drawn"] for record in records} == {16}
    assert all(record["accepted"] for record in records)


def test_an_object_of_an_older_version_has_no_rule(best):
    state = best(None).__getstate__()
    del state["stopping"], state["batch_size"]
    old = BestOfK.__new__(BestOfK)
    old.__setstate__(state)
    _, records = old.generate(NEW, return_candidates=True)
    assert {record["n_drawn"] for record in records} == {16}
    assert old.get_params(deep=False)["stopping"] is None


def test_expected_gain(best, calibrated):
    drawn = []
    for cost in (0.2, 0.02, 0.0005):
        rule = ExpectedGain(cost).fit(calibrated.held_out_rewards_)
        one = best(rule, batch_size=1, generator=Letters(seed=5))
        _, records = one.generate(NEW, return_candidates=True)
        drawn.append(np.mean([record["n_drawn"] for record in records]))
    assert 1 <= drawn[0] < drawn[1] < drawn[2] <= 16


def test_a_seed_does_not_repeat_the_candidates(best):
    rule = Threshold(2.0)
    first = best(rule, generator=Letters(seed=1)).generate(NEW, return_candidates=True)
    again = best(rule, generator=Letters(seed=1)).generate(NEW, return_candidates=True)
    assert first[0] == again[0]
    for record in first[1]:
        batches = [tuple(record["completions"][i : i + 4]) for i in range(0, 16, 4)]
        assert len(set(batches)) == 4


def test_rejection_sampling_draws_from_the_tilted_policy(best):
    rule = RejectionSampling(0.3, bound=1.0)
    sampler = best(rule, k=64, generator=Letters(seed=1))
    prompts = [f"{i}" for i in range(1500)]
    _, records = sampler.generate(prompts, return_candidates=True)
    assert all(record["accepted"] for record in records)
    lengths = [len(r["completions"][r["chosen"]]) for r in records]
    weight = np.exp(np.arange(1, 10) / 9 / 0.3)
    counts = np.bincount(lengths, minlength=10)[1:]
    assert chisquare(counts, 1500 * weight / weight.sum()).pvalue > 1e-3
    for record in records[:50]:
        assert record["chosen_probability"] == 1.0
        chosen = len(record["completions"][record["chosen"]])
        assert record["predicted_reward"] == pytest.approx(chosen / 9)


def test_values_of_siblings_are_recomputed(records):
    rewards = [record["rewards"] for record in records]
    pipeline = make_pipeline(letters(), SiblingFeatures(), QProbePolicy(alpha=0.1))
    pipeline.fit(records, rewards)
    one = BestOfK(Letters(), pipeline, 8, stopping=Threshold(np.inf), batch_size=3)
    _, found = one.generate(NEW, return_candidates=True)
    expected = pipeline.decision_function(found)
    np.testing.assert_allclose([r["values"] for r in found], expected)


def test_a_pipeline_of_texts_embeds_once_for_all_results(records):
    rewards = [record["rewards"] for record in records]
    pipeline = make_pipeline(letters(), QProbePolicy("squared_error", alpha=1e-6))
    calibrated = CalibratedPolicyCV(pipeline, "linear").fit(records, rewards)
    embedded.clear()
    one = BestOfK(Letters(), calibrated, 8, random_state=0)
    _, found = one.generate(NEW, return_candidates=True)
    assert len(embedded) == len({t for r in found for t in r["completions"]})
    np.testing.assert_allclose(
        [r["predicted_reward"] for r in found], calibrated.predict_reward(found)
    )
    np.testing.assert_array_equal(
        [r["values"] for r in found], calibrated.decision_function(found)
    )


def test_a_regressor_hands_over_its_values(records):
    texts = [text for record in records for text in record["completions"]]
    model = make_pipeline(letters(), QProbeRegressor(alpha=1e-6))
    model.fit(texts, [len(text) / 9 for text in texts])
    one = BestOfK(Letters(seed=1), model, 60, stopping=Threshold(0.99), random_state=0)
    completions, found = one.generate(NEW, return_candidates=True)
    assert all(len(text) == 9 for text in completions)
    assert "predicted_reward" not in found[0]
    assert min(record["n_drawn"] for record in found) < 60


def test_a_rule_of_the_user(best):
    class Second:
        def accept(self, values, uniforms):
            assert values.shape == uniforms.shape
            accepted = np.zeros(values.shape, dtype=bool)
            accepted[:, 1:2] = True
            return accepted

    _, records = best(Second(), batch_size=1).generate(NEW, return_candidates=True)
    assert [(r["n_drawn"], r["chosen"]) for r in records] == [(2, 1)] * 12


@pytest.mark.parametrize("rule", [None, Threshold(9.0)])
def test_a_generator_that_returns_too_few(best, rule):
    class Fewer(Letters):
        def sample(self, prompt, k):
            return super().sample(prompt, k - 1)

    class Lost(Letters):
        def generate(self, prompts, k):
            return super().generate(prompts, k)[1:]

    k = 4 if rule else 16
    for generator, found in (
        (Fewer(), f"12 records of {k - 1} to {k - 1}"),
        (Lost(), f"11 records of {k} to {k}"),
    ):
        words = f"The generator must return {k} completions .* 12 prompts; .* {found}"
        with pytest.raises(ValueError, match=words):
            best(rule, generator=generator).generate(NEW)


def test_values_that_are_nan(best):
    class Nan(Ridge):
        def predict(self, X):
            return np.full(len(X), np.nan)

    model = Nan().fit([[1.0], [2.0]], [1.0, 2.0])
    for rule in (None, Threshold(0.5)):
        with pytest.raises(ValueError, match="pipeline returned NaN for a candidate"):
            best(rule).set_params(pipeline=model).generate(NEW)


def test_errors_before_anything_is_drawn(best):
    calls = []

    class Wrong:
        def accept(self, values, uniforms):
            return values.max(axis=1) > 0.5

    for rule, error, words in (
        (ExpectedGain(0.1), NotFittedError, "ExpectedGain"),
        (ExpectedGain(-1.0), ValueError, "'cost'"),
        (Wrong(), ValueError, "accept of Wrong"),
        ("gain", ValueError, "'stopping' parameter"),
        (Threshold, ValueError, "stopping must be a rule"),
    ):
        with pytest.raises(error, match=words):
            best(rule, generator=Letters(calls=calls)).generate(NEW)
    with pytest.raises(ValueError, match="'batch_size' parameter"):
        best(Threshold(0.5), batch_size=0).generate(NEW)
    assert calls == []
