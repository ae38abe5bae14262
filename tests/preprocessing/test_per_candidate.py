import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from estimators import assert_refused
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_selection import SelectKBest, f_regression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils import get_tags

from skqprobe import QProbePolicy
from skqprobe._arrays.views import views_of
from skqprobe.preprocessing import PerCandidate


class Scaler(BaseEstimator):
    """Transformer with the methods that PerCandidate needs, without fit_transform."""

    def __init__(self, rows=slice(None)):
        self.rows = rows

    def fit(self, X, y=None):
        self.scale_ = np.abs(X).max(axis=0)
        return self

    def transform(self, X):
        return (X / self.scale_)[self.rows]


TRANSFORMERS = {
    "StandardScaler": StandardScaler(),
    "PCA": PCA(2, svd_solver="full"),
    "PolynomialFeatures": PolynomialFeatures(2),  # returns more features
    "SelectKBest": SelectKBest(f_regression, k=2),  # needs y
    "KBinsDiscretizer": KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
    "Pipeline": make_pipeline(StandardScaler(), PCA(2, svd_solver="full")),
    "PerCandidate": PerCandidate(StandardScaler()),
    "Scaler": Scaler(),
}
every_transformer = pytest.mark.parametrize(
    "transformer", TRANSFORMERS.values(), ids=TRANSFORMERS.keys()
)


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
        assert_allclose(result.reshape(360, -1), expected, atol=1e-12)
    # The same fit transforms rows, and sets of other numbers.
    assert_allclose(per_candidate.transform(X[0]), result[0], atol=1e-12)
    assert_allclose(per_candidate.transform(X[:7, :2]), result[:7, :2], atol=1e-12)
    # The argument stays unfitted.
    assert per_candidate.transformer is transformer
    assert per_candidate.transformer_ is not transformer


@every_transformer
def test_rows_are_passed_unchanged(rows, transformer):
    X, y, _ = rows
    expected = clone(transformer).fit(X, y).transform(X)
    result = PerCandidate(transformer).fit(X, y).transform(X)
    assert_array_equal(result, expected)
    assert_allclose(PerCandidate(transformer).fit_transform(X, y), expected, atol=1e-12)


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
    assert_array_equal(X, before)


# Memory maps


@pytest.fixture
def mapped(rng, tmp_path):
    """A memory map of sets, 2 MB."""
    X = (3 + rng.normal(size=(500, 20, 100))).astype(np.float16)
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


copies = r"X is a memory map of 2 MiB.* set standardize=True of QProbePolicy"


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), MaxAbsScaler()])
def test_scalers_are_fitted_to_memory_maps_in_blocks(mapped, scaler, monkeypatch):
    expected = clone(scaler).fit(np.array(mapped, np.float32).reshape(-1, 100))
    monkeypatch.setattr("skqprobe._arrays.blocks.BLOCK_BYTES", 2**16)
    for X in (mapped, mapped.reshape(-1, 100), mapped[1:]):  # sets, rows, a view
        tracemalloc.start()
        fitted = PerCandidate(scaler).fit(X)  # without a warning
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < mapped.nbytes / 2
        assert_allclose(fitted.transformer_.scale_, expected.scale_, rtol=1e-2)
        assert fitted.transformer_.n_samples_seen_ == X.size / 100
    fitted = PerCandidate(scaler).fit(mapped).transformer_
    assert_allclose(fitted.scale_, expected.scale_, rtol=1e-6)
    with pytest.warns(UserWarning, match=copies) as caught:
        X = PerCandidate(scaler).fit_transform(mapped)
    assert [warning.filename for warning in caught] == [__file__]
    rows = expected.transform(np.array(mapped, np.float32).reshape(-1, 100))
    assert_allclose(X, rows.reshape(X.shape), rtol=2e-3, atol=1e-3)


def test_copies_of_memory_maps_warn(mapped):
    scaler = PerCandidate(StandardScaler()).fit(mapped)
    weight = {"sample_weight": np.ones(500)}
    for method, arguments in [
        (scaler.transform, {}),
        (scaler.inverse_transform, {}),
        (PerCandidate(StandardScaler()).fit, weight),
        (PerCandidate(PCA(1)).fit, {}),
        (PerCandidate(PCA(1)).fit_transform, {}),
    ]:
        with pytest.warns(UserWarning, match=copies) as caught:
            method(mapped, **arguments)
        assert [warning.filename for warning in caught] == [__file__]
        method(np.array(mapped), **arguments)


