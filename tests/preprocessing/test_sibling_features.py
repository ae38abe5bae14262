import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe._arrays.views import views_of
from skqprobe.preprocessing import PerCandidate, SiblingFeatures, _sibling_sampling

MODULE = "skqprobe.preprocessing._sibling_features."
ALL = ("mean", "nearest", "share", "density", "duplicates", "rank")


def features_by_loops(sets, metric, scale, limits, siblings):
    """Features of each candidate minus their means over the set."""
    features = []
    for E in sets:
        D = cdist(E, E, metric) / scale
        rows = []
        for i in range(len(E)):
            others = np.sort(np.delete(D[i], i))
            m = [max(1, round(share * len(others))) for share in siblings.nearest]
            row = [-others.mean()] + [-others[:n].mean() for n in m]
            row += [(others <= limit).mean() for limit in limits]
            row += [
                np.log(np.exp(-others / h).mean() + 0.01) for h in siblings.bandwidths
            ]
            rows.append([*row, (others <= 0.01).mean()])
        rows = np.array(rows)
        rows = np.column_stack([rows, rankdata(rows[:, 0]) / len(E)])
        features.append(rows - rows.mean(axis=0))
    return features


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_features_match_loops(rng, metric):
    X = rng.normal(size=(7, 6, 4))
    X[2, 1] = X[2, 4]  # duplicates
    siblings = SiblingFeatures(ALL, embedding="drop", metric=metric, variance_share=1.0)
    got = siblings.fit_transform(X)
    pairs = np.array([cdist(E, E, metric)[~np.eye(6, dtype=bool)] for E in X])
    pairs = pairs[pairs > 1e-12]
    scale = np.median(pairs)
    limits = np.quantile(pairs / scale, siblings.quantiles)
    assert_allclose(siblings.scales_, scale)
    assert_allclose(siblings.thresholds_, [limits])
    expected = np.stack(features_by_loops(X, metric, scale, limits, siblings))
    expected /= expected.std(axis=(0, 1))
    assert_allclose(got, expected, atol=1e-6)
    assert_allclose(siblings.transform(X), got)


def test_rows_agree_with_sets_in_any_order(rng):
    X = rng.normal(size=(9, 5, 3))
    siblings = SiblingFeatures(ALL, embedding="center")
    order = rng.permutation(45)
    expected = siblings.fit_transform(X).reshape(45, -1)[order]
    groups = np.repeat([f"prompt {i}" for i in range(9)], 5)[order]
    for method in (siblings.fit_transform, siblings.transform):
        got = method(X.reshape(45, 3)[order], groups=groups)
        assert_allclose(got, expected, atol=1e-12)


