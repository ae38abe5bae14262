"""What a failure, an interrupt, or another thread or process leaves behind: nothing.

An estimator whose fit fails is as it was, and files are whole whenever the process that
writes to them is stopped.
"""

import copy
import gc
import json
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skqprobe
from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe.embedders import EmbeddingCache, VectorizerEmbedder
from skqprobe.generators import BaseGenerator, collect
from skqprobe.losses import LogLoss
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

PACKAGE = str(Path(skqprobe.__file__).parent)


def data(seed=0, n=12, d=3):
    """Prompts with 4 candidates each."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4, d))
    return X, (X[..., 0] + rng.normal(size=(n, 4)) > 0).astype(float)


def texts(seed=0):
    """Pairs in which another seed puts another word."""
    return [(f"prompt {i}", f"text seed{seed} {i % 5}") for i in range(8)], None


def lengths(texts):
    """Embed texts; those of seed 1 have another number of features."""
    return [[len(text)] * (3 if "seed1" in text else 2) for text in texts]


ESTIMATORS = {
    "regressor": (QProbeRegressor(), data),
    "policy": (QProbePolicy("log_loss"), data),
    "policy by closed form": (QProbePolicy("squared_error"), data),
    "policy that goes on": (QProbePolicy("policy_gradient", warm_start=True), data),
    "cross-validation": (
        QProbePolicyCV(["log_loss", "squared_error"], alphas=[1.0, 0.1], cv=2),
        data,
    ),
    "siblings": (SiblingFeatures(), data),
    "per candidate": (PerCandidate(StandardScaler()), data),
    "embedder": (VectorizerEmbedder(CountVectorizer()), texts),
    "embedder by a function": (VectorizerEmbedder(lengths), texts),
}
every_fit = pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name, (estimator, _) in ESTIMATORS.items()
        for method in ("fit", "fit_transform")
        if hasattr(estimator, method)
    ],
)


def fitted_state(estimator):
    """Attributes that a fit sets, and those that the user sets."""
    state = copy.deepcopy(vars(estimator))
    state.pop("_finished", None)  # what an embedder keeps for another try
    return {
        name: vars(value) if hasattr(value, "get_params") else value
        for name, value in state.items()
    }


def is_same(one, other):
    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


# --- faults -------------------------------------------------------------------------


class Lines:
    """Trace the lines of this package that are run, and raise at one of them.

    Parameters
    ----------
    fault : BaseException, default=None
        What to raise.
    at : int, default=None
        At which line, counted from 0 in the order in which they are run.
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


@every_fit
@pytest.mark.parametrize("was_fitted", [False, True], ids=["fresh", "fitted"])
def test_a_fit_that_fails_at_any_line_changes_nothing(name, was_fitted, method):
    estimator, make_data = ESTIMATORS[name]
    begin = clone(estimator)
    if was_fitted:
        begin.fit(*make_data(seed=1))
    before = fitted_state(begin)
    X, y = make_data()
    estimator = copy.deepcopy(begin)
    with Lines() as lines:
        getattr(estimator, method)(X, y)
    after = fitted_state(estimator)
    assert not is_same(before, after)
    n_before = 0
    for at in lines.places(f"{name} {was_fitted} {method}"):
        fault = (KeyboardInterrupt, MemoryError)[at % 2]()
        estimator = copy.deepcopy(begin)
        with pytest.raises(type(fault)), Lines(fault, at):
            getattr(estimator, method)(X, y)
        state = fitted_state(estimator)
        if is_same(state, before):
            n_before += 1
        else:  # at the very end it may be done
            assert is_same(state, after), lines.seen[at]
    assert n_before > 10


class Failing(LogLoss):
    """A loss that fails at a call of all copies together."""

    n_calls, fails_at, fault = 0, None, None

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        Failing.n_calls += 1
        if Failing.n_calls - 1 == Failing.fails_at:
            raise Failing.fault
        return super().value_and_gradient(scores, rewards, offsets, weight)

    def __deepcopy__(self, memo):
        return self  # there is nothing in it, and is_same has something to compare


@pytest.fixture
def failing(monkeypatch):
    """Set at which call the loss fails, and count its calls anew."""

    def set_fault(at=None, fault=None):
        for name, value in [("n_calls", 0), ("fails_at", at), ("fault", fault)]:
            monkeypatch.setattr(Failing, name, value)

    set_fault()
    return set_fault


