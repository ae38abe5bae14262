"""No partial state after a failure, an interrupt, or in other threads and processes.

An estimator whose fit fails is unchanged. A file is complete whenever the process that
writes it is stopped.
"""

import copy
import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import joblib
import numpy as np
import pytest
from cases import as_rows
from estimators import assert_refused, assert_same_state, state_of
from sklearn import config_context
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skqprobe
from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe.embedders import EmbeddingCache, VectorizerEmbedder
from skqprobe.embedders._cache import _use_write_ahead_log
from skqprobe.generators import BaseGenerator, collect, load_records
from skqprobe.losses import LogLoss
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

PACKAGE = str(Path(skqprobe.__file__).parent)


def data(seed=0, n=12, k=4, d=3):
    """Embeddings and rewards of n prompts with k candidates."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k, d))
    return X, (X[..., 0] + rng.normal(size=(n, k)) > 0).astype(float)


def texts(seed=0):
    """Pairs of texts; their words depend on the seed."""
    return [(f"prompt {i}", f"text seed{seed} {i % 5}") for i in range(8)], None


def lengths(texts):
    """Embed texts; those of seed 1 have another number of features."""
    return [[len(text)] * (3 if "seed1" in text else 2) for text in texts]


ESTIMATORS = {
    "regressor": (QProbeRegressor(), data),
    "policy": (QProbePolicy("log_loss"), data),
    "policy by closed form": (QProbePolicy("squared_error"), data),
    "policy with warm start": (QProbePolicy("policy_gradient", warm_start=True), data),
    "cross-validation": (
        QProbePolicyCV(["log_loss", "squared_error"], alphas=[1.0, 0.1], cv=2),
        data,
    ),
    "siblings": (SiblingFeatures(), data),
    "per candidate": (PerCandidate(StandardScaler()), data),
    "embedder": (VectorizerEmbedder(CountVectorizer()), texts),
    "embedder by a function": (VectorizerEmbedder(lengths), texts),
}


def is_same(state, other):
    try:
        assert_same_state(state, other)
    except AssertionError:
        return False
    return True


# --- faults -------------------------------------------------------------------------


class Lines:
    """Trace the lines of this package that are run, and raise a fault at one of them.

    The attribute `seen` has the lines in the order in which they are run, and `at` is
    an index in it.
    """

    def __init__(self, fault=None, at=None):
        self.fault, self.at = fault, at
        self.seen = []

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(self._before)

    def _call(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.seen.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.seen) - 1 == self.at:
                raise self.fault
        return self._line

    def places(self, seed):
        """Up to 60 places in `seen`: the last 15, 25 at random, and 20 new lines."""
        first = {line: at for at, line in reversed(list(enumerate(self.seen)))}
        draw, n = random.Random(seed), len(self.seen)
        new = draw.sample(sorted(first.values()), min(20, len(first)))
        return sorted({*range(n - 15, n), *draw.sample(range(n), 25), *new})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, method",
    [
        (name, method)
        for name, (estimator, _) in ESTIMATORS.items()
        for method in ("fit", "fit_transform")
        if hasattr(estimator, method)
    ],
)
@pytest.mark.parametrize("was_fitted", [False, True], ids=["fresh", "fitted"])
def test_fit_that_fails_at_any_line_changes_nothing(name, was_fitted, method):
    estimator, make_data = ESTIMATORS[name]
    begin = clone(estimator)
    if was_fitted:
        begin.fit(*make_data(seed=1))
    before = state_of(begin)
    X, y = make_data()
    getattr(copy.deepcopy(begin), method)(X, y)  # fills caches, which take lines
    estimator = copy.deepcopy(begin)
    with Lines() as lines:
        getattr(estimator, method)(X, y)
    after = state_of(estimator)
    assert not is_same(before, after)
    n_before = 0
    for at in lines.places(f"{name} {was_fitted} {method}"):
        fault = (KeyboardInterrupt, MemoryError)[at % 2]()
        estimator = copy.deepcopy(begin)
        with pytest.raises(type(fault)), Lines(fault, at):
            getattr(estimator, method)(X, y)
        state = state_of(estimator)
        if is_same(state, before):
            n_before += 1
        else:  # at the last lines, the fit may be complete
            assert is_same(state, after), lines.seen[at]
    assert n_before > 10


class Failing(LogLoss):
    """A loss that fails at a given call; copies count their calls together."""

    @classmethod
    def set_fault(cls, at=None, fault=None):
        cls.n_calls, cls.fails_at, cls.fault = 0, at, fault

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        Failing.n_calls += 1
        if Failing.n_calls - 1 == Failing.fails_at:
            raise Failing.fault
        return super().value_and_gradient(scores, rewards, offsets, weight)

    def __deepcopy__(self, memo):
        return self  # so that states with it can be compared


@pytest.mark.parametrize(
    "probe",
    [
        QProbePolicy(Failing(), warm_start=True),
        QProbePolicyCV([Failing()], alphas=[1.0, 0.1], cv=3),
    ],
    ids=["policy", "cross-validation"],
)
def test_loss_that_fails_at_any_call_changes_nothing(probe):
    Failing.set_fault()
    probe = clone(probe).fit(*data(seed=1))
    before = state_of(probe)
    Failing.set_fault()
    copy.deepcopy(probe).fit(*data())
    n_calls = Failing.n_calls
    assert n_calls > 5
    for at in range(n_calls):
        fault = (ArithmeticError, MemoryError, KeyboardInterrupt)[at % 3]("no loss")
        Failing.set_fault(at, fault)
        assert_refused(probe.fit, "no loss", *data(), error=type(fault))
    Failing.set_fault(n_calls)  # no call is left to fail
    assert not is_same(state_of(probe.fit(*data())), before)


class Unreadable:
    """An array that does not fit in memory."""

    def __init__(self, array):
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        raise MemoryError("no memory for this array")


@pytest.mark.parametrize("name", ["X", "y", "groups", "sample_weight"])
@pytest.mark.parametrize(
    "probe", [QProbeRegressor(), QProbePolicy(), QProbePolicyCV(cv=2)], ids=repr
)
def test_data_that_cannot_be_read_change_nothing(probe, name):
    X, y, groups = as_rows(*data())
    call = {"X": X, "y": y, "groups": groups, "sample_weight": np.ones(48)}
    call[name] = Unreadable(call[name])
    for each in (clone(probe), clone(probe).fit(*data(seed=1))):
        assert_refused(each.fit, "no memory", **call, error=MemoryError)


class Splits:
    """Three folds, and then an error."""

    def split(self, X, y=None, groups=None):
        yield from KFold(3).split(X)
        raise RuntimeError("no fourth fold")

    def get_n_splits(self, X=None, y=None, groups=None):
        return 3


@pytest.mark.parametrize("where", ["splitter", "last score", "refit"])
def test_cross_validation_that_fails_after_its_folds(monkeypatch, where):
    probe = QProbePolicyCV(["log_loss"], alphas=[1.0, 0.1], cv=3).fit(*data(seed=1))
    chosen, calls = probe.predict(data()[0]), count()

    def scoring(policy, X, y):
        if next(calls) == 5:  # the last one: 2 penalties, 3 folds
            raise RuntimeError("no score")
        return policy.score(X, y)

    if where == "splitter":
        probe.set_params(cv=Splits())
    elif where == "last score":
        probe.set_params(scoring=scoring)
    else:
        solver = Mock(side_effect=MemoryError)
        monkeypatch.setattr("skqprobe._estimators._fit.minimize_lbfgs", solver)
    error = MemoryError if where == "refit" else RuntimeError
    assert_refused(probe.fit, None, *data(), error=error)
    np.testing.assert_array_equal(probe.predict(data()[0]), chosen)


# --- threads and processes ----------------------------------------------------------


def results_of(model, X, seed):
    """Return the results of all methods of a model for X."""
    names = ["predict", "predict_proba", "decision_function", "transform"]
    results = [getattr(model, name)(X) for name in names if hasattr(model, name)]
    if hasattr(model, "sample"):
        results.append(model.sample(X, size=3, random_state=seed))
    return results


@pytest.mark.parametrize(
    "model",
    [
        QProbeRegressor("log_loss", temperature=0.1),
        QProbePolicy(temperature=0.5),
        QProbePolicyCV(["log_loss"], temperatures=[0.5], cv=2),
        make_pipeline(
            PerCandidate(StandardScaler()), SiblingFeatures(), QProbePolicy()
        ),
        SiblingFeatures(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_threads_have_the_results_of_one_thread(model):
    model = clone(model).fit(*data(n=40))
    before = joblib.hash(model)
    inputs = [(data(seed, n=5 + 9 * seed)[0], seed) for seed in range(8)] * 5
    alone = [results_of(model, *each) for each in inputs]
    barrier = threading.Barrier(4)

    def work(numbers):
        barrier.wait()
        return [results_of(model, *inputs[number]) for number in numbers]

    shares = [range(i, len(inputs), 4) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, shares))
    for share, results in zip(shares, together, strict=True):
        for number, result in zip(share, results, strict=True):
            np.testing.assert_equal(result, alone[number])
    assert joblib.hash(model) == before


@pytest.mark.parametrize("with_cache", [False, True])
def test_threads_embed_with_one_embedder(tmp_path, with_cache):
    cache = str(tmp_path / "cache.sqlite") if with_cache else None
    embedder = VectorizerEmbedder(lengths, cache=cache, revision="1", batch_size=3)
    inputs = [[f"text {'x' * (i % 7)} {j}" for j in range(10)] for i in range(40)]
    alone = [np.array(lengths(texts), dtype="float32") for texts in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(embedder.transform, inputs))
    np.testing.assert_equal(together, alone)


@pytest.fixture(scope="module", params=["loky", "threading"])
def two_jobs(request):
    with joblib.parallel_config(backend=request.param, n_jobs=2):
        yield
    if request.param == "loky":
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


def grid_search(estimator, name="alpha", values=(0.01, 1.0), **options):
    return GridSearchCV(estimator, {name: list(values)}, **{"cv": 3} | options)


SCALED = make_pipeline(PerCandidate(StandardScaler()), QProbePolicy())
SEARCHES = {
    "policy": grid_search(QProbePolicy("log_loss", random_state=0)),
    "in sets": grid_search(QProbePolicy(n_candidates=2, random_state=0)),
    "regressor": grid_search(QProbeRegressor()),
    "pipeline": grid_search(SCALED, "qprobepolicy__alpha"),
    "search": grid_search(  # QProbePolicyCV itself has no jobs
        QProbePolicyCV(["log_loss", "squared_error"], alphas=[1.0, 0.1]), "cv", (2, 3)
    ),
    "rows": grid_search(QProbePolicy("log_loss"), cv=GroupKFold(3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_search_in_two_jobs_is_the_same(two_jobs, name):
    X, y = data(n=30)
    arrays, routed = (X, y), {}
    if name == "rows":
        *arrays, routed["groups"] = as_rows(X, y)
    with config_context(enable_metadata_routing=name == "rows"):
        both, alone = (
            clone(SEARCHES[name]).set_params(n_jobs=n_jobs).fit(*arrays, **routed)
            for n_jobs in (None, 1)
        )
    for key, value in alone.cv_results_.items():
        if not key.endswith("_time"):
            np.testing.assert_array_equal(both.cv_results_[key], value)
    assert np.isfinite(alone.cv_results_["mean_test_score"]).all()
    np.testing.assert_array_equal(both.predict(X), alone.predict(X))


# --- interrupts and files -----------------------------------------------------------

# A fault between the body and the end of a `with`, where no signal would interrupt.
a_file_may_be_closed_late = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

PROMPTS = ["a", "b", {"prompt": "c", "answer": 3}, "d"]


class Letters(BaseGenerator):
    """Completions that depend only on the prompt, with an array."""

    def __init__(self, width=2, progress=False):
        self.width = width
        self.progress = progress

    def sample(self, prompt, k):
        completions = [prompt * (i + 1) for i in range(k)]
        states = np.full((k, self.width), len(prompt) / 3, dtype="float32")
        return {"prompt": prompt, "completions": completions, "hidden_states": states}


def length(item, completion):
    return len(completion)


def length_of_some(item, completion):
    """Fail for one prompt, and interrupt at another."""
    if completion == "a":
        raise ValueError("no answer")
    if completion == "c":
        raise KeyboardInterrupt
    return len(completion)


def check_records(path):
    """Check all lines, except for a last line without its end; return positions."""
    if not path.exists():
        return []
    data = load_records(path)
    lengths = np.array([len(text) for _, text in data.texts])
    assert ((data.y == lengths) | np.isnan(data.y)).all()
    return sorted(set(data.groups))


@pytest.mark.slow
@a_file_may_be_closed_late
def test_collect_resumes_after_a_stop_at_any_line(tmp_path):
    path, whole = tmp_path / "records.jsonl", tmp_path / "whole.jsonl"
    call = {"prompts": PROMPTS, "generator": Letters(), "k": 3, "reward_concurrency": 1}
    expected = collect(reward=length, **call, path=whole)
    with pytest.raises(KeyboardInterrupt):
        collect(reward=length_of_some, **call, path=path)
    begun = path.read_bytes() + b'{"position": 3, "pro'  # as after a kill
    path.write_bytes(begun)
    with Lines() as lines:
        collect(reward=length, **call, path=path)
    found = Counter()
    for at in lines.places(0):
        path.write_bytes(begun)
        with pytest.raises(KeyboardInterrupt), Lines(KeyboardInterrupt(), at):
            collect(reward=length, **call, path=path)
        gc.collect()  # now, not in another test without the mark
        assert check_records(path)[:3] == [0, 1, 2]  # kept
        found[int(np.isfinite(load_records(path).y).sum())] += 1
        records = collect(reward=length, **call, path=path)
        np.testing.assert_equal(records, expected)
        assert check_records(path) == [0, 1, 2, 3]
    # It was stopped before the first of the 7 rewards, after the last, and between.
    assert {5, 12} < set(found) <= set(range(5, 13))


def check_cache(path):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
@a_file_may_be_closed_late
def test_embedding_resumes_after_a_stop_at_any_line(tmp_path):
    pairs, _ = texts()
    embedder = VectorizerEmbedder(lengths, cache=None, revision="1", batch_size=2)
    expected = embedder.transform(pairs)
    for name in ("first", "second"):  # the first fills caches in memory
        embedder.set_params(cache=str(tmp_path / f"{name}.sqlite"))
        with Lines() as lines:
            embedder.transform(pairs)
    n_kept = set()
    for at in lines.places(0):
        path = tmp_path / f"{at}.sqlite"
        embedder.set_params(cache=str(path))
        with pytest.raises(KeyboardInterrupt), Lines(KeyboardInterrupt(), at):
            embedder.transform(pairs)
        if path.exists():
            check_cache(path)
        stored = EmbeddingCache(path)
        n_kept.add(len(stored))
        np.testing.assert_array_equal(embedder.transform(pairs), expected)
        assert len(stored) == 8
        path.unlink()
    assert {0, 2, 8} <= n_kept <= {0, 2, 4, 6, 8}  # complete batches
    gc.collect()


log: list = []


@pytest.mark.parametrize("cache", [None, "cache.sqlite"])
def test_embedding_repeats_no_batch_after_stops(tmp_path, cache):
    pairs, _ = texts()
    stops = {0, 3, 4, 9}
    log.clear()

    def embed(texts):  # captured variables would be a part of the key
        log.append(texts)
        if len(log) - 1 in {0, 3, 4, 9}:
            raise KeyboardInterrupt
        return lengths(texts)

    path = None if cache is None else tmp_path / cache
    embedder = VectorizerEmbedder(embed, cache=path, revision="1", batch_size=1)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            embedder.transform(pairs)
    expected = VectorizerEmbedder(lengths).transform(pairs)
    np.testing.assert_array_equal(embedder.transform(pairs), expected)
    seen = [text for i, batch in enumerate(log) if i not in stops for text in batch]
    assert len(seen) == len(set(seen)) == 8


class Busy:
    """A connection whose first statement fails with an error code of SQLite."""

    def __init__(self, code):
        self.code = code
        self.n_calls = 0

    def execute(self, statement):
        self.n_calls += 1
        if self.n_calls == 1:
            error = sqlite3.OperationalError("not now")
            error.sqlite_errorcode = self.code
            raise error


def test_cache_waits_until_another_process_has_made_the_file():
    connection = Busy(sqlite3.SQLITE_BUSY_RECOVERY)
    _use_write_ahead_log(connection)
    assert connection.n_calls == 2
    with pytest.raises(sqlite3.OperationalError, match="not now"):
        _use_write_ahead_log(Busy(sqlite3.SQLITE_READONLY))


# Jobs of a process that is interrupted: `work` is repeated until it is done, `check` is
# called after each interrupt.


def embed_job(path):
    def embed(texts):
        return [[float(text[5:])] * 200 for text in texts]

    def work():
        # tqdm prints an error if its bar is interrupted while it is made.
        embeddings = VectorizerEmbedder(
            embed, cache=path, revision="1", batch_size=10, progress=False
        ).transform([f"text {i}" for i in range(800)])
        assert np.array_equal(embeddings[:, 7], np.arange(800))

    return work, lambda: check_cache(path)


def collect_job(path):
    call = {
        "prompts": [f"prompt {i}" for i in range(80)],
        "generator": Letters(4000),  # lines of many pages
        "reward": length,
        "k": 3,
    }
    expected = collect(**call)

    def work():
        np.testing.assert_equal(collect(**call, path=path), expected)
        assert path.read_bytes().count(b"\n") == 80 * (1 + 3)

    def check():
        positions = check_records(path)
        assert positions == list(range(len(positions)))

    return work, check


def run_until_done(job, path):
    work, check = globals()[job](Path(path))
    # A shell makes jobs in its background, and so their children, ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        try:
            print("begin", flush=True)
            work()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            break
        except KeyboardInterrupt:
            check()
            print("interrupted", flush=True)
    print("done", flush=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send on Windows")
@pytest.mark.parametrize("job", ["embed_job", "collect_job"])
def test_sigint_at_any_moment_leaves_complete_files(tmp_path, job):
    code = "import sys, test_isolation as t; t.run_until_done(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, job, tmp_path / "file"],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    moments, printed, n_sent = random.Random(0), [], 0
    for line in process.stdout:
        printed.append(line.strip())
        if printed[-1] == "begin" and n_sent < 5:
            time.sleep(n_sent * moments.uniform(0, 0.02))
            process.send_signal(signal.SIGINT)
            n_sent += 1
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert error == ""
    assert printed[-1] == "done"
    assert "interrupted" in printed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["policy", "siblings"])
def test_a_prediction_during_a_fit_is_of_one_fit(kind, rng):
    X = rng.normal(size=(20, 4, 5))
    if kind == "policy":
        estimator, method = QProbePolicy("squared_error"), "decision_function"
        fits = [(X, rng.normal(size=(20, 4))) for _ in range(2)]
    else:
        estimator, method = SiblingFeatures(), "transform"
        fits = [(X,), (3 * X + 1,)]
    expected = [getattr(estimator.fit(*fit), method)(X) for fit in fits]
    found, done = [], threading.Event()

    def predict():
        while not done.is_set():
            found.append(getattr(estimator, method)(X))

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        for fit in fits:
            estimator.fit(*fit)
    done.set()
    for thread in threads:
        thread.join()
    assert found
    for each in found:
        assert any(np.array_equal(each, one) for one in expected)