# Sparse output and strings


def test_sparse_rows_stay_sparse_and_sets_become_dense(sets):
    X, y = sets
    bins = KBinsDiscretizer(3, strategy="uniform")
    expected = bins.fit_transform(X.reshape(-1, 4))
    result = PerCandidate(bins).fit_transform(X)
    assert_array_equal(result, expected.toarray().reshape(60, 6, 12))
    # A policy accepts this output.
    make_pipeline(PerCandidate(bins), QProbePolicy()).fit(X, y).predict(X)
    for transformer, rows in [
        (bins, X[:, 0]),
        (StandardScaler(with_mean=False), sp.csr_array(X[:, 0])),
    ]:
        assert sp.issparse(PerCandidate(transformer).fit_transform(rows))


def test_sets_of_strings():
    X = np.array([["a", "b"], ["b", "c"], ["a", "a"]], dtype=object)[..., None]
    encoder = PerCandidate(OneHotEncoder())
    result = encoder.fit_transform(X)
    assert result.shape == (3, 2, 3)
    assert_array_equal(result.argmax(axis=2), [[0, 1], [1, 2], [0, 0]])
    assert_array_equal(encoder.inverse_transform(result), X)


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
        assert_allclose(result.to_numpy().mean(axis=0), 0, atol=1e-12)
    assert scaler.feature_names_in_.tolist() == names
    assert scaler.get_feature_names_out().tolist() == names
    # clone keeps the container. The output for sets is always an array.
    assert isinstance(clone(scaler).fit_transform(data), module.DataFrame)
    assert isinstance(scaler.fit_transform(X[None]), np.ndarray)
    # The container can be changed after fit.
    scaler.fit(data)
    for transform, type_ in [("default", np.ndarray), (frame, module.DataFrame)]:
        scaler.set_output(transform=transform)
        assert isinstance(scaler.transform(data), type_)
    with config_context(transform_output=frame):
        assert isinstance(PerCandidate(PCA(1)).fit_transform(X[None]), np.ndarray)


# Tags and rewards


def test_tags_are_those_of_the_transformer():
    assert get_tags(PerCandidate(TargetEncoder())).target_tags.required
    assert not get_tags(PerCandidate(PCA())).input_tags.allow_nan
    for transformer in (StandardScaler(with_mean=False), StandardScaler()):
        tags, expected = get_tags(PerCandidate(transformer)), get_tags(transformer)
        assert not tags.target_tags.required
        assert tags.input_tags.sparse == expected.input_tags.sparse
        assert tags.input_tags.allow_nan
        assert tags.input_tags.three_d_array and tags.input_tags.two_d_array
        assert not expected.input_tags.three_d_array  # unchanged


def test_bad_rewards(sets):
    X, y = sets
    for transformer in (SelectKBest(f_regression, k=1), StandardScaler()):
        for bad in (y[:30], y.ravel(), y[:, 0]):
            with pytest.raises(ValueError, match=r"y has shape .*60 sets of 6"):
                PerCandidate(transformer).fit(X, bad)
    with pytest.raises(ValueError, match="requires y to be passed"):
        PerCandidate(SelectKBest(f_regression, k=1)).fit(X)


# Parameters and methods


def test_feature_names_out(sets):
    X, _ = sets
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
    for embeddings in (X, X[0]):
        back = scaler.inverse_transform(scaler.transform(embeddings))
        assert_allclose(back, embeddings)
    for other in (PerCandidate(Normalizer()), PerCandidate(Normalizer()).fit(X)):
        with pytest.raises(AttributeError, match="inverse_transform"):
            other.inverse_transform(X)
    # The method follows a change of the transformer.
    changed = PerCandidate(Normalizer()).set_params(transformer=PCA())
    assert hasattr(changed, "inverse_transform")


def test_not_fitted(sets):
    scaler = PerCandidate(StandardScaler())
    for method in ("transform", "inverse_transform", "get_feature_names_out"):
        with pytest.raises(NotFittedError, match=r"PerCandidate .* not fitted yet"):
            getattr(scaler, method)(sets[0])
    assert not hasattr(scaler, "n_features_in_")
    assert not hasattr(scaler, "feature_names_in_")


