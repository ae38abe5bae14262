import numpy as np
import pytest
from cases import every_probe
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy

# Draws


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


def test_groups_of_any_type(rows):
    # tests/_candidates/test_labels.py has the types.
    X, y, groups = rows
    numbers = [int(label.split()[1]) for label in groups]
    named = [("prompt", i) if i % 2 else str(i) for i in numbers]
    expected = QProbePolicy().fit(X, y, groups)
    policy = QProbePolicy().fit(X, y, named)
    assert_array_equal(policy.coef_, expected.coef_)
    assert_array_equal(policy.predict(X, named), policy.predict(X, groups))
    assert policy.score(X, y, named) == expected.score(X, y, groups)


def as_frames(frame, X, *arrays):
    """X and other arrays as lists, or as frames or series of a module."""
    if frame == "list":
        return [array.tolist() for array in (X, *arrays)]
    module = pytest.importorskip(frame)
    # No frame has three dimensions; a list of frames is a nested list.
    X = [module.DataFrame(x) for x in X] if X.ndim == 3 else module.DataFrame(X)
    types = {1: module.Series, 2: module.DataFrame}
    return [X, *(types[array.ndim](array) for array in arrays)]


every_frame = pytest.mark.parametrize("frame", ["pandas", "polars", "list"])


@every_frame
@every_probe
def test_rows_from_frames_and_lists(rows, rng, Probe, frame):
    X, y, groups = rows
    weight = rng.integers(1, 4, size=len(y)).astype(float)
    expected = Probe().fit(X, y, groups, sample_weight=weight)
    *data, weight = as_frames(frame, X, y, groups, weight)
    probe = Probe().fit(*data, sample_weight=weight)
    # A frame may be in Fortran order, for which BLAS rounds differently.
    assert_allclose(probe.coef_, expected.coef_, rtol=1e-8)
    assert_allclose(probe.score(*data), expected.score(X, y, groups))
    if Probe is QProbePolicy:
        assert_array_equal(probe.predict(data[0], data[2]), expected.predict(X, groups))


@every_frame
@every_probe
def test_sets_from_frames_and_lists(sets, rng, Probe, frame):
    of_candidates = rng.integers(1, 4, size=sets[1].shape).astype(float)
    for weight in (of_candidates, of_candidates[:, 0]):
        expected = Probe().fit(*sets, sample_weight=weight)
        *data, given = as_frames(frame, *sets, weight)
        probe = Probe().fit(*data, sample_weight=given)
        assert_allclose(probe.coef_, expected.coef_, rtol=1e-8)
        score = expected.score(*sets, sample_weight=weight)
        assert_allclose(probe.score(*data, sample_weight=given), score)


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
