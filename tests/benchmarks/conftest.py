"""Imports of the benchmarks, which are scripts, and data for them."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load():
    """Function that imports a file of benchmarks/ by its name."""
    if not BENCHMARKS.exists():
        pytest.skip("not a checkout")
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        for name in names:  # not another module of the same name
            patch.delitem(sys.modules, name, raising=False)
        importlib.import_module("_timing").PAUSE = 0  # the times do not matter
        yield importlib.import_module
        for name in names:
            sys.modules.pop(name, None)


def script(name, *needs):
    """Make a fixture that imports a file of benchmarks/ that needs some packages."""

    @pytest.fixture(scope="module")
    def fixture(load):
        for package in needs:
            pytest.importorskip(package)
        return load(name)

    return fixture


auxiliary = script("auxiliary")
cost = script("cost")
coverage = script("coverage")
dask_scale = script("dask_scale", "dask.array", "distributed", "zarr")
data = script("_data")
ideas = script("_ideas")
intervals = script("_intervals")
labels = script("labels")
large = script("large")
lift = script("lift")
methods = script("_methods")
objectives = script("objectives")
paper = script("paper", "torch", "matplotlib")
posterior = script("posterior")
recipe = script("_paper_recipe", "torch")
reward = script("reward")
rewards = script("_rewards")
serve = script("serve", "httpx", "skops", "starlette", "uvicorn", "prometheus_client")
speed = script("speed")
timing = script("_timing")
token_states = script("_token_states", "torch", "transformers")
tokens = script("tokens", "torch")
while_writing = script("_while_writing", "torch", "transformers")


@pytest.fixture
def proc():
    """Skip a test where memory is not measured."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is read from /proc")


@pytest.fixture
def assert_refused(capsys):
    """Function that checks that arguments of a command are refused with a message."""

    def check(parse, arguments, message):
        with pytest.raises(SystemExit):
            parse(arguments)
        assert message in capsys.readouterr().err

    return check


@pytest.fixture(scope="module")
def make_sets():
    """Function that makes candidates whose reward depends on the first feature."""

    def make(seed=0, n_prompts=40, m=12, d=5, binary=True):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n_prompts, m, d)).astype(np.float16).astype(np.float32)
        y = X[..., 0] + 0.5 * rng.normal(size=(n_prompts, m))
        return X, (y > 0).astype(float) if binary else y

    return make


@pytest.fixture(scope="module")
def make_data(load, make_sets):
    """Function that makes `Data` of such candidates."""

    def make(groups=None, name="A", view_sizes=None, **options):
        X, y = make_sets(**options)
        groups = np.arange(len(y)) if groups is None else groups
        sizes = view_sizes or X.shape[2:]
        return load("_data").Data(name, X, y, groups, None, None, sizes)

    return make


@pytest.fixture(scope="module")
def make_npz(make_sets):
    """Function that writes such candidates to a file."""

    def make(path, key="embeddings", more=None, **options):
        X, y = make_sets(**options)
        np.savez(path, **{key: X.astype(np.float16), "rewards": y}, **(more or {}))
        return X, y

    return make


@pytest.fixture
def alone():
    """A model of values that depend on the candidate alone, with ties."""
    return SimpleNamespace(decision_function=lambda X: X[..., 0].round())


@pytest.fixture
def in_context():
    """A model of values that depend on the other candidates."""

    def decision_function(X):
        return -np.abs(X[..., 0] - X[..., 0].mean(axis=1, keepdims=True)).round(9)

    return SimpleNamespace(decision_function=decision_function)
