import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils import get_tags

from skqprobe import QProbePolicy
from skqprobe.preprocessing import PerCandidate

TRANSFORMERS = {
    "StandardScaler": StandardScaler(),
    "MinMaxScaler": MinMaxScaler(),
    "Normalizer": Normalizer(),
    "PCA": PCA(2, svd_solver="full"),
    "PolynomialFeatures": PolynomialFeatures(2),  # returns more features
    "VarianceThreshold": VarianceThreshold(),
    "SelectKBest": SelectKBest(f_regression, k=2),  # needs y
    "KBinsDiscretizer": KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
    "Pipeline": make_pipeline(StandardScaler(), PCA(2, svd_solver="full")),
    "PerCandidate": PerCandidate(StandardScaler()),
}
every_transformer = pytest.mark.parametrize(
    "transformer", TRANSFORMERS.values(), ids=TRANSFORMERS.keys()
)


class Scaler(BaseEstimator):
    """Transformer with the methods that PerCandidate needs, without fit_transform."""

    def __init__(self, rows=slice(None)):
        self.rows = rows

    def fit(self, X, y=None):
        self.scale_ = np.abs(X).max(axis=0)
        return self

    def transform(self, X):
        return (X / self.scale_)[self.rows]


@every_transformer
def test_sets_are_transformed_like_their_rows(sets, transformer):
    X, y = sets
    expected = clone(transformer).fit(X.reshape(-1, 4), y.ravel())
    expected = expected.transform(X.reshape(-1, 4))
    per_candidate = PerCandidate(transformer)
    for result in (
        per_candidate.fit(X, y).transform(X),
        clone(per_candidate).fit_transform(X, y),
        clone(per_candidate).fit(X.tolist(), y.tolist()).transform(X.tolist()),
    ):
        assert isinstance(result, np.ndarray)
        assert result.shape == (60, 6, expected.shape[1])
        np.testing.assert_allclose(result.reshape(360, -1), expected, atol=1e-12)
    # The argument stays unfitted.
    assert per_candidate.transformer is transformer
    assert per_candidate.transformer_ is not transformer
    assert per_candidate.n_features_in_ == 4


@every_transformer
def test_rows_are_passed_unchanged(rows, transformer):
    X, y, _ = rows
    expected = clone(transformer).fit(X, y).transform(X)
    result = PerCandidate(transformer).fit(X, y).transform(X)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_allclose(
        PerCandidate(transformer).fit_transform(X, y), expected, atol=1e-12
    )


def test_one_fit_supports_both_layouts(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler())
    by_sets = scaler.fit(X).transform(X)
    by_rows = scaler.transform(X.reshape(-1, 4))
    np.testing.assert_array_equal(by_rows.reshape(X.shape), by_sets)
    # The numbers of candidates and prompts may differ from the fit.
    np.testing.assert_array_equal(scaler.transform(X[:7, :2]), by_sets[:7, :2])