@pytest.mark.parametrize(
    "probe",
    [
        QProbePolicy(Failing(), warm_start=True),
        QProbePolicyCV([Failing()], alphas=[1.0, 0.1], cv=3),
    ],
    ids=["policy", "cross-validation"],
)
def test_a_loss_that_fails_at_any_call_changes_nothing(probe, failing):
    probe = clone(probe).fit(*data(seed=1))
    before = fitted_state(probe)
    failing()
    copy.deepcopy(probe).fit(*data())
    n_calls = Failing.n_calls
    assert n_calls > 5
    for at in range(n_calls):
        fault = (ArithmeticError, MemoryError, KeyboardInterrupt)[at % 3]("no loss")
        failing(at, fault)
        with pytest.raises(type(fault)):
            probe.fit(*data())
        assert is_same(fitted_state(probe), before)
    failing(n_calls)  # none is left to fail
    assert not is_same(fitted_state(probe.fit(*data())), before)


class Unreadable:
    """An array that there is no memory for."""

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
    X, y = (array.reshape(48, -1).squeeze() for array in data())
    groups = np.repeat(np.arange(12), 4)
    call = {"X": X, "y": y, "groups": groups, "sample_weight": np.ones(48)}
    for each in (clone(probe), clone(probe).fit(*data(seed=1))):
        before = fitted_state(each)
        with pytest.raises(MemoryError):
            each.fit(**{**call, name: Unreadable(call[name])})
        assert is_same(fitted_state(each), before)
        if "coef_" not in before:
            with pytest.raises(NotFittedError):
                each.predict(X)


class Splits:
    """Three folds, and then no more than an error."""

    def split(self, X, y=None, groups=None):
        yield from KFold(3).split(X)
        raise RuntimeError("no fourth fold")

    def get_n_splits(self, X=None, y=None, groups=None):
        return 3


class Scoring:
    """A scorer that fails at a call."""

    def __init__(self, fails_at):
        self.n_calls, self.fails_at = 0, fails_at

    def __call__(self, policy, X, y):
        self.n_calls += 1
        if self.n_calls == self.fails_at:
            raise RuntimeError("no score")
        return policy.score(X, y)


def no_memory(*args, **kwargs):
    raise MemoryError


@pytest.mark.parametrize("where", ["splitter", "last score", "refit"])
def test_cross_validation_that_fails_after_its_folds(monkeypatch, where):
    probe = QProbePolicyCV(["log_loss"], alphas=[1.0, 0.1], cv=3).fit(*data(seed=1))
    chosen, before = probe.predict(data()[0]), fitted_state(probe)
    if where == "splitter":
        settings = {"cv": Splits()}
    elif where == "last score":
        settings = {"scoring": Scoring(fails_at=6)}  # 2 penalties, 3 folds
    else:
        settings = {}
        monkeypatch.setattr("skqprobe._estimators._fit.minimize_lbfgs", no_memory)
    probe.set_params(**settings)
    with pytest.raises((RuntimeError, MemoryError)):
        probe.fit(*data())
    state = fitted_state(probe)
    assert is_same({**state, **{name: before[name] for name in settings}}, before)
    np.testing.assert_array_equal(probe.predict(data()[0]), chosen)


# --- threads and processes ----------------------------------------------------------


def answers(model, X, seed):
    """What a model gives for X, by all of its methods."""
    return [
        getattr(model, name)(X)
        for name in ("predict", "predict_proba", "decision_function", "transform")
        if hasattr(model, name)
    ] + [
        model.sample(X, size=3, random_state=seed)
        for _ in range(hasattr(model, "sample"))
    ]


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
def test_threads_give_what_each_gives_alone(model):
    model = clone(model).fit(*data(n=40))
    before = joblib.hash(model)
    inputs = [(data(seed, n=5 + 9 * seed)[0], seed) for seed in range(8)] * 5
    alone = [answers(model, *one) for one in inputs]
    barrier = threading.Barrier(4)

    def work(numbers):
        barrier.wait()
        return [answers(model, *inputs[number]) for number in numbers]

    shares = [range(i, len(inputs), 4) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, shares))
    for share, given in zip(shares, together, strict=True):
        for number, one in zip(share, given, strict=True):
            np.testing.assert_equal(one, alone[number])
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


SEARCHED = {
    "policy": QProbePolicy("log_loss", random_state=0),
    "dealt": QProbePolicy(n_candidates=2, random_state=0),
    "regressor": QProbeRegressor(),
    "pipeline": make_pipeline(PerCandidate(StandardScaler()), QProbePolicy()),
}