def test_ragged_prompts_are_independent(rows):
    X, _, groups = rows
    siblings = SiblingFeatures(ALL).fit(X, groups=groups)
    got = siblings.transform(X, groups=groups)
    for group in np.unique(groups):
        mine = groups == group
        alone = siblings.transform(X[mine][np.newaxis])[0]
        assert_allclose(got[mine], alone, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_few_candidates(rng, k):
    X = rng.normal(size=(4, k, 3))
    for siblings in (
        SiblingFeatures(ALL).fit(rng.normal(size=(20, 6, 3))),
        SiblingFeatures(ALL).fit(X),
    ):
        features = siblings.transform(X)[..., 3:]
        assert np.isfinite(features).all()
        assert_allclose(features.mean(axis=1), 0, atol=1e-12)
        if k == 1:
            assert (features == 0).all()


def test_features_are_on_the_same_scale_for_another_k(rng):
    """Compare features of the same candidates among few and many siblings."""
    centers = rng.normal(size=(50, 1, 8))
    spread = rng.uniform(0.2, 2, size=(50, 100, 1))
    X = centers + spread * rng.normal(size=(50, 100, 8))
    siblings = SiblingFeatures(ALL, embedding="drop").fit(X)
    many = siblings.transform(X)[:, :12]
    few = siblings.transform(X[:, :12])
    few_of_many = many - many.mean(axis=1, keepdims=True)
    for column, name in enumerate(siblings.get_feature_names_out()):
        if name == "sibling_duplicates":
            continue  # the data have no duplicates
        a, b = few_of_many[..., column].ravel(), few[..., column].ravel()
        slope = (a @ b) / (a @ a)
        # Features are noisier with few siblings, but on the same scale.
        assert 0.7 < slope < 1.35, (name, slope)
        assert np.corrcoef(a, b)[0, 1] > 0.6, name


@pytest.mark.parametrize("embedding", ["keep", "center", "drop"])
def test_columns_before_the_features(rng, embedding):
    X = rng.normal(size=(8, 4, 3)) * [1, 10, 100]
    siblings = SiblingFeatures(
        ("mean", "density"), embedding=embedding, variance_share=2.0
    )
    out = siblings.fit_transform(X)
    d = 0 if embedding == "drop" else 3
    kept, features = out[..., :d], out[..., d:]
    if embedding == "keep":
        assert_array_equal(kept, X)
    elif embedding == "center":
        assert_allclose(kept, X - X.mean(axis=1, keepdims=True))
    total = features.reshape(-1, 3).var(axis=0)
    assert_allclose(total, total[0])  # equal shares
    expected = 2.0 * (3 if embedding == "drop" else X.reshape(-1, 3).var(axis=0).sum())
    assert total.sum() == pytest.approx(expected)


def test_each_view_has_its_own_features(rng):
    A, B = rng.normal(size=(10, 5, 3)), rng.normal(size=(10, 5, 2))
    both = SiblingFeatures(("mean",), embedding="drop", view_sizes=(3, 2))
    got = both.fit_transform(np.concatenate([A, B], axis=2))
    one = SiblingFeatures(("mean",), embedding="drop")
    expected = [one.fit_transform(A), one.fit_transform(B)]
    assert_allclose(got, np.concatenate(expected, axis=2))
    names = ["view0_sibling_mean", "view1_sibling_mean"]
    assert both.get_feature_names_out().tolist() == names


def test_feature_names(rng):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(rng.normal(size=(12, 2)), columns=["a", "b"])
    siblings = SiblingFeatures(("nearest", "rank"), nearest=(0.1, 1))
    out = siblings.fit_transform(X, groups=np.repeat([1, 2, 3], 4))
    names = ["a", "b", "sibling_nearest_0.1", "sibling_nearest_1", "sibling_rank"]
    assert siblings.get_feature_names_out().tolist() == names
    assert out.shape == (12, 5)


def test_large_problems_are_split_into_blocks(rng, monkeypatch):
    X = rng.normal(size=(30, 6, 3))
    whole = SiblingFeatures(ALL).fit_transform(X)
    monkeypatch.setattr(MODULE + "ENTRIES_AT_ONCE", 5 * 36)
    assert_allclose(SiblingFeatures(ALL).fit_transform(X), whole)
    monkeypatch.setattr(MODULE + "DISTANCES_AT_ONCE", 2 * 6)
    assert_allclose(SiblingFeatures(ALL).fit_transform(X), whole)
    monkeypatch.setattr(_sibling_sampling, "SAMPLED_PAIRS", 10 * 30)
    sampled = SiblingFeatures(ALL).fit(X)  # from every third prompt
    kept = SiblingFeatures(ALL).fit(X[::3])
    assert_allclose(sampled.scales_, kept.scales_)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_large_prompts_take_bounded_memory(rng, monkeypatch, metric):
    k = 2000
    X = rng.normal(size=(1, k, 4)).astype(np.float32)
    X[0, ::7] = 0
    siblings = SiblingFeatures(ALL, metric=metric, embedding="drop")
    expected = siblings.fit_transform(X)
    scale = siblings.scales_
    monkeypatch.setattr(MODULE + "ENTRIES_AT_ONCE", 2**16)
    monkeypatch.setattr(MODULE + "DISTANCES_AT_ONCE", 2**16)
    assert_allclose(siblings.transform(X), expected, atol=1e-4)
    monkeypatch.setattr(_sibling_sampling, "SAMPLED_PAIRS", 2**16)
    tracemalloc.start()
    siblings.fit_transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 < k**2 * X.itemsize
    assert_allclose(siblings.scales_, scale, rtol=0.1)  # from evenly spaced candidates


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype(rng, dtype):
    X = rng.normal(size=(6, 4, 3)).astype(dtype)
    out = SiblingFeatures(ALL).fit_transform(X)
    assert out.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert_array_equal(out[..., :3], X)


def test_agreement_predicts_the_reward(rng):
    """Correct candidates agree on a point that differs between prompts."""
    centers = rng.normal(size=(200, 1, 8))
    y = rng.integers(0, 2, size=(200, 10)).astype(float)
    X = centers + np.where(y, 0.3, 1.5)[..., None] * rng.normal(size=(200, 10, 8))
    plain = QProbePolicy("log_loss").fit(X[:100], y[:100])
    aware = make_pipeline(SiblingFeatures(), QProbePolicy("log_loss"))
    aware.fit(X[:100], y[:100])
    assert plain.score(X[100:], y[100:]) < 0.65
    assert aware.score(X[100:], y[100:]) > 0.95


@pytest.mark.parametrize("method", ["transform", "fit_transform"])
def test_rows_without_groups_warn_and_have_zeros(rng, method):
    X = rng.normal(size=(10, 3))
    siblings = SiblingFeatures().fit(rng.normal(size=(5, 4, 3)))
    with pytest.warns(UserWarning, match="no groups were given") as caught:
        out = getattr(siblings, method)(X)
    assert [warning.filename for warning in caught] == [__file__]
    assert_array_equal(out[:, :3], X)
    assert_array_equal(out[:, 3:], 0)


def test_settings_may_be_fractions(sets):
    names = ("nearest", "quantiles", "bandwidths")
    found = [
        SiblingFeatures(**dict.fromkeys(names, (half,))).fit_transform(sets[0])
        for half in (0.5, Fraction(1, 2))
    ]
    assert_array_equal(*found)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", ("mean", "best"), "must be one or more of mean, nearest"),
        ("features", (), "must be one or more of"),
        ("nearest", (0, 0.1), "must be numbers above 0 and at most 1"),
        ("quantiles", (1.5,), "must be numbers above 0 and at most 1"),
        ("bandwidths", (-1,), "must be numbers above 0; got"),
        ("bandwidths", (10**400,), "must be numbers above 0; got"),
        ("view_sizes", (2, 2), "must be .* add up .* 3"),
        ("view_sizes", (0, 3), "must be"),
    ],
)
def test_bad_parameters_are_named(rng, name, value, message):
    X, siblings = rng.normal(size=(5, 4, 3)), SiblingFeatures(**{name: value})
    with pytest.raises(ValueError, match=f"{name} {message}"):
        siblings.fit(X)
    with pytest.raises(NotFittedError):
        siblings.transform(X)


