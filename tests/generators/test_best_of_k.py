"""BestOfK and stack_embeddings."""

import asyncio
import random
import threading

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.generators import BaseGenerator, BestOfK, collect, stack_embeddings
from skqprobe.metrics import candidate_values
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

K = 6


def features(text):
    return [text.count("a"), len(text)]


def pairs_of(records):
    """List the pairs of prompt and completion."""
    return [(r["prompt"], text) for r in records for text in r["completions"]]


POLICY_AT_1 = QProbePolicy(loss="squared_error", temperature=1.0)


class Toy(BaseGenerator):
    """Random words of the letters a and b; copies share `asked`."""

    def __init__(self, asked=None, progress="auto"):
        self.asked = asked
        self.progress = progress

    def sample(self, prompt, k):
        if self.asked is not None:
            self.asked.append(prompt)
        draw = random.Random(str(prompt))
        texts = ["".join(draw.choices("ab", k=draw.randint(1, 9))) for _ in range(k)]
        states = np.array([features(text) for text in texts], "float32")
        return {"prompt": prompt, "completions": texts, "hidden_states": states}


def letters():
    """Embed completions alone, by their features."""
    return VectorizerEmbedder(
        lambda texts: [features(text) for text in texts],
        join=lambda prompt, completion: completion,
    )


def count_a(item, completion):
    return completion.count("a")


PROMPTS = [f"prompt {i}" for i in range(20)]
NEW = [f"new {i}" for i in range(7)]


@pytest.fixture(scope="module")
def records():
    return collect(PROMPTS, Toy(), count_a, K)


@pytest.fixture(scope="module")
def rewards(records):
    return np.array([record["rewards"] for record in records])


@pytest.fixture
def pipeline(records, rewards):
    scale = PerCandidate(StandardScaler())
    policy = QProbePolicy(loss="squared_error", alpha=1e-6)
    return make_pipeline(letters(), scale, policy).fit(records, rewards)


def assert_best(completions):
    """Check that the completions of NEW have as many a as any candidate."""
    for prompt, completion in zip(NEW, completions, strict=True):
        candidates = Toy().sample(prompt, K)["completions"]
        assert completion.count("a") == max(text.count("a") for text in candidates)


def test_it_returns_the_best_completion_of_each_prompt(pipeline):
    assert_best(BestOfK(Toy(), pipeline, K, random_state=0).generate(NEW))
    for prompt in ("a", [{"role": "user", "content": "a"}]):
        (only,) = BestOfK(Toy(), pipeline, 1).generate([prompt])
        assert [only] == Toy().sample(prompt, 1)["completions"]


def test_records_have_probabilities_and_the_choice(pipeline):
    pipeline.set_params(qprobepolicy__temperature=1.0)
    best = BestOfK(Toy(), pipeline, K, random_state=0)
    completions, records = best.generate(NEW, return_candidates=True)
    drawn = Toy().generate(NEW, K)
    proba = pipeline.predict_proba(drawn)
    for i, record in enumerate(records):
        assert record["completions"] == drawn[i]["completions"]
        assert record["completions"][record["chosen"]] == completions[i]
        assert type(record["chosen"]) is int
        np.testing.assert_array_equal(record["probabilities"], proba[i])
    assert 0 < proba.max() < 1


def test_a_temperature_draws_by_the_probabilities(pipeline):
    pipeline.set_params(qprobepolicy__temperature=1.0)
    rng = np.random.RandomState(0)
    best = BestOfK(Toy(), pipeline, K, random_state=rng)
    counts = np.zeros(K)
    for _ in range(400):
        _, (record,) = best.generate(["one"], return_candidates=True)
        counts[record["chosen"]] += 1
    expected = 400 * record["probabilities"]
    assert abs(counts - expected).max() < 4 * np.sqrt(400 / 4)
    assert (counts > 0).sum() > 1