def test_minimal_transformer(sets):
    X, y = sets
    result = PerCandidate(Scaler()).fit_transform(X, y)
    np.testing.assert_allclose(result, X / np.abs(X).max(axis=(0, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(sets, dtype):
    X = sets[0].astype(dtype)
    assert PerCandidate(StandardScaler()).fit_transform(X).dtype == dtype


@pytest.mark.parametrize("order", ["C", "F"])
def test_input_is_not_changed(sets, order):
    X = np.array(sets[0], order=order)
    before = X.copy()
    X.setflags(write=False)
    scaler = PerCandidate(StandardScaler()).fit(X)
    scaler.inverse_transform(scaler.transform(X))
    np.testing.assert_array_equal(X, before)


# Sparse output and strings


def test_sparse_output_of_sets_becomes_dense(sets):
    X, y = sets
    bins = KBinsDiscretizer(3, strategy="uniform")
    assert sp.issparse(bins.fit_transform(X.reshape(-1, 4)))
    expected = bins.transform(X.reshape(-1, 4)).toarray().reshape(60, 6, 12)
    result = PerCandidate(bins).fit_transform(X)
    np.testing.assert_array_equal(result, expected)
    # A policy accepts this output.
    make_pipeline(PerCandidate(bins), QProbePolicy()).fit(X, y).predict(X)
    # The output for rows stays sparse.
    assert sp.issparse(PerCandidate(bins).fit_transform(X[:, 0]))


def test_sparse_rows_are_passed_unchanged(rows):
    X = sp.csr_array(rows[0])
    result = PerCandidate(StandardScaler(with_mean=False)).fit_transform(X)
    assert sp.issparse(result)


def test_sets_of_strings():
    X = np.array([["a", "b"], ["b", "c"], ["a", "a"]], dtype=object)[..., None]
    encoder = PerCandidate(OneHotEncoder())
    result = encoder.fit_transform(X)
    assert result.shape == (3, 2, 3)
    np.testing.assert_array_equal(result.argmax(axis=2), [[0, 1], [1, 2], [0, 0]])
    np.testing.assert_array_equal(encoder.inverse_transform(result), X)


# Data frames


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_frames_of_rows(rows, frame):
    module = pytest.importorskip(frame)
    X, _, _ = rows
    names = ["first", "second", "third", "fourth"]
    data = module.DataFrame(dict(zip(names, X.T, strict=True)))
    if not hasattr(StandardScaler().fit(data), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not read column names of {frame}")
    scaler = PerCandidate(StandardScaler()).set_output(transform=frame)
    for result in (scaler.fit_transform(data), scaler.fit(data).transform(data)):
        assert isinstance(result, module.DataFrame)
        assert list(result.columns) == names
        np.testing.assert_allclose(result.to_numpy().mean(axis=0), 0, atol=1e-12)
    assert scaler.feature_names_in_.tolist() == names
    assert scaler.get_feature_names_out().tolist() == names
    # clone keeps the container. The output for sets is always an array.
    assert isinstance(clone(scaler).fit_transform(data), module.DataFrame)
    assert isinstance(scaler.fit_transform(X[None]), np.ndarray)
    # The container can be changed after fit.
    scaler.fit(data).set_output(transform="default")
    assert isinstance(scaler.transform(data), np.ndarray)
    scaler.set_output(transform=frame)
    assert isinstance(scaler.transform(data), module.DataFrame)


def test_global_output_of_frames(sets):
    pd = pytest.importorskip("pandas")
    X, _ = sets
    with config_context(transform_output="pandas"):
        result = PerCandidate(StandardScaler()).fit_transform(X)
        assert isinstance(result, np.ndarray)
        assert result.shape == X.shape
        result = PerCandidate(StandardScaler()).fit_transform(X[0])
        assert isinstance(result, pd.DataFrame)


# Supervised transformers


def test_supervised_transformer(sets):
    X, y = sets
    informative = X[..., [2, 0]].copy()  # the rewards depend on feature 0
    selector = PerCandidate(SelectKBest(f_regression, k=1))
    np.testing.assert_array_equal(
        selector.fit_transform(informative, y), informative[..., 1:]
    )
    pd = pytest.importorskip("pandas")
    selector.fit(informative, pd.DataFrame(y))
    np.testing.assert_array_equal(selector.transform(informative), informative[..., 1:])


def test_tags_are_those_of_the_transformer():
    assert get_tags(PerCandidate(TargetEncoder())).target_tags.required
    tags = get_tags(PerCandidate(StandardScaler(with_mean=False)))
    assert not tags.target_tags.required
    assert (
        tags.input_tags.sparse
        == get_tags(StandardScaler(with_mean=False)).input_tags.sparse
    )
    assert tags.input_tags.allow_nan
    assert not get_tags(PerCandidate(StandardScaler())).input_tags.sparse
    assert not get_tags(PerCandidate(PCA())).input_tags.allow_nan
    assert tags.input_tags.three_d_array
    assert tags.input_tags.two_d_array
    # The tags of the transformer are unchanged.
    assert not get_tags(StandardScaler()).input_tags.three_d_array


def test_bad_rewards(sets):
    X, y = sets
    for transformer in (SelectKBest(f_regression, k=1), StandardScaler()):
        for bad in (y[:30], y.ravel(), y[:, 0]):
            with pytest.raises(ValueError, match=r"y has shape .*60 sets of 6"):
                PerCandidate(transformer).fit(X, bad)
    with pytest.raises(ValueError, match="requires y to be passed"):
        PerCandidate(SelectKBest(f_regression, k=1)).fit(X)


# Parameters and methods


def test_parameters_are_nested():
    scaler = PerCandidate(StandardScaler())
    assert scaler.get_params()["transformer__with_mean"] is True
    scaler.set_params(transformer__with_mean=False)
    assert scaler.transformer.with_mean is False
    X = np.random.default_rng(0).normal(3, 1, size=(20, 4, 2))
    assert scaler.fit_transform(X).mean() > 1
    scaler.set_params(transformer=MinMaxScaler(), transformer__clip=True)
    assert scaler.fit_transform(X).min() == 0
    copied = clone(scaler)
    assert copied.transformer is not scaler.transformer
    assert copied.transformer.clip is True
    assert not hasattr(copied, "transformer_")
    assert set(PerCandidate(PCA()).get_params(deep=False)) == {"transformer"}


def test_pickle(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler()).fit(X)
    copied = pickle.loads(pickle.dumps(scaler))
    np.testing.assert_array_equal(copied.transform(X), scaler.transform(X))


def test_feature_names_out(sets):
    X, _ = sets
    assert PerCandidate(PCA(2)).fit(X).get_feature_names_out().tolist() == [
        "pca0",
        "pca1",
    ]
    scaler = PerCandidate(StandardScaler()).fit(X)
    assert scaler.get_feature_names_out(list("abcd")).tolist() == list("abcd")
    assert not hasattr(scaler, "feature_names_in_")
    assert not hasattr(PerCandidate(Scaler()).fit(X), "get_feature_names_out")
    # A pipeline passes names through every step.
    steps = make_pipeline(PerCandidate(StandardScaler()), PerCandidate(PCA(1))).fit(X)
    assert steps.get_feature_names_out(list("abcd")).tolist() == ["pca0"]


def test_inverse_transform_exists_if_the_transformer_has_it(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler()).fit(X)
    np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X)
    flat = X.reshape(-1, 4)
    np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(flat)), flat)
    assert not hasattr(PerCandidate(Normalizer()), "inverse_transform")
    assert not hasattr(PerCandidate(Normalizer()).fit(X), "inverse_transform")
    # The method follows a change of the transformer.
    changed = PerCandidate(Normalizer()).set_params(transformer=PCA())
    assert hasattr(changed, "inverse_transform")
    with pytest.raises(AttributeError, match="inverse_transform"):
        PerCandidate(Normalizer()).inverse_transform(X)


def test_not_fitted(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler())
    for method in ("transform", "inverse_transform"):
        with pytest.raises(NotFittedError, match=r"PerCandidate .* not fitted yet"):
            getattr(scaler, method)(X)
    with pytest.raises(NotFittedError, match="PerCandidate"):
        scaler.get_feature_names_out()
    assert not hasattr(scaler, "n_features_in_")
    assert not hasattr(scaler, "feature_names_in_")


@pytest.mark.parametrize("bad", ["passthrough", None, QProbePolicy(), object(), 3])
def test_bad_transformer(sets, bad):
    words = r"'transformer' parameter of PerCandidate must be .*'fit' and 'transform'"
    with pytest.raises(ValueError, match=words):
        PerCandidate(bad).fit(*sets)
    with pytest.raises(ValueError, match=words):
        PerCandidate(bad).fit_transform(*sets)


def test_bad_embeddings(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler()).fit(X)
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4"):
        scaler.transform(X[..., :3])
    with pytest.raises(ValueError, match="dim 4"):
        scaler.fit(X[None])
    for empty in (X[:0], X[:, :0]):
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            scaler.fit(empty)
    with pytest.raises(ValueError, match="infinity"):
        PerCandidate(PCA()).fit(np.full_like(X, np.inf))
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        scaler.fit(X[..., :0])


def test_ragged_list():
    X = [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]]
    with pytest.raises(ValueError, match=r"same number of candidates.*rows"):
        PerCandidate(StandardScaler()).fit(X)