@pytest.mark.parametrize(
    "bad", [{"embedding": "lose"}, {"metric": "angle"}, {"variance_share": 0}], ids=str
)
def test_parameters_are_validated(rng, bad):
    with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter"):
        SiblingFeatures(**bad).fit(rng.normal(size=(5, 4, 3)))


def test_another_number_of_features_raises(rng):
    siblings = SiblingFeatures().fit(rng.normal(size=(5, 4, 3)))
    with pytest.raises(ValueError, match="expecting 3 features"):
        siblings.transform(rng.normal(size=(5, 4, 2)))


# Extreme numbers

WITHOUT_SHARE = [name for name in ALL if name != "share"]


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize(
    "scale, dtype",
    [
        (2.0**-400, np.float64),
        (2.0**400, np.float64),
        (2.0**-45, np.float32),
        (2.0**45, np.float32),
        (2.0**-8, np.float16),
        (2.0**13, np.float16),
    ],
)
def test_scale_of_embeddings(rng, metric, scale, dtype):
    X = rng.normal(size=(20, 5, 8)).astype(np.float16)  # exact in all types
    scaled = (X.astype(np.float64) * scale).astype(dtype)
    make = SiblingFeatures(WITHOUT_SHARE, metric=metric, embedding="drop")
    expected = make.fit_transform(X.astype(np.float64))
    rtol = 1e-9 if dtype == np.float64 else 2e-2 if dtype == np.float16 else 1e-4
    assert_allclose(make.fit_transform(scaled), expected, atol=rtol)


def test_angles_of_tiny_embeddings(rng):
    # Their squares vanish in float32, but their angles are as exact as others.
    X = rng.normal(size=(20, 5, 8)).astype(np.float32)
    mixed = X.copy()
    mixed[:, 1] *= np.float32(2.0**-100)
    siblings = SiblingFeatures(WITHOUT_SHARE, embedding="drop")
    expected = siblings.fit_transform(X)
    assert_allclose(siblings.fit_transform(mixed), expected, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("n_missing", [0, 2])
def test_common_offset_costs_no_digits(rng, metric, n_missing):
    X = (1000 + rng.normal(size=(40, 8, 32))).astype(np.float32)
    X[::2, :n_missing] = 0  # far from all others
    features = [name for name in ALL if name != "rank"]  # has ties in float32
    for embedding in ("drop", "center"):
        make = SiblingFeatures(features, metric=metric, embedding=embedding)
        exact, single = make.fit_transform(X.astype(np.float64)), make.fit_transform(X)
        if embedding == "center":
            assert_allclose(single[..., :32], exact[..., :32], atol=1e-3)
            continue
        for column in range(exact.shape[2]):
            a, b = exact[..., column].ravel(), single[..., column].ravel()
            assert_allclose(b @ a, a @ a, rtol=1e-3)
            assert ((a - b) ** 2).sum() <= 1e-4 * (a @ a)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1000])
