import datetime

import numpy as np
import pytest
from cases import every_probe
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy

# Draws


@pytest.mark.parametrize("size", [None, 1, np.int64(7)])
def test_shape_of_samples(data, size):
    X, y, groups = data
    policy = QProbePolicy(temperature=1.0).fit(X, y, groups)
    n_prompts = len(y) if groups is None else len(set(groups))
    draws = policy.sample(X, groups, size=size)
    assert draws.shape == ((n_prompts,) if size is None else (n_prompts, size))
    assert np.issubdtype(draws.dtype, np.integer)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", (2,)])
def test_bad_size_of_samples(sets, size):
    policy = QProbePolicy().fit(*sets)
    with pytest.raises(ValueError, match=r"size must be None or an integer of 1"):
        policy.sample(sets[0], size=size)


@every_probe
def test_random_state_of_samples(sets, Probe):
    X, y = sets
    probe = Probe(temperature=1.0).fit(X, y)

    def draw(**params):
        return probe.sample(X, size=10, **params).tolist()

    # An integer gives the same draws each time, a RandomState the next ones.
    first = draw(random_state=0)
    assert draw(random_state=0) == first != draw(random_state=1)
    state = np.random.RandomState(0)
    assert draw(random_state=state) == first != draw(random_state=state)
    # None uses the estimator's random_state, or numpy's global state.
    np.random.seed(0)  # noqa: NPY002
    assert draw() == first != draw()
    probe.set_params(random_state=0)
    assert draw() == first == draw() != draw(random_state=1)
    probe.set_params(random_state=np.random.RandomState(0))
    assert draw() == first != draw()


# Input


@pytest.mark.parametrize(
    "rename",
    [
        pytest.param(lambda i: f"prompt {i}", id="str"),
        pytest.param(lambda i: 7 - i, id="int"),
        pytest.param(lambda i: ("prompt", i), id="tuple"),
        pytest.param(lambda i: i if i % 2 else str(i), id="mixed"),
        pytest.param(lambda i: i / 3, id="float"),
        pytest.param(lambda i: datetime.date.fromordinal(738000 - i), id="date"),
    ],
)
def test_groups_of_any_type(rows, rename):
    X, y, groups = rows
    named = [rename(int(label.split()[1])) for label in groups]
    expected = QProbePolicy().fit(X, y, groups)
    policy = QProbePolicy().fit(X, y, named)
    assert_array_equal(policy.coef_, expected.coef_)
    assert_array_equal(policy.predict(X, named), policy.predict(X, groups))
    assert policy.score(X, y, named) == expected.score(X, y, groups)


@pytest.mark.parametrize("frame", ["pandas", "polars", "list"])
@every_probe
def test_rows_from_frames_and_lists(rows, rng, Probe, frame):
    X, y, groups = rows
    weight = rng.integers(1, 4, size=len(y)).astype(float)
    if frame == "list":
        data = [array.tolist() for array in (X, y, groups, weight)]
    else:
        module = pytest.importorskip(frame)
        names = [f"e{i}" for i in range(X.shape[1])]
        data = [module.DataFrame(dict(zip(names, X.T, strict=True)))]
        data += [module.Series(array.tolist()) for array in (y, groups, weight)]
    expected = Probe().fit(X, y, groups, sample_weight=weight)
    probe = Probe().fit(*data[:3], sample_weight=data[3])
    # A frame may be in Fortran order, for which BLAS rounds differently.
    assert_allclose(probe.coef_, expected.coef_, rtol=1e-8)
    assert_allclose(probe.score(*data[:3]), expected.score(X, y, groups))
    if Probe is QProbePolicy:
        assert_array_equal(probe.predict(data[0], data[2]), expected.predict(X, groups))


@pytest.mark.parametrize("frame", ["pandas", "polars", "list"])
@every_probe
def test_sets_from_frames_and_lists(sets, rng, Probe, frame):
    X, y = sets
    weight = rng.integers(1, 4, size=y.shape).astype(float)
    if frame == "list":
        X_given, y_given, *weights = (a.tolist() for a in (X, y, weight, weight[:, 0]))
    else:
        module = pytest.importorskip(frame)
        # No frame has three dimensions; a list of frames is a nested list.
        X_given = [module.DataFrame(candidates) for candidates in X]
        y_given = module.DataFrame(y)
        weights = [module.DataFrame(weight), module.Series(weight[:, 0])]
    for theirs, ours in zip(weights, (weight, weight[:, 0]), strict=True):
        expected = Probe().fit(X, y, sample_weight=ours)
        probe = Probe().fit(X_given, y_given, sample_weight=theirs)
        assert_allclose(probe.coef_, expected.coef_, rtol=1e-8)
        assert_allclose(
            probe.score(X_given, y_given, sample_weight=theirs),
            expected.score(X, y, sample_weight=ours),
        )


def test_one_weight_for_all_prompts(sets):
    X, y = sets
    policy, expected = QProbePolicy().fit(X, y, sample_weight=2.0), QProbePolicy()
    assert_array_equal(policy.coef_, expected.fit(X, y).coef_)
    assert policy.score(X, y, sample_weight=2.0) == policy.score(X, y)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
@every_probe
def test_feature_names(rows, Probe, frame):
    module = pytest.importorskip(frame)
    X, y, groups = rows
    named = module.DataFrame(dict(zip("abcd", X.T, strict=True)))
    renamed = module.DataFrame(dict(zip("abdc", X.T, strict=True)))
    if not hasattr(StandardScaler().fit(named), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not read the names in {frame}'s frames")
    probe = Probe().fit(named, y, groups)
    assert probe.feature_names_in_.tolist() == list("abcd")
    assert probe.n_features_in_ == 4
    score = probe.score(named, y, groups)
    with pytest.raises(ValueError, match="feature names should match"):
        probe.score(renamed, y, groups)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert probe.score(X, y, groups) == pytest.approx(score)
    # A fit with an array removes the names: any names then only warn.
    probe.fit(X, y, groups)
    assert not hasattr(probe, "feature_names_in_")
    with pytest.warns(UserWarning, match="fitted without feature names"):
        probe.score(renamed, y, groups)
    # A fit with sets, which have no names, removes them, too.
    probe.fit(named, y, groups).fit(np.stack([X, X]), np.stack([y, y]))
    assert not hasattr(probe, "feature_names_in_")


def test_columns_without_names(rows):
    pd = pytest.importorskip("pandas")
    X, y, groups = rows
    policy = QProbePolicy().fit(pd.DataFrame(X), y, groups)  # integer column names
    assert not hasattr(policy, "feature_names_in_")
    assert policy.n_features_in_ == 4
