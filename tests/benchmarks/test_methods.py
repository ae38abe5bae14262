"""The methods of the benchmark of rewards are what their names say."""

from importlib.util import find_spec

import numpy as np
import pytest

from skqprobe import QProbePolicy
from skqprobe.metrics import best_of_k_reward, oracle_reward


@pytest.fixture
def plan(load):
    return load("reward").QUICK


def test_which_methods_use_siblings(methods, plan, make_data):
    names = [name for name in methods.METHODS if name != "LGBMRanker"]
    made, left_out = methods.make_methods(make_data(), plan, names)
    recommended = {name for name in names if name.startswith("recommended")}
    expected = {*methods.WITH_SIBLINGS} | recommended
    assert {m.name for m in made if m.uses_siblings} == expected - set(left_out)
    (default,) = (method for method in made if method.name == "default")
    assert type(default.search(4, 2)) is QProbePolicy  # no scaler, no search


def test_left_out(methods, plan, make_data, monkeypatch):
    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    data = make_data(binary=False)
    names = ["log_loss", "LogisticRegression", "siblings+network", "LGBMRanker"]
    made, left_out = methods.make_methods(data, plan, [*names, "Ridge"])
    assert [method.name for method in made] == ["Ridge"]
    reasons = "y must lie in [0, 1]", "not all 0 or 1", "install torch", "lightgbm"
    for name, reason in zip(names, reasons, strict=True):
        assert reason in left_out[name]


def test_network(methods, plan, make_data):
    pytest.importorskip("torch")
    data = make_data(m=6)
    (method,), _ = methods.make_methods(data, plan, ["siblings+network"])
    model = method.fit(data, 6, 2).best_estimator_
    assert model["model"].coefs_[0].shape[1] == 256
    assert "siblings" in model.named_steps and model["model"].alpha in (0.01, 0.1)


def test_units_of_the_penalty(methods, plan, make_data):
    """One entry of the grid is the same penalty for all methods of least squares."""
    data = make_data(n_prompts=20, m=4, d=3, binary=False)
    X, coef = data.X.astype(float), {}
    # Without a prompt's mean in the features, all of these are one problem.
    X -= X.mean(axis=1, keepdims=True)
    names = ["squared_error", *methods.PEERS[:2]]
    for method in methods.make_methods(data, plan, names)[0]:
        ((setting, values),) = method.grid.items()
        estimator = method.estimator.set_params(**{setting: values[-1]})
        estimator.fit(X, data.y)
        coef[method.name] = getattr(estimator, "estimator_", estimator).coef_
    assert set(coef) == set(names)
    for other in coef.values():
        np.testing.assert_allclose(other, coef["squared_error"], rtol=1e-6)


def test_groups_stay_together_in_the_search(methods, plan, make_data):
    data = make_data(np.repeat(np.arange(20), 2))
    search = methods.make_peer("Ridge", data.y.size, plan).search(6, 3)
    for fit, choose in search.cv.split(data.X, groups=data.groups):
        assert not set(data.groups[fit]) & set(data.groups[choose])


def test_view_sizes_reach_the_siblings(methods, plan, make_data):
    data = make_data(view_sizes=(2, 3))
    (method,), _ = methods.make_methods(data, plan, ["siblings+log_loss"])
    search = method.fit(data, 3, 2)
    assert len(search.best_estimator_["siblings"].scales_) == 2


@pytest.mark.skipif(find_spec("lightgbm") is None, reason="lightgbm is not installed")
@pytest.mark.parametrize("binary", [True, False])
def test_ranker(methods, plan, make_data, binary):
    data = make_data(n_prompts=80, m=6, binary=binary)
    train, test = data.take(slice(40)), data.take(slice(40, 80))
    (method,), _ = methods.make_methods(train, plan, ["LGBMRanker"])
    values = method.estimator.fit(train.X, train.y).decision_function(test.X)
    chosen, oracle = best_of_k_reward(test.y, values, 6), oracle_reward(test.y, 6)
    assert chosen > (test.y.mean() + oracle) / 2