def test_distance_between_duplicates_is_0(rng, metric, dtype, offset):
    X = (offset + rng.normal(size=(30, 1, 50))).astype(dtype).repeat(7, axis=1)
    X[:, 0] = 1
    siblings = SiblingFeatures(("duplicates",), metric=metric, embedding="drop")
    if metric == "cosine" and offset:  # all cosines are above 1 - 1e-6
        with pytest.warns(UserWarning, match="are equal, up to rounding"):
            siblings.fit(X)
        return
    siblings.fit(X)
    # The scale is that of the distances to the first candidate.
    pairs = [cdist(E[:1], E[1:2], metric)[0, 0] for E in X.astype(float)]
    assert_allclose(siblings.scales_, np.median(pairs), rtol=1e-4)
    shares = siblings.transform(X)
    assert (shares[:, 1:] == shares[:, 1:2]).all() and (shares[:, 0] < 0).all()


def test_scale_without_duplicates(rng):
    """Rounding to float16 in most siblings is no scale for the distances."""
    X = rng.normal(size=(40, 1, 30)).repeat(6, axis=1)
    X += 1e-4 * rng.normal(size=X.shape)  # about one unit of float16
    X[:, 0] = rng.normal(size=(40, 30))
    scale = SiblingFeatures().fit(X.astype(np.float16)).scales_
    assert 0.5 < scale < 1.5


def test_views(rng):
    """Siblings of the wide views by default; the output carries all views."""
    X = rng.normal(size=(9, 5, 37)).astype(np.float32)
    siblings = SiblingFeatures(view_sizes={"a": 16, "length": 1, "b": 20})
    out = siblings.fit_transform(X)
    for view, columns in [("a", slice(0, 16)), ("b", slice(17, 37))]:
        alone = SiblingFeatures(embedding="drop").fit_transform(X[..., columns])
        names = siblings.get_feature_names_out()
        found = out[..., [name.startswith(f"{view}_sibling") for name in names]]
        found, alone = (a / a.std(axis=(0, 1)) for a in (found, alone))
        assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
    views = out.views
    assert list(views) == ["a", "length", "b", "siblings"]
    assert_array_equal(views["length"], [16])
    assert_array_equal(views["siblings"], np.arange(37, 55))
    one = siblings.set_params(sibling_views=["b"]).fit_transform(X)
    two = clone(siblings).set_params(view_sizes=(16, 1, 20), sibling_views=[2])
    assert_array_equal(one, two.fit_transform(X))
    assert one.shape[2] == 37 + 9
    again = SiblingFeatures().fit_transform(out)  # of the views that it carries
    assert list(again.views)[-2:] == ["siblings", "siblings_"]


def test_siblings_of_a_view_of_one_column(rng):
    """It has no cosine: its squared differences are used."""
    X = rng.random(size=(9, 5, 3))
    settings = {"view_sizes": (2, 1), "sibling_views": [1], "embedding": "drop"}
    found = SiblingFeatures(**settings).fit_transform(X)
    expected = SiblingFeatures(metric="sqeuclidean", embedding="drop")
    assert_array_equal(found, expected.fit_transform(X[..., 2:]))