def test_random_state_repeats_the_choice(pipeline):
    pipeline.set_params(qprobepolicy__temperature=5.0)
    first, again, other = (
        BestOfK(Toy(), pipeline, K, random_state=seed).generate(NEW * 5)
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_candidates_are_not_changed(pipeline):
    kept = Toy().generate(NEW, K)

    class Keeps(Toy):
        def generate(self, prompts, k):
            return kept

    BestOfK(Keeps(), pipeline, K).generate(NEW, return_candidates=True)
    assert all("chosen" not in record for record in kept)


OF_TEXTS = {
    "probe": make_pipeline(letters(), QProbeRegressor(alpha=1e-6)),
    "ridge": make_pipeline(letters(), StandardScaler(), Ridge(1e-6)),
    "search": GridSearchCV(
        make_pipeline(letters(), Ridge()), {"ridge__alpha": [1e-6, 1]}, cv=2
    ),
}
OF_STATES = {
    "probe": QProbeRegressor(alpha=1e-6),
    "ridge": make_pipeline(StandardScaler(), Ridge(1e-6)),
    "search": GridSearchCV(Ridge(), {"alpha": [1e-6, 1]}, cv=2),
}


@pytest.mark.parametrize("name", OF_TEXTS)
@pytest.mark.parametrize("embeddings", [None, "hidden_states"])
def test_of_a_regressor_the_highest_value_is_taken(records, name, embeddings):
    X = texts = [text for record in records for text in record["completions"]]
    model = clone((OF_STATES if embeddings else OF_TEXTS)[name])
    if embeddings:
        X = [features(text) for text in texts]
    model.fit(X, [text.count("a") for text in texts])
    best = BestOfK(Toy(), model, K, embeddings=embeddings, random_state=0)
    completions, candidates = best.generate(NEW, return_candidates=True)
    assert_best(completions)
    for record in candidates:
        assert record["probabilities"].sum() == pytest.approx(1)
        assert record["probabilities"][record["chosen"]] > 0


def test_an_event_loop_awaits_several_calls_at_once(pipeline):
    entered = threading.Barrier(2, timeout=5)  # both calls must be in sample

    class Waits(Toy):
        def sample(self, prompt, k):
            entered.wait()
            return super().sample(prompt, k)

    best = BestOfK(Waits(), pipeline, K, random_state=0)

    async def run():
        return await asyncio.gather(
            best.agenerate(NEW[:1]), best.agenerate(NEW[1:2], return_candidates=True)
        )

    first, (second, records) = asyncio.run(run())
    assert [first, second] == [
        BestOfK(Toy(), pipeline, K, random_state=0).generate([prompt])
        for prompt in NEW[:2]
    ]
    assert records[0]["completions"][records[0]["chosen"]] == second[0]


def test_the_configuration_holds_in_the_thread_of_an_event_loop(records, rewards):
    groups = np.repeat(np.arange(len(records)), K)
    with config_context(enable_metadata_routing=True):
        model = make_pipeline(letters(), StandardScaler(), SiblingFeatures(), Ridge())
        model.fit(pairs_of(records), rewards.ravel(), groups=groups)
        best = BestOfK(Toy(), model, K, random_state=0)
        assert asyncio.run(best.agenerate(NEW)) == best.generate(NEW)


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("final", [Ridge(), QProbeRegressor(), POLICY_AT_1])
def test_a_pipeline_of_rows_gets_groups(records, rewards, final, search):
    with config_context(enable_metadata_routing=True):
        model = make_pipeline(letters(), StandardScaler(), SiblingFeatures(), final)
        if search:
            # Before scikit-learn 1.8, only this scorer gets groups in a Pipeline.
            scoring = check_scoring(QProbePolicy())
            model = GridSearchCV(model, {}, cv=GroupKFold(2), scoring=scoring)
        groups = np.repeat(np.arange(len(records)), K)
        model.fit(pairs_of(records), rewards.ravel(), groups=groups)
        _, found = BestOfK(Toy(), model, K).generate(NEW, return_candidates=True)
        new = pairs_of(Toy().generate(NEW, K))
        expected = candidate_values(model, new, np.repeat(np.arange(len(NEW)), K))
    values = np.array([record["values"] for record in found])
    np.testing.assert_array_equal(values.ravel(), expected)
    proba = np.array([record["probabilities"] for record in found])
    if final is POLICY_AT_1:
        np.testing.assert_allclose(proba, softmax(values, axis=1), rtol=1e-5)
    else:
        assert (values[proba > 0] == np.repeat(values.max(1), (proba > 0).sum(1))).all()


def test_a_pipeline_of_rows_needs_routing(records, rewards):
    groups = np.repeat(np.arange(len(records)), K)
    with config_context(enable_metadata_routing=True):
        model = make_pipeline(letters(), SiblingFeatures(), Ridge())
        model.fit(pairs_of(records), rewards.ravel(), groups=groups)
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        BestOfK(Toy(), model, K).generate(NEW)


def test_a_function_of_sets_gets_sets(records, rewards):
    center = FunctionTransformer(lambda X: X - X.mean(axis=1, keepdims=True))
    model = make_pipeline(letters(), center, POLICY_AT_1).fit(records, rewards)
    _, found = BestOfK(Toy(), model, K).generate(NEW, return_candidates=True)
    expected = model.decision_function(Toy().generate(NEW, K))
    np.testing.assert_array_equal([record["values"] for record in found], expected)


def test_equal_values_share_the_probability(records, rewards):
    class Same(Toy):
        def sample(self, prompt, k):
            return {"prompt": prompt, "completions": ["ab", "aa", "aa", "b"][:k]}

    pipeline = make_pipeline(letters(), QProbeRegressor()).fit(records, rewards)
    _, (record,) = BestOfK(Same(), pipeline, 4).generate(["x"], True)
    np.testing.assert_array_equal(record["probabilities"], [0, 0.5, 0.5, 0])


def test_a_classifier_of_rows_chooses_its_positive_class(records):
    texts = [text for record in records for text in record["completions"]]
    model = make_pipeline(letters(), LogisticRegression())
    model.fit(texts, ["a" in text for text in texts])
    completions = BestOfK(Toy(), model, K, random_state=0).generate(NEW)
    assert all("a" in text for text in completions)


def test_embeddings_that_the_generator_captured(records, rewards):
    X = np.stack([record["hidden_states"] for record in records])
    policy = QProbePolicy(loss="squared_error", alpha=1e-6).fit(X, rewards)
    best = BestOfK(Toy(), policy, K, embeddings="hidden_states", random_state=0)
    assert_best(best.generate(NEW))
    with pytest.raises(ValueError, match=r"embeddings='states', but .*hidden_states"):
        best.set_params(embeddings="states").generate(NEW)


def test_several_embeddings_are_concatenated(records, rewards):
    lengths = [[len(text) for text in record["completions"]] for record in records]
    records = [r | {"length": n} for r, n in zip(records, lengths, strict=True)]
    keys = ["hidden_states", "length"]
    X = stack_embeddings(records, keys)
    np.testing.assert_array_equal(X[..., -1], lengths)
    policy = QProbePolicy(loss="squared_error", alpha=1e-6).fit(X, rewards)
    with pytest.raises(ValueError, match="has no 'length'"):
        BestOfK(Toy(), policy, K, embeddings=keys).generate(NEW)


def test_tensors_are_stacked():
    torch = pytest.importorskip("torch")
    states = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for tensor in (states.bfloat16(), states.requires_grad_()):
        X = stack_embeddings([{"a": tensor, "b": list(tensor[:, 0])}], ["a", "b"])
        np.testing.assert_array_equal(X, [[[1, 2, 1], [3, 4, 3]]])
    masked = np.ma.array([[1.0, 2.0]], mask=[[0, 1]])
    with pytest.raises(ValueError, match="a is a masked array"):
        stack_embeddings([{"a": masked}], "a")


def nested(final):
    inner = make_pipeline(PerCandidate(StandardScaler()), final)
    return make_pipeline(letters(), inner)


POLICY = QProbePolicy(loss="squared_error", alpha=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        nested(POLICY),
        nested(QProbeRegressor(alpha=1e-6)),
        make_pipeline(letters(), GridSearchCV(POLICY, {"alpha": [1e-6]}, cv=2)),
        GridSearchCV(nested(POLICY), {}, cv=2),
    ],
    ids=["policy", "regressor", "search inside", "search outside"],
)
def test_pipelines_and_searches_may_be_nested(records, rewards, model):
    model.fit(records, rewards)
    assert_best(BestOfK(Toy(), model, K, random_state=0).generate(NEW))