def search(model, X, y, **options):
    alpha = [name for name in model.get_params() if name.endswith("alpha")]
    return GridSearchCV(model, {alpha[0]: [0.01, 1.0]}, cv=3, **options).fit(X, y)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_in_two_jobs_is_the_same(two_jobs, name):
    X, y = data(n=30)
    both = search(SEARCHED[name], X, y)
    alone = search(SEARCHED[name], X, y, n_jobs=1)
    for key, value in alone.cv_results_.items():
        if not key.endswith("_time"):
            np.testing.assert_array_equal(both.cv_results_[key], value)
    np.testing.assert_array_equal(both.predict(X), alone.predict(X))


def test_cross_validation_in_two_jobs_is_the_same(two_jobs):
    X, y = data(n=30)
    # The search of QProbePolicyCV itself has no jobs.
    policy = QProbePolicyCV(["log_loss", "squared_error"], alphas=[1.0, 0.1], cv=2)
    for model in (policy, SEARCHED["policy"]):
        both = cross_val_score(model, X, y, cv=3)
        np.testing.assert_array_equal(
            both, cross_val_score(model, X, y, cv=3, n_jobs=1)
        )


def test_rows_with_routing_in_two_jobs_are_the_same(two_jobs):
    import sklearn
    from sklearn.model_selection import GroupKFold

    X, y = (array.reshape(120, -1).squeeze() for array in data(n=30))
    groups = np.repeat(np.arange(30), 4)
    with sklearn.config_context(enable_metadata_routing=True):
        scores = [
            cross_val_score(
                QProbePolicy(),
                X,
                y,
                cv=GroupKFold(3),
                params={"groups": groups},
                **jobs,
            )
            for jobs in ({}, {"n_jobs": 1})
        ]
    np.testing.assert_array_equal(*scores)
    assert np.isfinite(scores[0]).all()


# --- interrupts and files -----------------------------------------------------------

# Stopped between the body and the end of a `with`, where no signal would stop it.
a_file_may_be_closed_late = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

PROMPTS = ["a", "b", {"prompt": "c", "answer": 3}, "d"]


class Letters(BaseGenerator):
    """Completions that hang on the prompt alone, with an array beside them."""

    def __init__(self, progress=False):
        self.progress = progress

    def sample(self, prompt, k):
        completions = [prompt * (i + 1) for i in range(k)]
        states = np.full((k, 2), len(prompt), dtype="float32")
        return {"prompt": prompt, "completions": completions, "hidden_states": states}


def length(item, completion):
    return len(completion)


def length_of_some(item, completion):
    """Fail for a prompt, and stop at another."""
    if completion == "a":
        raise ValueError("no answer")
    if completion == "c":
        raise KeyboardInterrupt
    return len(completion)


def check_records(path):
    """Check that what is there is whole, but for a last line without its end."""
    lines = path.read_bytes().split(b"\n")[:-1]
    positions = [json.loads(line)["position"] for line in lines]
    assert len(set(positions)) == len(positions)
    for line in lines:
        assert json.loads(line)["completions"]
    return positions


@a_file_may_be_closed_late
def test_collect_stopped_at_any_line_goes_on(tmp_path):
    path, whole = tmp_path / "records.jsonl", tmp_path / "whole.jsonl"
    expected = collect(PROMPTS, Letters(), length, 3, path=whole)
    with pytest.raises(KeyboardInterrupt):
        collect(PROMPTS, Letters(), length_of_some, 3, path=path)
    begun = path.read_bytes() + b'{"position": 2, "pro'  # as if torn by a kill
    path.write_bytes(begun)
    with Lines() as lines:
        collect(PROMPTS, Letters(), length, 3, path=path)
    found = Counter()
    for at in lines.places(0):
        path.write_bytes(begun)
        with pytest.raises(KeyboardInterrupt), Lines(KeyboardInterrupt(), at):
            collect(PROMPTS, Letters(), length, 3, path=path)
        positions = check_records(path)
        assert positions[:2] == [0, 1]  # what was there still is
        found[len(positions)] += 1
        records = collect(PROMPTS, Letters(), length, 3, path=path)
        np.testing.assert_equal(records, expected)
        assert check_records(path) == [0, 1, 2, 3]
        assert not path.with_name("records.jsonl.new").exists()
    assert set(found) == {2, 3, 4}  # it was stopped before, between and after
    gc.collect()  # now, not in another test, which is not marked


def check_cache(path):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@a_file_may_be_closed_late
def test_embedding_stopped_at_any_line_goes_on(tmp_path):
    pairs, _ = texts()
    embedder = VectorizerEmbedder(lengths, cache=None, revision="1", batch_size=2)
    expected = embedder.transform(pairs)
    with Lines() as lines:
        embedder.set_params(cache=str(tmp_path / "first.sqlite")).transform(pairs)
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
    assert {0, 2, 8} <= n_kept <= {0, 2, 4, 6, 8}  # whole batches
    gc.collect()