@pytest.mark.parametrize(
    "rows", [slice(1, None), slice(None, None, 2), slice(0, 60)], ids=str
)
def test_transformer_that_drops_rows(sets, rows):
    # The remaining rows may still fill sets, with the features of other candidates.
    with pytest.raises(ValueError, match="one row per candidate"):
        PerCandidate(Scaler(rows)).fit_transform(sets[0])


def test_failed_fit_changes_nothing(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler()).fit(X)
    before = scaler.transformer_, copy.deepcopy(vars(scaler.transformer_))
    with pytest.raises(ValueError, match="infinity"):
        scaler.fit(np.full((5, 3, 2), np.inf))
    assert scaler.transformer_ is before[0]
    assert vars(scaler.transformer_).keys() == before[1].keys()
    assert scaler.n_features_in_ == 4
    scaler.transform(X)


# Sample weights and other metadata


def weights(rng, kind):
    """Weights of prompts or candidates, and the same weights per row."""
    if kind == "prompts":
        weight = rng.uniform(0, 2, size=60)
        return weight, np.repeat(weight, 6)
    weight = rng.uniform(0, 2, size=(60, 6))
    return weight, weight.ravel()


@pytest.mark.parametrize("kind", ["prompts", "candidates"])
@pytest.mark.parametrize("container", ["array", "list", "pandas"])
def test_weights_reach_the_transformer(sets, rng, kind, container):
    X, _ = sets
    weight, of_rows = weights(rng, kind)
    if container == "list":
        weight = weight.tolist()
    elif container == "pandas":
        pd = pytest.importorskip("pandas")
        weight = pd.Series(weight) if kind == "prompts" else pd.DataFrame(weight)
    expected = StandardScaler().fit(X.reshape(-1, 4), sample_weight=of_rows)
    scaler = PerCandidate(StandardScaler()).fit(X, sample_weight=weight)
    np.testing.assert_allclose(scaler.transformer_.mean_, expected.mean_)
    np.testing.assert_allclose(scaler.transformer_.var_, expected.var_)
    assert abs(expected.mean_ - X.mean(axis=(0, 1))).max() > 1e-3
    result = PerCandidate(StandardScaler()).fit_transform(X, sample_weight=weight)
    np.testing.assert_allclose(result, scaler.transform(X), atol=1e-12)


