"""Saving and loading of estimators, in this version and from the files of releases.

``python tests/io/test_persistence.py`` makes the files of this version in the folder
tests/fixtures; see README.md there.
"""

import copy
import pickle
import sys
import warnings
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

import skqprobe
from skqprobe import (
    AnswerVote,
    BayesianQProbePolicy,
    CalibratedPolicyCV,
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
    make_probe_pipeline,
)
from skqprobe.embedders import (
    BaseEmbedder,
    EmbeddingCache,
    HiddenStateEmbedder,
    LikelihoodEmbedder,
    OpenAIEmbedder,
    SentenceTransformerEmbedder,
    TextStatistics,
    VectorizerEmbedder,
)
from skqprobe.generators import (
    BestOfK,
    ExpectedGain,
    OpenAIGenerator,
    RejectionSampling,
    Threshold,
    TransformersGenerator,
)
from skqprobe.io import to_json, to_safetensors, trusted_types
from skqprobe.losses import LOSSES, PairwiseHinge, SoftmaxCrossEntropy
from skqprobe.metrics import best_of_k_scorer, expected_reward_scorer, recovery_scorer
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = sorted(FIXTURES.glob("[0-9]*"))
RECORDS = [
    {"prompt": "Name a pet.", "completions": ["A dog.", "A stone.", "A cat."]},
    {"prompt": "Name a fruit.", "completions": ["A pear.", "A dog.", "A plum."]},
]


def data():
    """20 prompts with 3 candidates and 4 features, and their rewards."""
    rng = np.random.default_rng(0)
    X = rng.normal(loc=1, size=(20, 3, 4))
    return X, (X[..., 0] + rng.normal(size=(20, 3)) > 1).astype(float)


def with_hidden_layers():
    """Make a fitted policy with hidden layers without torch."""
    rng = np.random.default_rng(1)
    policy = QProbePolicy(hidden_layer_sizes=(3,))
    policy.coefs_ = [rng.normal(size=(4, 3)), rng.normal(size=(3, 1))]
    policy.intercepts_ = [rng.normal(size=3), rng.normal(size=1)]
    policy.n_features_in_ = 4
    return policy


@cache
def estimators():
    """Make fitted estimators of every class, by name, without optional packages."""
    X, y = data()
    embedded = make_pipeline(VectorizerEmbedder(TfidfVectorizer()), QProbePolicy())
    embedded.fit(RECORDS, [[1, 0, 1], [1, 0, 1]])
    return {
        "regressor": QProbeRegressor().fit(X, y),
        "log_loss regressor": QProbeRegressor("log_loss").fit(X.astype("f4"), y),
        "policy": QProbePolicy(temperature=0.5).fit(X.astype("f4"), y),
        "loss object": QProbePolicy(PairwiseHinge(margin=0.5)).fit(X, y),
        "numpy's settings": QProbePolicy(
            alpha=np.float64(0.1), n_candidates=np.int64(2), random_state=0
        ).fit(X, y),
        "hidden layers": with_hidden_layers(),
        "objectives": QProbePolicy("log_loss", objective_weights=[1.0, -0.5]).fit(
            X, [[{"right": r, "short": 1 - r} for r in prompt] for prompt in y]
        ),
        "posterior": BayesianQProbePolicy(random_state=0).fit(X.astype("f4"), y),
        "choices": BayesianQProbePolicy("choice", random_state=0).fit(X, y),
        **{
            method: CalibratedPolicyCV(QProbePolicy(), method, cv=2).fit(X, y)
            for method in ("isotonic", "sigmoid", "linear")
        },
        "cross-validation": QProbePolicyCV(
            [SoftmaxCrossEntropy(0.5), "squared_error"], alphas=[1.0, 0.1], cv=2
        ).fit(X, y),
        "siblings": SiblingFeatures().fit(X),
        "per candidate": PerCandidate(PCA(2)).fit(X),
        "pipeline": make_probe_pipeline().fit(X, y),
        "from text": embedded,
        "vote": AnswerVote(QProbePolicy(temperature=1.0)).fit(X, y),
        "losses": [loss() for loss in LOSSES.values()],
        "embedders": [
            SentenceTransformerEmbedder("model", cache="embeddings.sqlite"),
            HiddenStateEmbedder("model", layer=[-1, 18], pooling=["last", "max"]),
            LikelihoodEmbedder("model", features=("mean_margin", "n_tokens")),
            TextStatistics(),
            OpenAIEmbedder("model", cache=EmbeddingCache("x.sqlite", max_bytes=1000)),
        ],
        "generators": [
            TransformersGenerator("model", stop=["."], hidden_states=18),
            BestOfK(OpenAIGenerator("model"), embedded, k=3, stopping=Threshold(0.5)),
            ExpectedGain(0.1).fit(y),
            RejectionSampling(1.0).fit(y),
        ],
        "scorers": [best_of_k_scorer(4), recovery_scorer(2), expected_reward_scorer()],
    }


