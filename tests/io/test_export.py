"""Exports of linear probes, in this version and from the files of releases."""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import skqprobe
from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor, make_probe_pipeline
from skqprobe.embedders import (
    EmbedderUnion,
    OpenAIEmbedder,
    TextStatistics,
    VectorizerEmbedder,
)
from skqprobe.io import to_json, to_safetensors
from skqprobe.losses import PairwiseHinge, SoftmaxCrossEntropy
from skqprobe.preprocessing import PerCandidate

FOLDERS = sorted((Path(__file__).parents[1] / "fixtures").glob("[0-9]*"))
LINKS = {
    "regressor": "identity",
    "log_loss regressor": "sigmoid",
    "policy": "identity",
    "loss object": "identity",
    "cross-validation": "identity",
}


@cache
def make_probes():
    """Make fitted probes by name, and X."""
    rng = np.random.default_rng(0)
    X = rng.normal(loc=1, size=(20, 3, 4))
    y = (X[..., 0] + rng.normal(size=(20, 3)) > 1).astype(float)
    losses = [SoftmaxCrossEntropy(0.5), "squared_error"]
    probes = {
        "regressor": QProbeRegressor().fit(X, y),
        "log_loss regressor": QProbeRegressor("log_loss").fit(X.astype("f4"), y),
        "policy": QProbePolicy(temperature=0.5).fit(X.astype("f4"), y),
        "loss object": QProbePolicy(PairwiseHinge(margin=0.5)).fit(X, y),
        "cross-validation": QProbePolicyCV(losses, alphas=[1.0, 0.1], cv=2).fit(X, y),
    }
    return probes, X


@pytest.fixture(params=LINKS)
def name(request):
    return request.param


@pytest.fixture
def probe(name):
    return make_probes()[0][name]


@pytest.fixture
def policy():
    return make_probes()[0]["policy"]


def score(read, X):
    """Compute Q as docs/guide/persistence.md does."""
    return X @ np.array(read["coef"], dtype=read["dtype"]) + read["intercept"]


def read_safetensors(content):
    from safetensors.numpy import load

    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    return {**json.loads(metadata["probe"]), **load(content)}


@pytest.mark.parametrize("form", ["json", "safetensors"])
def test_export_is_exact(name, probe, form):
    if form == "json":
        read = json.loads(to_json(probe))
    else:
        pytest.importorskip("safetensors")
        read = read_safetensors(to_safetensors(probe))
    coef = np.array(read["coef"], dtype=read["dtype"])
    assert_array_equal(coef, probe.coef_, strict=True)
    expected = {
        "intercept": probe.intercept_,
        "temperature": probe.temperature,
        "n_features": 4,
        "feature_names": None,
        "loss": str(probe.loss),
        "estimator": type(probe).__name__,
        "inverse_link": LINKS[name],
        "skqprobe_version": skqprobe.__version__,
        "format_version": 1,
    }
    assert {key: read[key] for key in expected} == expected


@pytest.mark.parametrize("name", ["regressor", "log_loss regressor"])
def test_inverse_link_gives_the_expected_reward(probe):
    _, X = make_probes()
    read = json.loads(to_json(probe))
    reward = score(read, X)
    if read["inverse_link"] == "sigmoid":
        reward = 1 / (1 + np.exp(-reward))
    assert_allclose(reward, probe.predict(X), rtol=1e-6)


def test_both_forms_agree(policy):
    pytest.importorskip("safetensors")
    metadata = {"model": "Qwen", "layer": 18, "trained on": ["a", None]}
    from_json = json.loads(to_json(policy, metadata=metadata))
    from_safetensors = read_safetensors(to_safetensors(policy, metadata=metadata))
    assert from_safetensors["coef"].shape == (4,)
    assert from_safetensors["intercept"].shape == ()
    for key in ["coef", "intercept"]:
        from_safetensors[key] = from_safetensors[key].tolist()
    assert from_safetensors == from_json
    assert from_json["metadata"] == metadata


RECORDS = [
    {"prompt": "Name a pet.", "completions": ["A dog.", "A stone."]},
    {"prompt": "Name a fruit.", "completions": ["A pear.", "A dog."]},
]


def last_line(prompt, completion):
    return prompt.splitlines()[-1] + completion


