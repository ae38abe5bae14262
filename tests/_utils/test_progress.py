"""Progress bars, as an embedder shows them."""

import sys
from contextlib import nullcontext
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

    class Bar(nullcontext):
        def __init__(self, **options):
            super().__init__(self)
            self.options, self.n = options, 0
            opened.append(self)

        def update(self, n=1):
            self.n += n

    module = ModuleType("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    return opened


def test_progress_counts_texts(bars):
    for progress in (True, "auto"):
        embedder(progress=progress).transform(TEXTS)
    always, automatic = bars
    assert always.n == always.options["total"] == len(set(TEXTS))
    assert always.options["disable"] is False
    assert always.options["delay"] == 0
    assert automatic.options["disable"] is None  # tqdm shows it in a terminal only
    assert automatic.options["delay"] > 0


def test_no_progress(bars, tmp_path):
    cached = embedder(progress=False, revision="1", cache=tmp_path / "cache.sqlite")
    cached.transform(TEXTS)
    cached.set_params(progress=True).transform(TEXTS)  # nothing to do
    assert not bars


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