def test_a_policy_in_a_wrapper_without_tags_gets_sets(records, rewards):
    class Wrapper(BaseEstimator):
        def __init__(self, policy):
            self.policy = policy

        def fit(self, X, y):
            self.policy_ = clone(self.policy).fit(X, y)
            return self

        def predict(self, X):
            return self.policy_.predict(X)

        def predict_proba(self, X):
            assert isinstance(X[0], dict)  # records, not rows
            return self.policy_.predict_proba(X)

    policy = make_pipeline(letters(), QProbePolicy(loss="squared_error", alpha=1e-6))
    model = Wrapper(policy).fit(records, rewards)
    _, (record,) = BestOfK(Toy(), model, K).generate(["new 0"], return_candidates=True)
    assert record["probabilities"].max() > 1 / K


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(letters(), QProbePolicy()),
        make_pipeline(letters(), Ridge()),
        QProbePolicy(),
        GridSearchCV(make_pipeline(letters(), QProbePolicy()), {}),
    ],
    ids=lambda model: type(model).__name__,
)
def test_an_unfitted_pipeline_samples_nothing(pipeline):
    asked = []
    with pytest.raises(NotFittedError, match=r"pipeline .* is not fitted"):
        BestOfK(Toy(asked), pipeline, K).generate(NEW)
    assert asked == []