def test_weights_of_rows_are_passed_unchanged(rows, rng):
    X, _, _ = rows
    weight = rng.uniform(0, 2, size=len(X))
    expected = StandardScaler().fit(X, sample_weight=weight)
    scaler = PerCandidate(StandardScaler()).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(scaler.transformer_.mean_, expected.mean_)


def test_weights_of_none_are_passed_unchanged(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler()).fit(X, sample_weight=None)
    np.testing.assert_allclose(scaler.transformer_.mean_, X.mean(axis=(0, 1)))


def test_bad_weights(sets):
    X, _ = sets
    with pytest.raises(ValueError, match="sample_weight"):
        PerCandidate(StandardScaler()).fit(X, sample_weight=np.ones(59))
    with pytest.raises(TypeError, match="groups"):
        PerCandidate(StandardScaler()).fit(X, groups=np.arange(60))


@pytest.mark.parametrize("kind", ["prompts", "candidates"])
def test_metadata_routing(sets, rng, kind):
    X, y = sets
    weight, of_rows = weights(rng, kind)
    expected = StandardScaler().fit(X.reshape(-1, 4), sample_weight=of_rows)
    plain = StandardScaler().fit(X.reshape(-1, 4))
    with config_context(enable_metadata_routing=True):
        # Without metadata, no request is needed.
        scaler = PerCandidate(StandardScaler()).fit(X)
        np.testing.assert_allclose(scaler.transformer_.mean_, plain.mean_)
        requesting = PerCandidate(StandardScaler().set_fit_request(sample_weight=True))
        for scaler in (
            clone(requesting).fit(X, sample_weight=weight),
            # A pipeline calls fit_transform.
            make_pipeline(requesting, QProbePolicy()).fit(X, y, sample_weight=weight)[
                0
            ],
            PerCandidate(make_pipeline(requesting.transformer, PCA(1)))
            .fit(X, sample_weight=weight)
            .transformer_[0],
        ):
            fitted = getattr(scaler, "transformer_", scaler)
            np.testing.assert_allclose(fitted.mean_, expected.mean_)
        # The policy requests weights by default, and the scaler does not.
        declining = PerCandidate(StandardScaler().set_fit_request(sample_weight=False))
        pipeline = make_pipeline(declining, QProbePolicy())
        pipeline.fit(X, y, sample_weight=weight)
        np.testing.assert_allclose(pipeline[0].transformer_.mean_, plain.mean_)
        policy = QProbePolicy().fit(declining.fit_transform(X), y, sample_weight=weight)
        np.testing.assert_allclose(pipeline[1].coef_, policy.coef_, rtol=1e-8)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            PerCandidate(StandardScaler()).fit(X, sample_weight=weight)
        with pytest.raises(TypeError, match="groups"):
            PerCandidate(StandardScaler()).fit(X, groups=np.arange(60))


def test_routing_of_rows_and_groups(rows):
    X, y, groups = rows
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(PerCandidate(StandardScaler()), QProbePolicy())
        pipeline.fit(X, y, groups=groups)
        expected = QProbePolicy().fit(StandardScaler().fit_transform(X), y, groups)
        np.testing.assert_allclose(pipeline[1].coef_, expected.coef_)
        score = pipeline.score(X, y, groups=groups)
        assert score == pytest.approx(
            expected.score(StandardScaler().fit_transform(X), y, groups)
        )


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_standardised_columns_of_any_magnitude(sets, scale):
    X = sets[0]
    X = np.concatenate([X * scale, np.full_like(X[..., :1], 3.0)], axis=2)
    out = PerCandidate(StandardScaler()).fit_transform(X)
    np.testing.assert_allclose(out[..., :-1].std(axis=(0, 1)), 1)
    np.testing.assert_array_equal(out[..., -1], 0)
