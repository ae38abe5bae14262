"""Data sets of candidates: the two words, and files beside the checkout."""

import gzip
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skqprobe.datasets import load_two_words

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDERS = (SHARED / "data", SHARED / "data2")
"""Folders that are searched for files by default."""

TWO_WORDS = "two_words"
"""Name of the data set that ships with the package."""

FILES = {
    "humaneval_codegen16b": ("emb_pair", "emb_completion"),
    "alpacaeval_gpt4": ("embeddings",),
    "hh_harmless": ("embeddings",),
}
"""Names of the files, and of their embeddings."""

MORE_FILES = {
    "gsm": ("embeddings", "emb_completion"),
    "ted_zhen": ("embeddings", "emb_completion"),
    "summeval": ("emb_swapped", "emb_completion"),
}
"""Files that a script reads only if `--only` names them."""

DEFAULT_NAMES = (TWO_WORDS, *FILES)
ALL_NAMES = (*DEFAULT_NAMES, *MORE_FILES)

WITH_ANSWERS = ("gsm",)
"""Files whose completions, in a file beside them, end with 'A:' and a number."""

COLUMNS = ("length", "model")
"""Names of the views that `with_columns` can append."""

LENGTHS = ("n_chars", "ntok", "ntok_completion")
"""Names of arrays with the lengths of candidates. The first one in a file is used."""


@dataclass(frozen=True)
class Data:
    """Candidate sets.

    Parameters
    ----------
    name : str
        Name of the data set.
    X : ndarray of shape (n_prompts, m, n_features)
        Embeddings.
    y : ndarray of shape (n_prompts, m)
        Rewards.
    groups : ndarray of shape (n_prompts,)
        Prompts of one group stay in one fold.
    lengths : ndarray of shape (n_prompts, m) or None
        Lengths of the completions, if the file has them.
    models : ndarray of shape (n_prompts, m) or None
        Names of the models that wrote the candidates, if the file has them.
    view_sizes : tuple of int
        Numbers of columns of the embeddings that are concatenated in X, and of views
        that were appended.
    n_embeddings : int
        Number of the views that are embeddings.
    answers : ndarray of shape (n_prompts, m) or None
        Numbers with which the completions end, NaN for those without one, if the
        completions are known to end with numbers.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    lengths: np.ndarray | None
    models: np.ndarray | None
    view_sizes: tuple
    n_embeddings: int = 1
    answers: np.ndarray | None = None

    def take(self, prompts):
        """Select prompts."""
        return replace(
            self,
            X=self.X[prompts],
            y=self.y[prompts],
            groups=self.groups[prompts],
            lengths=None if self.lengths is None else self.lengths[prompts],
            models=None if self.models is None else self.models[prompts],
            answers=None if self.answers is None else self.answers[prompts],
        )

    def with_columns(self, names):
        """Append the log of the length, or one 0/1 column per model, as views."""
        views = [self.X]
        if "length" in names and self.lengths is not None:
            views.append(np.log1p(self.lengths)[..., None])
        if "model" in names and self.models is not None:
            views.append(self.models[..., None] == np.unique(self.models))
        X = np.concatenate([view.astype(np.float32) for view in views], axis=2)
        sizes = (view.shape[2] for view in views[1:])
        return replace(self, X=X, view_sizes=(*self.view_sizes, *sizes))

    def shape(self):
        """Return the name and the sizes as a dict that is ready for JSON."""
        n_prompts, m, n_features = self.X.shape
        return {
            "name": self.name,
            "n_prompts": n_prompts,
            "n_groups": len(np.unique(self.groups)),
            "n_candidates": m,
            "n_features": n_features,
        }


def load_shipped():
    """Load the data set that ships with the package."""
    data = load_two_words()
    X, y = data.data.astype(np.float32), data.target.astype(np.float64)
    lengths = data.n_tokens.astype(float)
    return Data(TWO_WORDS, X, y, np.arange(len(y)), lengths, None, X.shape[2:])


def load_file(path, keys, max_prompts=None):
    """Load an .npz file and check it.

    Parameters
    ----------
    path : path-like
        File with `rewards` of shape (n_prompts, m), and optionally `groups` of shape
        (n_prompts,).
    keys : list of str
        Names of the embeddings, of shape (n_prompts, m, d), which are concatenated.
    max_prompts : int, default=None
        Number of prompts to select at random, if the file has more.

    Returns
    -------
    data : Data
    """
    with np.load(path) as file:
        for name in (*keys, "rewards"):
            if name not in file:
                raise SystemExit(
                    f"{path} has no array {name!r}; it has {', '.join(file)}. Name the "
                    "embeddings by --key; the rewards must be called 'rewards'."
                )
        views = [file[key].astype(np.float32) for key in keys]
        y = file["rewards"].astype(np.float64)
        groups = file["groups"] if "groups" in file else np.arange(len(y))
        lengths = [file[name].astype(float) for name in LENGTHS if name in file]
        models = _models(file, y.shape)
    for key, X in zip(keys, views, strict=True):
        if X.ndim != 3 or y.shape != X.shape[:2] or groups.shape != X.shape[:1]:
            raise SystemExit(
                f"{path}: {key!r} must have shape (n_prompts, m, d), 'rewards' "
                f"(n_prompts, m) and 'groups' (n_prompts,); got {X.shape}, {y.shape}, "
                f"{groups.shape}."
            )
        if not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise SystemExit(f"{path}: {key!r} or 'rewards' has NaN or infinity.")
    # An array of another shape is something else of the same name.
    lengths = next((array for array in lengths if array.shape == y.shape), None)
    view_sizes = tuple(X.shape[2] for X in views)
    X = np.concatenate(views, axis=2)
    more = view_sizes, len(view_sizes), load_answers(Path(path))
    data = Data(Path(path).stem, X, y, groups, lengths, models, *more)
    if max_prompts is None or len(y) <= max_prompts:
        return data
    selected = np.random.default_rng(0).permutation(len(y))[:max_prompts]
    return data.take(np.sort(selected))


def load_answers(path):
    """Load the answers of the completions beside an .npz file, or None."""
    texts = path.with_suffix(".jsonl.gz")
    if path.stem not in WITH_ANSWERS or not texts.exists():
        return None
    with gzip.open(texts, "rt", encoding="utf-8") as file:
        completions = [json.loads(line)["completions"] for line in file]
    return np.array([[extract_answer(text) for text in row] for row in completions])


def extract_answer(text):
    """Return the number after the last 'A:', or NaN."""
    number = text.rpartition("A:")[2].strip().replace(",", "")
    try:
        return float(number)
    except ValueError:
        return np.nan


def _models(file, shape):
    """Return the names of the models of all candidates of a file, or None."""
    if "systems" in file and "system_names" in file:
        return file["system_names"][file["systems"]]
    if "models" in file and file["models"].shape == shape[1:]:
        return np.tile(file["models"], (shape[0], 1))
    return None


def load(name, folders=FOLDERS, max_prompts=None):
    """Load a data set by name, or return None if no folder has its file."""
    if name == TWO_WORDS:
        return load_shipped().take(slice(max_prompts))
    for folder in folders:
        path = Path(folder) / f"{name}.npz"
        if path.exists():
            return load_file(path, keys_of(name), max_prompts)
    return None


def keys_of(name):
    """Return the names of the embeddings of a data set; () for the two words."""
    return (FILES | MORE_FILES).get(name, ())