@pytest.mark.parametrize("bad", ["passthrough", None, QProbePolicy(), object(), 3])
@pytest.mark.parametrize("method", ["fit", "fit_transform"])
def test_bad_transformer(sets, bad, method):
    words = r"'transformer' parameter of PerCandidate must be .*'fit' and 'transform'"
    with pytest.raises(ValueError, match=words):
        getattr(PerCandidate(bad), method)(*sets)


def test_bad_embeddings_leave_the_last_fit_unchanged(sets):
    X, _ = sets
    scaler = PerCandidate(StandardScaler()).fit(X)
    ragged = [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]]
    for method, bad, message in [
        (scaler.transform, X[..., :3], r"X has 3 features, but .* expecting 4"),
        (scaler.fit, X[None], "dim 4"),
        (scaler.fit, X[:0], r"0 sample\(s\)"),
        (scaler.fit, X[:, :0], r"0 sample\(s\)"),
        (scaler.fit, X[..., :0], r"0 feature\(s\)"),
        (scaler.fit, np.full_like(X, np.inf), "infinity"),
        (scaler.fit, ragged, r"same number of candidates.*rows"),
    ]:
        assert_refused(method, message, bad)
    assert scaler.n_features_in_ == 4


@pytest.mark.parametrize(
    "rows", [slice(1, None), slice(None, None, 2), slice(0, 60)], ids=str
)
def test_transformer_that_drops_rows(sets, rows):
    # The remaining rows may still fill sets, with the features of other candidates.
    with pytest.raises(ValueError, match="one row per candidate"):
        PerCandidate(Scaler(rows)).fit_transform(sets[0])


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
    assert_allclose(scaler.transformer_.mean_, expected.mean_)
    assert_allclose(scaler.transformer_.var_, expected.var_)
    assert abs(expected.mean_ - X.mean(axis=(0, 1))).max() > 1e-3
    result = PerCandidate(StandardScaler()).fit_transform(X, sample_weight=weight)
    assert_allclose(result, scaler.transform(X), atol=1e-12)


def test_weights_of_rows_are_passed_unchanged(rows, rng):
    X, _, _ = rows
    for weight in (rng.uniform(0, 2, size=len(X)), None):
        expected = StandardScaler().fit(X, sample_weight=weight)
        scaler = PerCandidate(StandardScaler()).fit(X, sample_weight=weight)
        assert_array_equal(scaler.transformer_.mean_, expected.mean_)


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
    weighted, plain = (
        StandardScaler().fit(X.reshape(-1, 4), sample_weight=w).mean_
        for w in (of_rows, None)
    )
    given = {"sample_weight": weight}
    with config_context(enable_metadata_routing=True):
        requesting, declining = (
            PerCandidate(StandardScaler().set_fit_request(sample_weight=request))
            for request in (True, False)
        )
        # Without metadata, no request is needed.
        scaler = PerCandidate(StandardScaler()).fit(X)
        assert_allclose(scaler.transformer_.mean_, plain)
        scaler = clone(requesting).fit(X, **given)
        assert_allclose(scaler.transformer_.mean_, weighted)
        pipeline = make_pipeline(requesting.transformer, PCA(1))
        scaler = PerCandidate(pipeline).fit(X, **given).transformer_[0]
        assert_allclose(scaler.mean_, weighted)
        # A pipeline calls fit_transform. The policy requests weights by default.
        for scaler, mean in [(requesting, weighted), (declining, plain)]:
            steps = make_pipeline(clone(scaler), QProbePolicy()).fit(X, y, **given)
            assert_allclose(steps[0].transformer_.mean_, mean)
            policy = QProbePolicy().fit(steps[0].transform(X), y, **given)
            assert_allclose(steps[1].coef_, policy.coef_, rtol=1e-8)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            PerCandidate(StandardScaler()).fit(X, **given)
        with pytest.raises(TypeError, match="groups"):
            PerCandidate(StandardScaler()).fit(X, groups=np.arange(60))