@pytest.mark.parametrize("form", ["json", "safetensors"])
@pytest.mark.parametrize(
    ("join", "recorded"),
    [(" ", " "), (last_line, f"{last_line.__module__}.last_line")],
    ids=["text", "function"],
)
def test_embedder_of_a_pipeline_is_recorded(join, recorded, form):
    embedder = VectorizerEmbedder(TfidfVectorizer(min_df=2), join=join)
    model = make_pipeline(embedder, PerCandidate(StandardScaler()), QProbePolicy())
    model.fit(RECORDS, [[1, 0], [1, 0]])

    def read(probe, **options):
        if form == "json":
            return json.loads(to_json(probe, **options))
        pytest.importorskip("safetensors")
        return read_safetensors(to_safetensors(probe, **options))

    found = read(model)
    assert found["embedder"]["class"] == "skqprobe.embedders.VectorizerEmbedder"
    assert found["embedder"]["join"] == recorded
    assert found["embedder"]["dtype"] == "float32"
    assert found["embedder"]["vectorizer"] == "TfidfVectorizer(min_df=2)"
    assert "cache" not in found["embedder"]  # does not change the features
    expected = model.decision_function(RECORDS)
    assert_allclose(score(found, model[0].transform(RECORDS)), expected, atol=1e-5)
    # A probe on features that were computed before does not hold its embedder.
    assert read(model[1:])["embedder"] is None
    assert read(model[1:], embedder=embedder)["embedder"] == found["embedder"]
    records = [record | {"model": ["a", "b"]} for record in RECORDS]
    union = EmbedderUnion([embedder, TextStatistics()], categories=["model"])
    model = make_pipeline(union, PerCandidate(StandardScaler()), QProbePolicy())
    model.fit(records, [[1, 0], [1, 0]])
    of_union = read(model)
    assert of_union["embedder"]["class"] == "skqprobe.embedders.EmbedderUnion"
    first, second = of_union["embedder"]["embedders"]
    assert first == found["embedder"]
    assert second["class"] == "skqprobe.embedders.TextStatistics"
    assert of_union["embedder"]["categories"] == {"model": ["a", "b"]}
    expected = model.decision_function(records)
    assert_allclose(score(of_union, model[0].transform(records)), expected, atol=1e-5)


def test_secrets_of_an_embedder_are_not_exported(policy):
    embedder = OpenAIEmbedder(
        "m",
        base_url="http://h/v1?api-key=s3cr3t-A&v=1",
        extra_body={"api_key": "s3cr3t-C"},
        extra_query={"token": "s3cr3t-D"},
    )
    text = to_json(policy, embedder=embedder)
    assert "s3cr3t" not in text
    found = json.loads(text)["embedder"]
    assert found["class"] == "skqprobe.embedders.OpenAIEmbedder"
    assert found["base_url"] == "http://h/v1?api-key=***&v=1"
    assert (found["extra_body"], found["extra_query"]) == (
        {"api_key": "***"},
        {"token": "***"},
    )


def test_embedder_must_be_one(policy):
    with pytest.raises(TypeError, match="embedder must be an embedder; got 'MiniLM'"):
        to_json(policy, embedder="MiniLM")


def test_feature_names(sets):
    pandas = pytest.importorskip("pandas")
    X, y = sets
    frame = pandas.DataFrame(X[:, 0], columns=["a", "b", "c", "d"])
    probe = QProbeRegressor()
    for model in (probe, make_pipeline(StandardScaler(), probe)):
        read = json.loads(to_json(model.fit(frame, y[:, 0])))
        assert read["feature_names"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "steps",
    [
        [StandardScaler()],
        [StandardScaler(with_mean=False), "passthrough"],
        [StandardScaler(with_std=False), StandardScaler()],
        ["passthrough"],
    ],
    ids=["scaler", "std", "two scalers", "passthrough"],
)
def test_export_includes_scaling(sets, steps, dtype):
    X, y = sets
    X = (X * [1, 10, 0.1, 1] + [0, 100, 3, -1]).astype(dtype)
    per_candidate = [s if isinstance(s, str) else PerCandidate(s) for s in steps]
    model = make_pipeline(*per_candidate, QProbePolicy("log_loss")).fit(X, y)
    read = json.loads(to_json(model))
    atol = 1e-4 if dtype == "float32" else 1e-12
    assert_allclose(score(read, X), model.decision_function(X), atol=atol)
    assert read["dtype"] == ("float64" if steps != ["passthrough"] else dtype)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_exports_of_old_releases(folder):
    pytest.importorskip("safetensors")
    with np.load(folder / "answers.npz") as expected:
        X, Q = expected["X"], expected["policy, decision_function"]
    for read in (
        json.loads((folder / "policy.json").read_text()),
        read_safetensors((folder / "policy.safetensors").read_bytes()),
    ):
        assert_allclose(score(read, X), Q, rtol=1e-5, atol=1e-6)