NAMES = list(estimators())


def answers(model, X):
    """Return the output of each method, or types for a list of other objects."""
    if isinstance(model, list):
        return {"types": np.array([type(part).__name__ for part in model])}
    if hasattr(model, "steps") and isinstance(model[0], BaseEmbedder):
        X = RECORDS
    methods = ("decision_function", "predict_proba", "predict", "transform")
    methods += ("predict_best_proba", "predict_reward", "predict_rewards")
    given = {name: getattr(model, name)(X) for name in methods if hasattr(model, name)}
    if hasattr(model, "cv_results_"):
        given["mean_test_score"] = model.cv_results_["mean_test_score"]
    return given


class Skops:
    @staticmethod
    def dumps(model):
        return pytest.importorskip("skops.io").dumps(model)

    @staticmethod
    def loads(content):
        return sys.modules["skops.io"].loads(content, trusted=trusted_types())


class Joblib:
    @staticmethod
    def dumps(model):
        joblib.dump(model, file := BytesIO())
        return file.getvalue()

    @staticmethod
    def loads(content):
        return joblib.load(BytesIO(content))


every_way = pytest.mark.parametrize("way", [Skops, pickle, Joblib])


# Round trips


@every_way
@pytest.mark.parametrize("name", NAMES)
def test_loaded_estimators_are_equal(way, name):
    model = estimators()[name]
    loaded = way.loads(way.dumps(model))
    for dtype in ["float64", "float32", "float16"]:
        X = data()[0].astype(dtype)
        expected, given = answers(model, X), answers(loaded, X)
        assert expected and given.keys() == expected.keys()
        for method, values in expected.items():
            assert_array_equal(given[method], values, strict=True)
    assert repr(loaded) == repr(model)
    if not isinstance(model, list):
        types, expected_types = (
            {name: type(value) for name, value in vars(m).items()}
            for m in (loaded, model)
        )
        assert types == expected_types


@every_way
def test_hidden_layers_fitted_by_torch(way, sets):
    pytest.importorskip("torch")
    X, y = sets[0].astype("float32"), sets[1]
    settings = {"hidden_layer_sizes": (5, 3), "max_iter": 50, "tol": 0.01}
    policy = QProbePolicy("log_loss", random_state=0, **settings).fit(X, y)
    loaded = way.loads(way.dumps(policy))
    for a, b in zip(loaded.coefs_, policy.coefs_, strict=True):
        assert_array_equal(a, b, strict=True)
    assert_array_equal(loaded.predict_proba(X), policy.predict_proba(X))


@every_way
def test_loaded_policies_draw_the_same(way, sets):
    X, y = sets
    policy = QProbePolicy(temperature=1.0, random_state=np.random.RandomState(3))
    policy.fit(X, y)
    loaded = way.loads(way.dumps(policy))
    assert_array_equal(loaded.sample(X, size=5), policy.sample(X, size=5))


@every_way
def test_loaded_policies_can_be_fitted_again(way, sets):
    X, y = sets
    policy = QProbePolicy(PairwiseHinge(0.5), warm_start=True).fit(X[:30], y[:30])
    loaded = way.loads(way.dumps(policy))
    assert_array_equal(loaded.fit(X, y).coef_, policy.fit(X, y).coef_)


@every_way
@pytest.mark.parametrize("Embedder", [HiddenStateEmbedder, LikelihoodEmbedder])
def test_embedders_do_not_save_models(way, Embedder, request):
    for package in ["torch", "transformers"]:
        pytest.importorskip(package)
    folder = request.getfixturevalue("tiny")
    embedder = Embedder(str(folder), device="cpu")
    texts = [("ab", "cd"), ("ab", "efg")]
    embedded = embedder.fit_transform(texts)
    content = way.dumps(embedder)
    assert len(content) < 10_000
    assert_array_equal(way.loads(content).transform(texts), embedded)