@pytest.mark.parametrize("sibling_views", [[], ["c"], [2], ["a", "a"], [0.5], 0])
def test_sibling_views_that_do_not_exist(rng, sibling_views):
    siblings = SiblingFeatures(view_sizes={"a": 2, "b": 1})
    siblings.set_params(sibling_views=sibling_views)
    with pytest.raises(ValueError, match=r"sibling_views.*"):
        siblings.fit(rng.random(size=(9, 5, 3)))


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize(
    "scale, dtype",
    [
        (1e200, np.float64),
        (1e-200, np.float64),
        (1e25, np.float32),
        (1e-25, np.float32),
    ],
)
def test_embeddings_that_are_too_large_or_small(rng, metric, scale, dtype):
    X = (rng.normal(size=(3, 4, 2)) * scale).astype(dtype)
    with pytest.raises(ValueError, match=r"X has numbers .*Rescale X"):
        SiblingFeatures(metric=metric).fit(X)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("embedding", ["keep", "center", "drop"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4, 2), (3, 1, 2), (1, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_equal_candidates(metric, embedding, dtype, shape, constant):
    X = np.full(shape, constant, dtype=dtype)
    make = SiblingFeatures(ALL, metric=metric, embedding=embedding)
    are_missing = metric == "cosine" and constant == 0  # at the distance 1
    if shape[1] > 1 and not (are_missing and shape[2] > 1):
        words = "All candidates of each prompt are equal, up to rounding"
        with pytest.warns(UserWarning, match=words):
            out = make.fit_transform(X)
    else:
        out = make.fit_transform(X)
    features = out[..., shape[2] if embedding != "drop" else 0 :]
    assert_array_equal(features, 0)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output_for_rows(rows, library):
    module = pytest.importorskip(library)
    X, _, groups = rows
    expected = SiblingFeatures().fit(X, groups=groups)
    names = expected.get_feature_names_out()
    data = X if library == "polars" else module.DataFrame(X, index=groups)
    if library == "pandas":
        data.columns = [f"x{i}" for i in range(4)]
    siblings = SiblingFeatures().set_output(transform=library)
    results = [siblings.fit_transform(data, groups=groups)]
    results.append(siblings.transform(data, groups))
    with config_context(transform_output=library):
        results.append(SiblingFeatures().fit_transform(data, groups=groups))
        assert isinstance(SiblingFeatures().fit_transform(X[None]), np.ndarray)
    for result in results:
        assert isinstance(result, module.DataFrame)
        assert list(result.columns) == list(names)
        assert_allclose(result.to_numpy(), expected.transform(X, groups))
    if library == "pandas":
        assert list(results[0].index) == list(groups)
    assert isinstance(siblings.fit_transform(X[None]), np.ndarray)  # sets
    pipeline = make_pipeline(PerCandidate(StandardScaler()), clone(siblings))
    with config_context(enable_metadata_routing=True):
        pipeline.set_output(transform=library)
        framed = pipeline.fit_transform(data, groups=groups)
        assert isinstance(framed, module.DataFrame)


# Dask collections


@pytest.mark.parametrize("pairs", [50, 2**20])
@pytest.mark.parametrize("embedding", ["keep", "center", "drop"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_partitions(dtype, embedding, pairs, data, chunked, monkeypatch):
    """The sample of distances is that of one process."""
    monkeypatch.setattr(_sibling_sampling, "SAMPLED_PAIRS", pairs)
    X, _, groups = data
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        X, groups = X[order], groups[order]
    X, settings = X.astype(dtype), {"embedding": embedding, "view_sizes": (1, 3)}
    expected = SiblingFeatures(**settings).fit(X, None, groups)
    lazy, lazy_groups = chunked(X, 23), chunked(groups, 31)
    found = SiblingFeatures(**settings).fit(lazy, None, lazy_groups)
    for name in ("scales_", "thresholds_", "feature_scales_"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    assert found.n_features_in_ == 4 and found.views_.keys() == expected.views_.keys()
    out, in_memory = found.transform(lazy, lazy_groups), expected.transform(X, groups)
    assert out.chunks[0] == lazy.chunks[0] and out.dtype == in_memory.dtype
    atol = 1e-6 if dtype == np.float64 else 1e-3
    assert_allclose(out, in_memory, atol=atol)
    views = (views_of(each) or {} for each in (out, in_memory))
    np.testing.assert_equal(*views)


def test_partitions_without_groups(rows, chunked):
    X, _, _ = rows
    with pytest.warns(UserWarning, match="X has rows but no groups"):
        SiblingFeatures().fit(chunked(X, 50))


def test_bad_partitions(sets, chunked):
    X, _ = sets
    before = SiblingFeatures().fit(chunked(X, 23))
    scales = before.scales_
    X = np.where(X > 2.5, np.nan, X)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        before.fit(chunked(X, 23))
    assert before.scales_ is scales
    with pytest.raises(ValueError, match="expecting 4 features"):
        before.transform(chunked(X[..., :3], 23))
