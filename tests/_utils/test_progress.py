"""Progress bars, as an embedder shows them."""

import sys
from types import ModuleType

import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy
from skqprobe.embedders import VectorizerEmbedder

TEXTS = ["a", "bbb", "cc", "a", "dddd", "bbb", "eeeee", "f" * 9]


def embedder(**settings):
    def measure(texts):
        return [[len(text), text.count("a")] for text in texts]

    return VectorizerEmbedder(measure, batch_size=4, **settings)


@pytest.fixture
def bars(monkeypatch):
    """The bars that a replacement of tqdm has opened."""
    opened = []

    class Bar:
        def __init__(self, **options):
            self.options, self.n = options, 0
            opened.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            return False

        def update(self, n=1):
            self.n += n

    module = ModuleType("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    return opened


def test_progress_counts_texts(bars):
    embedder(progress=True).transform(TEXTS)
    (bar,) = bars
    assert bar.n == bar.options["total"] == len(set(TEXTS))
    assert bar.options["disable"] is False
    assert bar.options["delay"] == 0


def test_automatic_progress_depends_on_the_terminal(bars):
    embedder().transform(TEXTS)
    (bar,) = bars
    assert bar.options["disable"] is None  # tqdm shows it in a terminal only
    assert bar.options["delay"] > 0


def test_no_progress(bars, tmp_path):
    embedder(progress=False).transform(TEXTS)
    assert not bars
    embedder(revision="1", cache=tmp_path / "cache.sqlite").transform(TEXTS)
    bars.clear()
    embedder(progress=True, revision="1", cache=tmp_path / "cache.sqlite").transform(
        TEXTS
    )
    assert not bars  # nothing to do


def test_no_automatic_progress_inside_a_search(bars, rng):
    pipeline = make_pipeline(embedder(), QProbePolicy())
    search = GridSearchCV(pipeline, {"qprobepolicy__alpha": [1.0]}, cv=2, refit=False)
    X = [{"prompt": f"p{i}", "completions": ["a", "bb"]} for i in range(4)]
    y = rng.random((4, 2))
    search.fit(X, y)
    assert not bars
    search.set_params(estimator__vectorizerembedder__progress=True).fit(X, y)
    assert bars


def test_progress_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert embedder().transform(TEXTS).shape == (len(TEXTS), 2)
    with pytest.raises(ImportError, match="pip install tqdm"):
        embedder(progress=True).transform(TEXTS)


def test_the_real_bar(capsys):
    pytest.importorskip("tqdm")
    embedder(progress=True).transform(TEXTS)
    error = capsys.readouterr().err
    assert "VectorizerEmbedder" in error
    assert "6/6" in error
    embedder().transform(TEXTS)  # no terminal
    assert capsys.readouterr().err == ""