# Errors


def test_not_fitted():
    for model in (QProbePolicy(), make_pipeline(StandardScaler(), QProbePolicy())):
        with pytest.raises(NotFittedError):
            to_json(model)


def test_hidden_layers_raise():
    policy = QProbePolicy(hidden_layer_sizes=(3,))
    policy.coefs_, policy.intercepts_ = [], []
    policy.n_features_in_ = 4
    with pytest.raises(ValueError, match=r"hidden layers, \(3,\)"):
        to_json(policy)


def test_other_models_raise(sets):
    X, y = sets
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


@pytest.mark.parametrize(
    ("temperature", "message"),
    [(np.inf, "temperature is inf"), (-1, "temperature must be")],
)
def test_bad_temperature(sets, temperature, message):
    policy = QProbePolicy().fit(*sets).set_params(temperature=temperature)
    with pytest.raises(ValueError, match=message):
        to_json(policy)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a text", "metadata must be a dict; got 'a text'"),
        ({"a": np.float32(1)}, "float32 is not JSON serializable"),
        ({"a": {1, 2}}, "set is not JSON serializable"),
        ({"a": float("nan")}, "metadata must consist of types that JSON supports"),
        ({("a", "b"): 1}, "keys must be str"),
    ],
)
def test_bad_metadata(policy, metadata, message):
    with pytest.raises(ValueError, match=message):
        to_json(policy, metadata=metadata)


def test_without_safetensors(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "skqprobe\[io\]"'):
        to_safetensors(policy)


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("weights", [None, [0.5, -2.0]])
def test_several_objectives(weights, in_pipeline):
    """The probe of each, and the weights of the choice."""
    _, X = make_probes()
    rng = np.random.default_rng(1)
    y = (X[..., :2] + rng.normal(size=(20, 3, 2)) > 1).astype(float)
    for probe in (
        QProbePolicy("squared_error"),
        QProbePolicyCV(alphas=[0.1], cv=2),
        QProbeRegressor("log_loss"),
    ):
        probe.set_params(objective_weights=weights)
        scaler = PerCandidate(StandardScaler())
        model = make_pipeline(scaler, probe) if in_pipeline else probe
        model.fit(X, y)
        read = json.loads(to_json(model))
        assert read["format_version"] == 2
        assert read["objective_names"] is None
        Q = X @ np.array(read["coef"]).T + read["intercept"]
        Q = 1 / (1 + np.exp(-Q)) if read["inverse_link"] == "sigmoid" else Q
        values = getattr(model, "decision_function", model.predict)(X)
        assert_allclose(Q @ read["objective_weights"], values, rtol=1e-9, atol=1e-12)
        safetensors = pytest.importorskip("safetensors.numpy")
        tensors = safetensors.load(to_safetensors(model))
        assert_array_equal(tensors["coef"], read["coef"])
        assert_array_equal(tensors["intercept"], read["intercept"])


def test_names_and_one_weight():
    _, X = make_probes()
    y = [[{"right": 1.0, "short": 0.0}, {"right": 0.0, "short": 1.0}]] * 20
    policy = QProbePolicy("squared_error").fit(X[:, :2], y)
    assert json.loads(to_json(policy))["objective_names"] == ["right", "short"]
    policy = QProbePolicy(objective_weights=[2.0]).fit(X, X[..., 0])
    read = json.loads(to_json(policy))
    assert read["objective_weights"] == [2.0]
    assert_allclose(2 * (X @ np.array(read["coef"][0])), policy.decision_function(X))
