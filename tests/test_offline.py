"""The core opens no network connection at import, in fit or in predict.

The test runs ``python -W error tests/test_offline.py``. In that process no socket can
be created, and each attempt is recorded, also if a library catches the error.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ATTEMPTS: list[str] = []


def block_network():
    """Make every use of the network fail, and record it in ATTEMPTS."""

    def refuse(event, arguments):
        # Creating a socket or reading the name of this machine is no connection.
        if event in ("socket.__new__", "socket.gethostname"):
            return
        if event.startswith(("socket.", "urllib.", "http.client.")):
            ATTEMPTS.append(event)
            raise ConnectionRefusedError(f"no network in this test: {event}")

    class NoSocket(socket.socket):
        def __init__(self, *args, **kwargs):
            ATTEMPTS.append("socket.socket")
            raise ConnectionRefusedError("no network in this test: socket.socket")

    sys.addaudithook(refuse)
    socket.socket = NoSocket


def import_everything():
    """Import every module of the package, private ones included."""
    import pkgutil

    import skqprobe

    names = [
        module.name for module in pkgutil.walk_packages(skqprobe.__path__, "skqprobe.")
    ]
    assert "skqprobe.embedders._openai" in names
    for name in names:
        importlib.import_module(name)


def load_data():
    """Return part of the data of the package, with the groups of its rows."""
    import numpy as np

    from skqprobe.datasets import load_two_words

    X, y = load_two_words(return_X_y=True)
    X, y = X[:40, :6, :8].astype("f4"), y[:40, :6]
    return X, y, np.repeat(np.arange(40), 6)


def fit_everything():
    """Fit all losses in both layouts, and the searches."""
    from sklearn.model_selection import GridSearchCV

    from skqprobe import (
        QProbePolicy,
        QProbePolicyCV,
        QProbeRegressor,
        make_probe_pipeline,
        sample_candidates,
    )
    from skqprobe.losses import LOSSES

    X, y, groups = load_data()
    rows, rewards = X.reshape(-1, 8), y.ravel()
    for loss in LOSSES:
        policy = QProbePolicy(loss, temperature=0.5).fit(X, y)
        policy.predict(X), policy.score(X, y)
        policy.fit(rows, rewards, groups).predict(rows, groups)
        sample_candidates(policy.predict_proba(rows, groups), groups, size=2)
    for loss in ("squared_error", "log_loss"):
        QProbeRegressor(loss).fit(rows, rewards).predict(rows)
        QProbeRegressor(loss).fit(X, y).sample(X)
    QProbePolicyCV(["log_loss", "policy_gradient"], alphas=[1, 0.1], cv=2).fit(X, y)
    GridSearchCV(QProbePolicy(), {"alpha": [1, 0.1]}, cv=2).fit(X, y).predict(X)
    make_probe_pipeline().fit(X, y).predict(X)
    if importlib.util.find_spec("torch"):
        QProbePolicy(hidden_layer_sizes=(3,), tol=1).fit(X, y).predict(X)


def evaluate():
    """Compute the metrics, and plot them if matplotlib is installed."""
    from skqprobe import QProbePolicy, metrics, plotting

    X, y, groups = load_data()
    policy = QProbePolicy("log_loss", temperature=0.5).fit(X, y)
    scores, proba = policy.decision_function(X), policy.predict_proba(X)
    if importlib.util.find_spec("pandas"):
        metrics.policy_report(policy, X, y, ks=[2, 6], n_draws=5, n_resamples=99)
    metrics.prompt_bootstrap(metrics.win_rate, y, scores, k=2, n_resamples=99)
    metrics.expected_reward(y.ravel(), proba.ravel(), groups)
    metrics.effective_candidates(proba)
    metrics.best_of_k_scorer(2)(policy, X, y)
    if importlib.util.find_spec("matplotlib"):
        import matplotlib

        matplotlib.use("Agg")
        for name in plotting.__all__:
            getattr(plotting, name).from_estimator(policy, X, y)


def save_and_load():
    """Save, load and export, with the packages that are installed."""
    import pickle

    from skqprobe import QProbePolicy
    from skqprobe.io import to_json, to_safetensors, trusted_types

    X, y, _ = load_data()
    policy = QProbePolicy().fit(X, y)
    pickle.loads(pickle.dumps(policy)).predict(X)
    to_json(policy)
    if importlib.util.find_spec("safetensors"):
        to_safetensors(policy)
    if importlib.util.find_spec("skops"):
        import skops.io

        skops.io.loads(skops.io.dumps(policy), trusted=trusted_types()).predict(X)


def embed_and_generate():
    """Use vectorizers, an own embedder with a cache, and the best of k."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    from skqprobe import QProbePolicy
    from skqprobe.embedders import VectorizerEmbedder
    from skqprobe.generators import BaseGenerator, BestOfK, collect

    def lengths(texts):
        return np.array([[len(text), text.count("e")] for text in texts])

    class Parrot(BaseGenerator):
        def __init__(self, progress=False):
            self.progress = progress

        def sample(self, prompt, k):
            return {"prompt": prompt, "completions": [prompt * i for i in range(k)]}

    records = collect(["one", "three"], Parrot(), lambda item, text: len(text), k=3)
    rewards = [record["rewards"] for record in records]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "embeddings.sqlite"
        for embedder in (
            VectorizerEmbedder(lengths, cache=cache, revision="1"),
            VectorizerEmbedder(TfidfVectorizer()),
        ):
            pipeline = make_pipeline(embedder, QProbePolicy()).fit(records, rewards)
            pipeline.predict(records)
            BestOfK(Parrot(), pipeline, k=2).generate(["two"])


def run_offline():
    """Use all of the core, and print the attempts to connect."""
    block_network()
    work = (
        import_everything,
        fit_everything,
        evaluate,
        save_and_load,
        embed_and_generate,
    )
    for part in work:
        part()
        print(f"{part.__name__}: {', '.join(ATTEMPTS) or 'no connection'}")


def run_here(code):
    """Run Python code in another process, and return its output."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_core_needs_no_network():
    lines = run_here("import test_offline; test_offline.run_offline()").splitlines()
    assert len(lines) == 5
    assert all(line.endswith(": no connection") for line in lines), lines


def test_connections_are_recorded():
    code = """
import socket, _socket, test_offline
test_offline.block_network()
tries = [
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.getaddrinfo("localhost", 80),
    lambda: _socket.socket().connect(("127.0.0.1", 9)),
    lambda: __import__("urllib.request").request.urlopen("http://127.0.0.1:9"),
]
for attempt in tries:
    before = len(test_offline.ATTEMPTS)
    try:
        attempt()
    except OSError:
        print(len(test_offline.ATTEMPTS) > before)
"""
    assert run_here(code).split() == ["True"] * 4


if __name__ == "__main__":
    run_offline()
