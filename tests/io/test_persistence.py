"""Everything can be saved and loaded; files of old releases, too; exports are right.

``python tests/io/test_persistence.py`` makes the files of this version in tests/fixtures;
README.md there explains them.
"""

import copy
import json
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
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import skqprobe
from skqprobe import (
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
    VectorizerEmbedder,
)
from skqprobe.generators import BestOfK, OpenAIGenerator, TransformersGenerator
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
    """20 prompts, 3 candidates, 4 features, and rewards."""
    rng = np.random.default_rng(0)
    X = rng.normal(loc=1, size=(20, 3, 4))
    return X, (X[..., 0] + rng.normal(size=(20, 3)) > 1).astype(float)


def with_hidden_layers():
    """Make a policy with hidden layers as torch would leave it, but without torch."""
    rng = np.random.default_rng(1)
    policy = QProbePolicy(hidden_layer_sizes=(3,))
    policy.coefs_ = [rng.normal(size=(4, 3)), rng.normal(size=(3, 1))]
    policy.intercepts_ = [rng.normal(size=3), rng.normal(size=1)]
    policy.n_features_in_ = 4
    return policy


@cache
def estimators():
    """Make fitted estimators of every class, by name; the core is all they need."""
    X, y = data()
    embedded = make_pipeline(VectorizerEmbedder(TfidfVectorizer()), QProbePolicy())
    embedded.fit(RECORDS, [[1, 0, 1], [1, 0, 1]])
    return {
        "regressor": QProbeRegressor().fit(X, y),
        "log_loss regressor": QProbeRegressor("log_loss").fit(X.astype("f4"), y),
        "policy": QProbePolicy(temperature=0.5).fit(X.astype("f4"), y),
        "loss object": QProbePolicy(PairwiseHinge(margin=0.5)).fit(X, y),
        "numpy's settings": QProbePolicy(
            alpha=np.float64(0.1),
            n_candidates=np.int64(2),
            random_state=0,
        ).fit(X, y),
        "hidden layers": with_hidden_layers(),
        "cross-validation": QProbePolicyCV(
            [SoftmaxCrossEntropy(0.5), "squared_error"], alphas=[1.0, 0.1], cv=2
        ).fit(X, y),
        "siblings": SiblingFeatures().fit(X),
        "per candidate": PerCandidate(PCA(2)).fit(X),
        "pipeline": make_probe_pipeline().fit(X, y),
        "from text": embedded,
        "losses": [loss() for loss in LOSSES.values()],
        "embedders": [
            SentenceTransformerEmbedder("model", cache="embeddings.sqlite"),
            HiddenStateEmbedder("model", layer=[-1, 18]),
            LikelihoodEmbedder("model"),
            OpenAIEmbedder("model", cache=EmbeddingCache("x.sqlite", max_bytes=1000)),
        ],
        "generators": [
            TransformersGenerator("model", stop=["."], hidden_states=18),
            BestOfK(OpenAIGenerator("model"), embedded, k=3),
        ],
        "scorers": [best_of_k_scorer(4), recovery_scorer(2), expected_reward_scorer()],
    }


NAMES = list(estimators())


def answers(model, X):
    """What a model gives, by method; lists hold what gives nothing without a server."""
    if isinstance(model, list):
        return {"types": np.array([type(part).__name__ for part in model])}
    if hasattr(model, "steps") and isinstance(model[0], BaseEmbedder):
        X = RECORDS
    methods = ("decision_function", "predict_proba", "predict", "transform")
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
        file = BytesIO()
        joblib.dump(model, file)
        return file.getvalue()

    @staticmethod
    def loads(content):
        return joblib.load(BytesIO(content))


every_way = pytest.mark.parametrize("way", [Skops, pickle, Joblib])


# --- there and back -----------------------------------------------------------------