@every_way
@pytest.mark.parametrize("Client", [OpenAIEmbedder, OpenAIGenerator])
def test_api_keys_are_not_saved(way, Client, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    content = way.dumps(Client("model"))
    if zipfile.is_zipfile(BytesIO(content)):
        archive = zipfile.ZipFile(BytesIO(content))
        content += b"".join(archive.read(name) for name in archive.namelist())
    assert b"OPENAI_API_KEY" in content  # the variable's name
    assert b"sk-secret" not in content


class Unstable(BaseEmbedder):
    """Embedder that fails for "x", the shortest text, which comes last."""

    join, batch_size, dtype, cache, progress = " ", 1, "float32", None, False

    def embed_batch(self, texts):
        if texts == ["x"]:
            raise RuntimeError("no answer")
        return [[len(text)] for text in texts]


@pytest.mark.parametrize("save", [Skops.dumps, Joblib.dumps, pickle.dumps, copy.copy])
def test_saving_does_not_change_an_embedder(save):
    embedder = Unstable()
    with pytest.raises(RuntimeError, match="no answer"):
        embedder.transform(["a long text", "x"])
    finished = embedder._finished
    assert len(finished) == 1
    save(embedder)
    assert embedder._finished is finished  # the next call resumes from there


# Types that skops trusts


@pytest.mark.parametrize("name", NAMES)
def test_trusted_types_are_sufficient(name):
    io = pytest.importorskip("skops.io")
    untrusted = io.get_untrusted_types(data=io.dumps(estimators()[name]))
    assert untrusted and set(untrusted) <= set(trusted_types())


def test_no_masked_arrays():
    # skops trusts masked arrays only if their name in numpy has not changed since.
    results = estimators()["cross-validation"].cv_results_
    assert {type(values) for values in results.values()} == {list, np.ndarray}


def test_trusted_types():
    names = trusted_types()
    assert names == sorted(set(names))
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert module.split(".")[0] == "skqprobe"
        assert hasattr(sys.modules[module], attribute)


class OwnLoss(SoftmaxCrossEntropy):
    """A loss that a user defines."""


def test_users_must_trust_their_own_classes(sets):
    io = pytest.importorskip("skops.io")
    content = io.dumps(QProbePolicy(OwnLoss()).fit(*sets))
    with pytest.raises(Exception, match="OwnLoss") as raised:
        Skops.loads(content)
    assert type(raised.value).__name__ == "UntrustedTypesFoundException"
    own = f"{OwnLoss.__module__}.OwnLoss"
    loaded = io.loads(content, trusted=[*trusted_types(), own])
    assert isinstance(loaded.loss, OwnLoss)


# Versions


def saved_by(version, model, way, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(skqprobe, "__version__", version)
        return way.dumps(model)


@every_way
@pytest.mark.parametrize("name", ["policy", "siblings", "per candidate", "from text"])
def test_newer_version_warns(way, name, monkeypatch):
    model, X = estimators()[name], data()[0]
    content = saved_by("99.1", model, way, monkeypatch)
    with pytest.warns(UserWarning, match=r"by skqprobe 99\.1, .* is older"):
        loaded = way.loads(content)
    assert_equal(answers(loaded, X), answers(model, X))
    way.loads(way.dumps(loaded))  # now saved by this version: no warning


@every_way
@pytest.mark.parametrize("version", ["0.0.9", "0.1.0.dev0", skqprobe.__version__])
def test_older_version_does_not_warn(way, version, monkeypatch):
    loaded = way.loads(saved_by(version, estimators()["policy"], way, monkeypatch))
    assert not hasattr(loaded, "_skqprobe_version")


def test_a_release_is_newer_than_its_dev_version(monkeypatch):
    monkeypatch.setattr(skqprobe, "__version__", "1.10.0.dev0")
    for version, is_newer in [("1.9.2", False), ("1.10.0", True), ("1.10.1", True)]:
        content = saved_by(version, PairwiseHinge(), pickle, monkeypatch)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pickle.loads(content)
        assert len(caught) == is_newer


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.InconsistentVersionWarning"  # of scikit-learn's steps
)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_files_of_old_releases(folder):
    io = pytest.importorskip("skops.io")
    models = io.load(folder / "estimators.skops", trusted=trusted_types())
    with np.load(folder / "answers.npz") as expected:
        checked = set()
        for name, model in models.items():
            for method, values in answers(model, expected["X"]).items():
                check_equal(values, expected[f"{name}, {method}"])
                checked.add(f"{name}, {method}")
        assert checked | {"X"} == set(expected)
    lists = [each if isinstance(each, list) else [each] for each in models.values()]
    for model in (model for each in lists for model in each):
        if hasattr(model, "get_params"):  # also parameters that are new since then
            assert repr(clone(model)) == repr(model)


def check_equal(values, expected):
    """Check that values are equal, up to rounding that depends on the machine."""
    if values.dtype.kind == "f":
        assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    else:
        assert_array_equal(values, expected)


def save_fixtures():
    """Save estimators of this version, their answers, and the exports of one."""
    import skops.io

    folder = FIXTURES / skqprobe.__version__
    folder.mkdir()
    X, models = data()[0][:6], estimators()
    expected = {
        f"{name}, {method}": values
        for name, model in models.items()
        for method, values in answers(model, X).items()
    }
    np.savez_compressed(folder / "answers.npz", X=X, **expected)
    skops.io.dump(models, folder / "estimators.skops", compression=zipfile.ZIP_DEFLATED)
    (folder / "policy.json").write_text(to_json(models["policy"]))
    (folder / "policy.safetensors").write_bytes(to_safetensors(models["policy"]))


if __name__ == "__main__":
    save_fixtures()
