"""What few users meet, but the code provides for; each found by coverage."""

import sqlite3
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe.embedders import LikelihoodEmbedder, flatten_records
from skqprobe.embedders._cache import _use_write_ahead_log, text_keys
from skqprobe.generators import BaseGenerator, collect


@pytest.mark.parametrize("Probe", [QProbePolicy, QProbeRegressor])
def test_a_warm_start_begins_with_the_intercept_too(sets, Probe):
    X, y = sets
    X = X + 3  # without its intercept, the start would be far from the minimum
    probe = Probe("log_loss", alpha=0.1, warm_start=True, tol=1e-6).fit(X, y)
    coef, intercept, n_iter = probe.coef_.copy(), probe.intercept_, probe.n_iter_
    probe.fit(X, y)
    assert probe.n_iter_ < n_iter / 2
    np.testing.assert_allclose(probe.coef_, coef, atol=1e-4)
    np.testing.assert_allclose(probe.intercept_, intercept, atol=1e-3)


def test_equal_columns_share_a_coefficient_where_the_penalty_is_lost_in_rounding(rng):
    x, y = rng.normal(size=(50, 1)), rng.normal(size=50)
    once = QProbeRegressor(alpha=0).fit(x, y)
    twice = QProbeRegressor(alpha=1e-30).fit(np.hstack([x, x]), y)
    np.testing.assert_allclose(twice.coef_, once.coef_.repeat(2) / 2)


def test_a_search_scores_rows_without_groups_by_a_function_of_the_users(rng):
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    shapes = []

    def scoring(policy, X, y):
        shapes.append((X.shape, y.shape))
        return -np.mean((policy.decision_function(X) - y) ** 2)

    search = QProbePolicyCV(["squared_error"], alphas=[1.0], scoring=scoring, cv=3)
    search.fit(X, y)
    assert shapes == [((10, 2), (10,))] * 3
    folds = [np.arange(30) // 10 == fold for fold in range(3)]
    expected = []
    for test in folds:
        probe = QProbeRegressor(alpha=1.0).fit(X[~test], y[~test])
        expected.append(-np.mean((probe.predict(X[test]) - y[test]) ** 2))
    np.testing.assert_allclose(search.best_score_, np.mean(expected))


def test_a_search_without_any_choice_finds_nothing(rng):
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    search = QProbePolicyCV(["contrastive_policy_gradient"], alphas=[1.0], cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are no groups
        search.fit(X, y)
    np.testing.assert_array_equal(search.coef_, [0, 0])


class BusyOnce:
    """A connection to a file that another process is making."""

    def __init__(self, code):
        self.code = code
        self.asked = 0

    def execute(self, statement):
        self.asked += 1
        if self.asked == 1:
            error = sqlite3.OperationalError("not now")
            error.sqlite_errorcode = self.code
            raise error


def test_the_cache_waits_for_another_process_to_make_the_file():
    connection = BusyOnce(sqlite3.SQLITE_BUSY_RECOVERY)
    _use_write_ahead_log(connection)
    assert connection.asked == 2
    with pytest.raises(sqlite3.OperationalError, match="not now"):
        _use_write_ahead_log(BusyOnce(sqlite3.SQLITE_READONLY))


def test_settings_of_numpy_types_make_the_same_keys():
    keys = [text_keys({"layer": layer}, ["a"]) for layer in (3, np.int64(3))]
    assert keys[0] == keys[1] != text_keys({"layer": np.int64(4)}, ["a"])
    assert text_keys({"model": Path("a")}, ["a"]) != text_keys({"model": None}, ["a"])


def test_chat_messages_may_come_in_an_array():
    """As they do where a data frame was read from a file."""
    messages = [{"role": "user", "content": "Hi"}]
    record = {"prompt": np.array(messages, dtype=object), "completions": ["Ho"]}
    assert flatten_records([record])[0] == [(messages, "Ho")]


def shout(text):
    return text.upper()


class Parrot(BaseGenerator):
    def __init__(self, folder=None, times=1, change=None, progress=False):
        self.folder = folder
        self.times = times
        self.change = change
        self.progress = progress

    def sample(self, prompt, k):
        return {"prompt": prompt, "completions": [prompt * self.times] * k}


def test_records_are_found_again_by_settings_that_json_does_not_know(tmp_path):
    path = tmp_path / "records.jsonl"
    one = Parrot(Path("a"), np.int64(2), shout)
    first = collect(["x"], one, lambda item, completion: 1, k=2, path=path)

    class Silent(Parrot):
        def sample(self, prompt, k):
            raise AssertionError("the records are there")

    again = Silent("a", 2, shout)
    again.__class__.__name__ = "Parrot"
    assert collect(["x"], again, lambda item, text: 1, k=2, path=path) == first


def test_a_model_without_torch_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install \"skqprobe\[transformers\]\""):
        LikelihoodEmbedder(tmp_path).fit([("a", "b")])