@every_way
@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_bit(way, name):
    model = estimators()[name]
    loaded = way.loads(way.dumps(model))
    for dtype in ["float64", "float32", "float16"]:
        X = data()[0].astype(dtype)
        expected, given = answers(model, X), answers(loaded, X)
        assert expected and given.keys() == expected.keys()
        for method, values in expected.items():
            np.testing.assert_array_equal(given[method], values, strict=True)
    assert repr(loaded) == repr(model)
    if not isinstance(model, list):
        assert attribute_types(loaded) == attribute_types(model)


def attribute_types(model):
    return {name: type(value) for name, value in vars(model).items()}


@every_way
def test_hidden_layers_by_torch(way, sets):
    pytest.importorskip("torch")
    X, y = sets[0].astype("float32"), sets[1]
    policy = QProbePolicy(
        "log_loss", hidden_layer_sizes=(5, 3), max_iter=50, tol=0.01, random_state=0
    ).fit(X, y)
    loaded = way.loads(way.dumps(policy))
    for a, b in zip(loaded.coefs_, policy.coefs_, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    np.testing.assert_array_equal(loaded.predict_proba(X), policy.predict_proba(X))


@every_way
def test_draws_are_the_same(way, sets):
    X, y = sets
    policy = QProbePolicy(temperature=1.0, random_state=np.random.RandomState(3))
    policy.fit(X, y)
    loaded = way.loads(way.dumps(policy))
    np.testing.assert_array_equal(loaded.sample(X, size=5), policy.sample(X, size=5))


@every_way
def test_what_is_loaded_can_be_fitted_again(way, sets):
    X, y = sets
    policy = QProbePolicy(PairwiseHinge(0.5), warm_start=True).fit(X[:30], y[:30])
    loaded = way.loads(way.dumps(policy))
    np.testing.assert_array_equal(loaded.fit(X, y).coef_, policy.fit(X, y).coef_)


@every_way
@pytest.mark.parametrize("Embedder", [HiddenStateEmbedder, LikelihoodEmbedder])
def test_embedders_save_no_weights(way, Embedder, request):
    for package in ["torch", "transformers"]:
        pytest.importorskip(package)
    folder = request.getfixturevalue("tiny")
    embedder = Embedder(str(folder), device="cpu")
    texts = [("ab", "cd"), ("ab", "efg")]
    embedded = embedder.fit_transform(texts)
    content = way.dumps(embedder)
    assert len(content) < 10_000
    np.testing.assert_array_equal(way.loads(content).transform(texts), embedded)


@every_way
@pytest.mark.parametrize("Client", [OpenAIEmbedder, OpenAIGenerator])
def test_no_secret_is_saved(way, Client, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    content = way.dumps(Client("model"))
    with BytesIO(content) as file:
        parts = [content]
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            parts = [archive.read(name) for name in archive.namelist()]
    assert any(b"OPENAI_API_KEY" in part for part in parts)  # the variable's name
    assert not any(b"sk-secret" in part for part in parts)


class Unstable(BaseEmbedder):
    """Fails at the shortest text, which comes last."""

    def __init__(self, join=" ", batch_size=1, dtype="float32", cache=None):
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = False

    def embed_batch(self, texts):
        if texts == ["x"]:
            raise RuntimeError("no answer")
        return [[len(text)] for text in texts]


@pytest.mark.parametrize("save", [Skops.dumps, Joblib.dumps, pickle.dumps, copy.copy])
def test_saving_leaves_an_embedder_as_it_was(save):
    embedder = Unstable()
    with pytest.raises(RuntimeError, match="no answer"):
        embedder.transform(["a long text", "x"])
    finished = embedder._finished
    assert len(finished) == 1
    save(embedder)
    assert embedder._finished is finished  # to go on from at the next try


# --- what skops trusts --------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_only_our_own_types_are_left_to_trust(name):
    io = pytest.importorskip("skops.io")
    untrusted = io.get_untrusted_types(data=io.dumps(estimators()[name]))
    assert untrusted and set(untrusted) <= set(trusted_types())


def test_no_masked_arrays():
    # skops trusts them only where numpy calls them what it did where they were saved.
    results = estimators()["cross-validation"].cv_results_
    assert {type(values) for values in results.values()} == {list, np.ndarray}


def test_trusted_types():
    names = trusted_types()
    assert names == sorted(set(names))
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert module.startswith("skqprobe.")
        assert hasattr(sys.modules[module], attribute)


class OwnLoss(SoftmaxCrossEntropy):
    """A user's own."""


def test_own_classes_are_for_the_user_to_trust(sets):
    io = pytest.importorskip("skops.io")
    content = io.dumps(QProbePolicy(OwnLoss()).fit(*sets))
    with pytest.raises(Exception, match="OwnLoss") as raised:
        Skops.loads(content)
    assert type(raised.value).__name__ == "UntrustedTypesFoundException"
    own = f"{OwnLoss.__module__}.OwnLoss"
    loaded = io.loads(content, trusted=[*trusted_types(), own])
    assert isinstance(loaded.loss, OwnLoss)


# --- versions -----------------------------------------------------------------------


def saved_by(version, model, way, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(skqprobe, "__version__", version)
        return way.dumps(model)


@every_way
@pytest.mark.parametrize("name", ["policy", "siblings", "per candidate", "from text"])
def test_of_a_newer_version(way, name, monkeypatch):
    model, X = estimators()[name], data()[0]
    content = saved_by("99.1", model, way, monkeypatch)
    with pytest.warns(UserWarning, match=r"by skqprobe 99\.1, .* is older"):
        loaded = way.loads(content)
    np.testing.assert_equal(answers(loaded, X), answers(model, X))
    way.loads(way.dumps(loaded))  # saved by this version now: no warning


@every_way
@pytest.mark.parametrize("version", ["0.0.9", "0.1.0.dev0", skqprobe.__version__])
def test_of_an_older_version(way, version, monkeypatch):
    model = estimators()["policy"]
    loaded = way.loads(saved_by(version, model, way, monkeypatch))  # no warning
    assert not hasattr(loaded, "_skqprobe_version")


def test_a_release_is_newer_than_what_led_to_it(monkeypatch):
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


def check_equal(values, expected):
    """Check, up to what another computer may round in another way."""
    if values.dtype.kind == "f":
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_exports_of_old_releases(folder):
    with np.load(folder / "answers.npz") as expected:
        X, Q = expected["X"], expected["policy, decision_function"]
    check_equal(score(json.loads((folder / "policy.json").read_text()), X), Q)
    pytest.importorskip("safetensors")
    content = (folder / "policy.safetensors").read_bytes()
    check_equal(score(read_safetensors(content), X), Q)


def save_fixtures():
    """Save estimators of this version, their answers, and exports of one of them."""
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


# --- exports ------------------------------------------------------------------------


def score(probe, X):
    """Compute Q as docs/guide/persistence.md does."""
    coef = np.array(probe["coef"], dtype=probe["dtype"])
    return X @ coef + probe["intercept"]


def read_safetensors(content):
    from safetensors.numpy import load

    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    return {**json.loads(metadata["probe"]), **load(content)}


EXPORTS = {
    "regressor": "identity",
    "log_loss regressor": "sigmoid",
    "policy": "identity",
    "loss object": "identity",
    "cross-validation": "identity",
}


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.parametrize("form", ["json", "safetensors"])
def test_export_is_exact(name, form):
    probe = estimators()[name]
    if form == "json":
        read = json.loads(to_json(probe))
    else:
        pytest.importorskip("safetensors")
        read = read_safetensors(to_safetensors(probe))
    coef = np.array(read["coef"], dtype=read["dtype"])
    np.testing.assert_array_equal(coef, probe.coef_, strict=True)
    assert float(read["intercept"]) == probe.intercept_
    assert read["temperature"] == probe.temperature
    assert read["n_features"] == 4
    assert read["feature_names"] is None
    assert read["loss"] == str(probe.loss)
    assert read["estimator"] == type(probe).__name__
    assert read["inverse_link"] == EXPORTS[name]
    assert read["skqprobe_version"] == skqprobe.__version__
    assert read["format_version"] == 1


def test_the_links_give_the_expected_reward():
    X = data()[0]
    for name in ["regressor", "log_loss regressor"]:
        probe = estimators()[name]
        read = json.loads(to_json(probe))
        reward = score(read, X)
        if read["inverse_link"] == "sigmoid":
            reward = 1 / (1 + np.exp(-reward))
        np.testing.assert_allclose(reward, probe.predict(X), rtol=1e-6)


def test_both_forms_say_the_same():
    pytest.importorskip("safetensors")
    metadata = {"model": "Qwen", "layer": 18, "trained on": ["a", None]}
    policy = estimators()["policy"]
    by_json = json.loads(to_json(policy, metadata=metadata))
    by_safetensors = read_safetensors(to_safetensors(policy, metadata=metadata))
    assert by_safetensors["coef"].shape == (4,)
    assert by_safetensors["intercept"].shape == ()
    for name in ["coef", "intercept"]:
        by_safetensors[name] = by_safetensors[name].tolist()
    assert by_safetensors == by_json
    assert by_json["metadata"] == metadata


def test_names_of_features(sets):
    pandas = pytest.importorskip("pandas")
    X, y = sets
    frame = pandas.DataFrame(X[:, 0], columns=["a", "b", "c", "d"])
    model = make_pipeline(StandardScaler(), QProbeRegressor()).fit(frame, y[:, 0])
    for probe in [model, QProbeRegressor().fit(frame, y[:, 0])]:
        assert json.loads(to_json(probe))["feature_names"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "steps",
    [
        [PerCandidate(StandardScaler())],
        [PerCandidate(StandardScaler(with_mean=False)), "passthrough"],
        [PerCandidate(StandardScaler(with_std=False)), PerCandidate(StandardScaler())],
        ["passthrough"],
    ],
    ids=len,
)
def test_scaling_becomes_part_of_the_probe(sets, steps, dtype):
    X, y = sets
    X = (X * [1, 10, 0.1, 1] + [0, 100, 3, -1]).astype(dtype)
    model = make_pipeline(*steps, QProbePolicy("log_loss")).fit(X, y)
    read = json.loads(to_json(model))
    np.testing.assert_allclose(
        score(read, X),
        model.decision_function(X),
        atol=1e-4 if dtype == "float32" else 1e-12,
    )
    assert read["dtype"] == ("float64" if steps != ["passthrough"] else dtype)


def test_what_cannot_be_exported(sets):
    X, y = sets
    with pytest.raises(NotFittedError):
        to_json(QProbePolicy())
    with pytest.raises(NotFittedError):
        to_json(make_pipeline(StandardScaler(), QProbePolicy()))
    with pytest.raises(ValueError, match=r"hidden layers, \(3,\)"):
        to_json(with_hidden_layers())
    policy = QProbePolicy("log_loss").fit(X, y)
    for model in [
        PCA().fit(X[0]),
        make_probe_pipeline().fit(X, y),
        make_pipeline(PerCandidate(MinMaxScaler()), policy).fit(X, y),
        GridSearchCV(policy, {"alpha": [1.0]}, cv=2).fit(X, y),
        "policy",
        None,
    ]:
        with pytest.raises(TypeError, match="probe must be a QProbePolicy, "):
            to_json(model)
    with pytest.raises(ValueError, match="temperature is inf"):
        to_json(policy.set_params(temperature=np.inf))
    with pytest.raises(ValueError, match="temperature must be"):
        to_json(policy.set_params(temperature=-1))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a text", "metadata must be a dict; got 'a text'"),
        ({"a": np.float32(1)}, "float32 is not JSON serializable"),
        ({"a": {1, 2}}, "set is not JSON serializable"),
        ({"a": float("nan")}, "metadata must be made of what JSON has"),
        ({("a", "b"): 1}, "keys must be str"),
    ],
)
def test_metadata_that_json_does_not_have(metadata, message):
    with pytest.raises(ValueError, match=message):
        to_json(estimators()["policy"], metadata=metadata)


def test_without_safetensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "skqprobe\[io\]"'):
        to_safetensors(estimators()["policy"])


if __name__ == "__main__":
    save_fixtures()