def test_bad_parameters_are_named_before_anything_is_drawn(pipeline):
    asked = []
    for name, value in (
        ("generator", "gpt"),
        ("pipeline", StandardScaler()),
        ("k", 0),
        ("k", 2.0),
        ("embeddings", 1),
        ("random_state", "x"),
    ):
        best = BestOfK(Toy(asked), pipeline, K).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            best.generate(NEW)
    assert asked == []


def test_one_number_for_each_candidate_is_needed(records):
    class Sums(Ridge):
        def predict(self, X):
            return np.zeros(3)

    model = make_pipeline(letters(), Sums()).fit(["a", "b"], [1, 0])
    with pytest.raises(ValueError, match=r"6 candidates of 7 prompts; .*\(3,\)"):
        BestOfK(Toy(), model, K).generate(NEW)


def test_no_prompts(pipeline):
    best = BestOfK(Toy(), pipeline, k=3)
    assert best.generate([]) == []
    assert best.generate([], return_candidates=True) == ([], [])


def test_prompts_as_collect_takes_them(pipeline):
    pandas = pytest.importorskip("pandas")
    best = BestOfK(Toy(), pipeline, K, random_state=0)
    expected = best.generate(NEW)
    items = [{"prompt": prompt, "answer": 1} for prompt in NEW]
    assert best.generate(items) == expected
    assert best.generate(pandas.DataFrame(items)) == expected
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    whole = [{"role": "user", "content": "a"}]
    assert best.generate([chat]) == best.generate([whole])
    with pytest.raises(ValueError, match="prompts must be a list"):
        best.generate({"prompt": "a"})


@pytest.mark.parametrize("search", [False, True])
def test_values_of_a_policy_are_computed_with_one_embedding(records, rewards, search):
    calls = []

    def embed(texts):
        calls.append(len(texts))
        return [features(text) for text in texts]

    embedder = letters().set_params(vectorizer=embed)
    model = make_pipeline(embedder, PerCandidate(StandardScaler()), POLICY)
    if search:
        model = GridSearchCV(model, {"qprobepolicy__alpha": [1e-6]}, cv=2)
    model.fit(records, rewards)
    calls.clear()
    _, found = BestOfK(Toy(), model, K).generate(NEW, return_candidates=True)
    n_texts = sum(calls)
    drawn = Toy().generate(NEW, K)
    assert n_texts == len({text for r in drawn for text in r["completions"]})
    pipeline = model.best_estimator_ if search else model
    for record, values, proba in zip(
        found,
        pipeline.decision_function(drawn),
        model.predict_proba(drawn),
        strict=True,
    ):
        np.testing.assert_array_equal(record["values"], values)
        np.testing.assert_array_equal(record["probabilities"], proba)
        assert record["values"][record["chosen"]] == record["values"].max()


def test_values_of_a_regressor_are_its_predictions(records):
    texts = [text for record in records for text in record["completions"]]
    model = make_pipeline(letters(), Ridge(1e-6))
    model.fit(texts, [text.count("a") for text in texts])
    _, found = BestOfK(Toy(), model, K).generate(NEW, return_candidates=True)
    for record in found:
        np.testing.assert_array_equal(
            record["values"], model.predict(record["completions"])
        )
