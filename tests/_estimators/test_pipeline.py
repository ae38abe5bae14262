import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone

from skqprobe import make_probe_pipeline


def test_settings_are_passed_to_the_steps():
    settings = {"alphas": [2.0], "temperatures": [0.5], "cv": 3, "scoring": np.mean}
    pipeline = make_probe_pipeline(["log_loss"], view_sizes=(1, 3), **settings)
    probe = pipeline["probe"].get_params()
    assert probe.items() >= {"losses": ["log_loss"], **settings}.items()
    assert pipeline["siblings"].view_sizes == (1, 3)


def test_sets_and_rows_agree(sets):
    X, y, groups = as_rows(*sets)
    of_sets = make_probe_pipeline().fit(*sets)
    with config_context(enable_metadata_routing=True):
        of_rows = clone(of_sets).fit(X, y, groups=groups)
        score = of_rows.score(X, y, groups=groups)
        chosen = of_rows.predict(X, groups=groups)
    assert score == pytest.approx(of_sets.score(*sets))
    assert_array_equal(chosen - 6 * np.arange(60), of_sets.predict(sets[0]))
    assert score > y.mean() + 0.2


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_without_routing_the_sibling_features_get_no_groups(sets, method):
    """The documentation says so: they warn, and only the probe gets the groups."""
    X, y, groups = as_rows(*sets)
    with config_context(enable_metadata_routing=True):
        pipeline = make_probe_pipeline().set_params(probe__view_weights=[1, 1])
        pipeline.fit(X, y, groups=groups)
        expected = getattr(pipeline, method)(X, groups=groups)
    with pytest.warns(UserWarning, match="enable_metadata_routing=True"):
        found = getattr(pipeline, method)(X, groups=groups)
    assert found.shape == expected.shape and (found != expected).any()
    for call in (pipeline.fit, pipeline.decision_function):
        arguments = (X, y) if call == pipeline.fit else (X,)
        with pytest.raises(ValueError, match="groups"):
            call(*arguments, groups=groups)