@pytest.mark.parametrize("transformer", [StandardScaler(), PCA(2)])
def test_views_of_the_output(rng, transformer):
    """The output has the views if it has as many columns."""
    X = rng.normal(size=(9, 4, 5))
    views = {"a": slice(0, 3), "b": [3, 4]}
    expected = ["a", "b"] if isinstance(transformer, StandardScaler) else None
    for layout in (X, X.reshape(-1, 5), X.astype(np.float16), X.tolist()):
        per_candidate = PerCandidate(transformer, view_sizes=views)
        for found in (
            per_candidate.fit_transform(layout),
            per_candidate.fit(layout).transform(layout),
        ):
            carried = views_of(found)
            assert carried == expected or list(carried) == expected
    with pytest.raises(ValueError, match=r"view_sizes must be .* 5"):
        PerCandidate(transformer, view_sizes=(3, 3)).fit(X)


# Dask collections


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(),
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        MinMaxScaler(),
        MaxAbsScaler(),
    ],
)
def test_scalers_of_partitions(scaler, dtype, data, chunked):
    X, _, _ = data
    X = (X + np.array([0, 100, 1000, 0])).astype(dtype)
    X[..., 3] = 7
    expected = PerCandidate(scaler).fit(X)
    lazy = chunked(X, 23)
    found = PerCandidate(scaler).fit(lazy)
    for name, value in vars(expected.transformer_).items():
        if name.endswith("_") and value is not None:
            assert_allclose(getattr(found.transformer_, name), value, err_msg=name)
    out = found.transform(lazy)
    assert out.chunks == lazy.chunks
    expected = expected.transform(X)
    assert out.dtype == expected.dtype == out.compute().dtype
    rtol = 1e-6 if dtype == np.float64 else 1e-3
    assert_allclose(out, expected, rtol=rtol, atol=rtol)
    assert_allclose(PerCandidate(scaler).fit_transform(lazy), out)


def test_other_transformers_transform_partitions(data, chunked):
    X, _, _ = data
    lazy = chunked(X, 23)
    with pytest.raises(ValueError, match="PCA cannot be fitted to a Dask collection"):
        PerCandidate(PCA(2)).fit(lazy)
    fitted = PerCandidate(PCA(2)).fit(X)
    out = fitted.transform(lazy)
    assert out.shape == (*X.shape[:-1], 2)
    assert_allclose(out, fitted.transform(X))
    assert_allclose(
        fitted.inverse_transform(out), fitted.inverse_transform(out.compute())
    )


def test_views_of_partitions(sets, chunked):
    X, _ = sets
    lazy = chunked(X, 23)
    out = PerCandidate(StandardScaler(), view_sizes=(1, 3)).fit_transform(lazy)
    assert list(views_of(out)) == ["view0", "view1"]
    assert views_of(lazy) is None


def test_names_of_partitions(data):
    pd, dd = map(pytest.importorskip, ("pandas", "dask.dataframe"))
    X = pd.DataFrame(data[0].reshape(-1, data[0].shape[-1]), columns=list("abcd"))
    lazy = dd.from_pandas(X, npartitions=3)
    expected = PerCandidate(StandardScaler()).fit(X)
    found = PerCandidate(StandardScaler()).fit(lazy)
    for name in ("feature_names_in_", "n_features_in_"):
        assert_array_equal(getattr(found, name), getattr(expected, name))
    assert_array_equal(found.get_feature_names_out(), list("abcd"))
    assert_allclose(found.transform(lazy), expected.transform(X))
    for fitted in (found, expected):
        with pytest.raises(ValueError, match="names must be in the same order"):
            fitted.transform(lazy[list("dcba")])


def test_columns_of_partitions_by_name(data):
    pd, dd = map(pytest.importorskip, ("pandas", "dask.dataframe"))
    X = pd.DataFrame(data[0].reshape(-1, data[0].shape[-1]), columns=list("abcd"))
    fitted = PerCandidate(ColumnTransformer([("c", StandardScaler(), ["c"])])).fit(X)
    found = fitted.transform(dd.from_pandas(X, npartitions=3))
    assert_allclose(found, fitted.transform(X))


def test_fit_after_a_lazy_transform(sets, chunked):
    X, _ = sets
    fitted = PerCandidate(StandardScaler()).fit(X)
    expected, lazy = fitted.transform(X), fitted.transform(chunked(X, 23))
    fitted.transformer_.scale_ *= 2
    fitted.fit(X + 5)
    assert_array_equal(lazy, expected)
