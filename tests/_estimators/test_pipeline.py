import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone

from skqprobe import make_probe_pipeline


def test_settings_arrive():
    settings = {"alphas": [2.0], "temperatures": [0.5], "cv": 3, "scoring": np.mean}
    pipeline = make_probe_pipeline(["log_loss"], view_sizes=(1, 3), **settings)
    probe = pipeline["probe"].get_params()
    assert probe.items() >= {"losses": ["log_loss"], **settings}.items()
    assert pipeline["siblings"].view_sizes == (1, 3)


def test_both_layouts_agree(sets):
    X, y = sets
    of_sets = make_probe_pipeline().fit(X, y)
    rows, groups = X.reshape(-1, 4), np.repeat(np.arange(60), 6)
    with config_context(enable_metadata_routing=True):
        of_rows = clone(of_sets).fit(rows, y.ravel(), groups=groups)
        score = of_rows.score(rows, y.ravel(), groups=groups)
        chosen = of_rows.predict(rows, groups=groups)
    assert score == pytest.approx(of_sets.score(X, y))
    np.testing.assert_array_equal(chosen - 6 * np.arange(60), of_sets.predict(X))
    assert score > y.mean() + 0.2