@pytest.mark.parametrize("cache", [None, "cache.sqlite"])
def test_embedding_stopped_at_some_batches_repeats_none(tmp_path, cache):
    pairs, _ = texts()
    stops, calls, seen = {0, 3, 4, 9}, count(), []

    def embed(texts):
        if next(calls) in stops:
            raise KeyboardInterrupt
        seen.extend(texts)
        return lengths(texts)

    path = None if cache is None else tmp_path / cache
    embedder = VectorizerEmbedder(embed, cache=path, revision="1", batch_size=1)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            embedder.transform(pairs)
    expected = VectorizerEmbedder(lengths).transform(pairs)
    np.testing.assert_array_equal(embedder.transform(pairs), expected)
    assert len(seen) == len(set(seen)) == 8


INTERRUPTED = r"""
    import os, random, signal, sqlite3, sys
    from contextlib import closing
    import numpy as np
    import skqprobe
    from skqprobe import QProbePolicy
    from skqprobe.embedders import VectorizerEmbedder
    from skqprobe.generators import BaseGenerator, collect

    path = sys.argv[2]

    # A shell makes jobs in its background, and so their children, ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def until_done(work, check):
        while True:
            try:
                print("begin", flush=True)
                done = work()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                return done
            except KeyboardInterrupt:
                check()
                print("interrupted", flush=True)

    class Fit:
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(300, 8, 30)), rng.random((300, 8))
        policy = QProbePolicy("log_loss", alpha=0, tol=1e-12)

        def __init__(self):
            self.policy.fit(self.X[:9], self.y[:9])
            self.before = self.policy.coef_.copy()

        def work(self):
            for _ in range(20):  # long enough to be stopped
                self.policy.fit(self.X, self.y)
            return self.policy.coef_

        def check(self):
            # The last fit is there, or the one that was stopped too late.
            if not np.array_equal(self.policy.coef_, self.before):
                whole = QProbePolicy("log_loss", alpha=0, tol=1e-12)
                coef = whole.fit(self.X, self.y).coef_
                assert np.array_equal(self.policy.coef_, coef)

        def after(self, coef):
            fresh = QProbePolicy("log_loss", alpha=0, tol=1e-12).fit(self.X, self.y)
            assert np.array_equal(coef, fresh.coef_)

    class Embed:
        texts = [f"text {i}" for i in range(800)]

        def embed(self, texts):
            return [[float(text[5:])] * 200 for text in texts]

        def work(self):
            # tqdm's bar, stopped while it is made, complains when it is deleted.
            return VectorizerEmbedder(
                self.embed, cache=path, revision="1", batch_size=10, progress=False
            ).transform(self.texts)

        def check(self):
            with closing(sqlite3.connect(path)) as connection:
                found = connection.execute("PRAGMA integrity_check").fetchall()
                assert found == [("ok",)]

        def after(self, embeddings):
            assert np.array_equal(embeddings[:, 7], np.arange(800))

    class Draw(BaseGenerator):
        def __init__(self, progress=False):
            self.progress = progress

        def sample(self, prompt, k):
            draw = random.Random(prompt)
            states = np.full((k, 4000), draw.random())  # lines of many pages
            return {
                "prompt": prompt,
                "completions": [str(draw.random()) for _ in range(k)],
                "hidden_states": states,
            }

    class Collect:
        prompts = [f"prompt {i}" for i in range(80)]

        def work(self):
            return collect(self.prompts, Draw(), lambda _, text: float(text), 3,
                           path=path)

        def check(self):
            content = open(path, "rb").read() if os.path.exists(path) else b""
            for i, line in enumerate(content.split(b"\n")[:-1]):
                assert line.startswith(b'{"position": %d, ' % i)
                assert line.endswith(b"}")

        def after(self, records):
            whole = collect(self.prompts, Draw(), lambda _, text: float(text), 3)
            assert [r["completions"] for r in records] == [
                r["completions"] for r in whole
            ]
            assert open(path, "rb").read().count(b"\n") == 80

    job = {"fit": Fit, "embed": Embed, "collect": Collect}[sys.argv[1]]()
    job.after(until_done(job.work, job.check))
    print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send on Windows")
@pytest.mark.parametrize("job", ["fit", "embed", "collect"])
def test_sigint_at_any_moment_harms_nothing(tmp_path, job):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), job, tmp_path / "file"],
        cwd=Path(PACKAGE).parent,
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
