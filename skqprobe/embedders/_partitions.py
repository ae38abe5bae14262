"""Embedding of texts in Dask collections, one partition at a time."""

import numpy as np

from skqprobe._arrays.collections import compute, import_dask, in_partition
from skqprobe._arrays.views import check_views, with_views


def embed_partitions(embedder, X):
    """Make the Dask array of the embeddings of texts in a Dask collection.

    Each worker loads the model once, and embeds batches inside its partitions. The
    numbers of texts, and the embedding of one of them, are computed at once.

    Parameters
    ----------
    embedder : embedder
        Embedder that is fitted or needs no `fit`.
    X : dask bag, data frame, series or array
        Texts, pairs or records.

    Returns
    -------
    embeddings : dask array of shape (n_rows, n_features), or (n_prompts, k, n_features)
        Embeddings, with the partitions of X.
    """
    da, delayed = import_dask("dask.array"), import_dask().delayed
    shared = delayed(embedder._snapshot(), traverse=False, pure=False)
    embed = delayed(_embed, pure=False)
    texts, lengths, first = _read_partitions(X)
    (example,) = compute(embed(shared, first, 0))
    starts = (np.cumsum(lengths) - lengths).tolist()
    blocks = [
        da.from_delayed(
            embed(shared, part, start), (n, *example.shape[1:]), example.dtype
        )
        for part, start, n in zip(texts, starts, lengths, strict=True)
    ]
    n_features = example.shape[-1]
    views = check_views(embedder._view_sizes_for(n_features), None, n_features)
    return with_views(da.concatenate(blocks), views)


def fit_to_partitions(embedder, X):
    """Return an embedder that is fitted to the first text of a Dask collection."""
    delayed = import_dask().delayed
    shared = delayed(embedder._snapshot(), traverse=False, pure=False)
    *_, first = _read_partitions(X)
    return compute(delayed(_fit, pure=False)(shared, first))[0]


def refuse_to_learn(embedder):
    """Raise for an embedder that learns from all texts."""
    raise ValueError(
        f"{type(embedder).__name__} learns from all texts, and cannot be fitted to a "
        "Dask collection. Fit it to some texts in memory, such as those of "
        "X.take(10000) of a bag or X.head(10000) of a data frame."
    )


def _read_partitions(X):
    """List the partitions that have texts, as tasks; their lengths; the first text."""
    delayed = import_dask().delayed
    texts = [
        delayed(_as_list, pure=False)(part)
        for part in np.ravel(X.to_delayed()).tolist()
    ]
    lengths = compute(*(delayed(len)(part) for part in texts))
    pairs = [pair for pair in zip(texts, lengths, strict=True) if pair[1]]
    if not pairs:
        raise ValueError("X is empty; at least one text is needed.")
    texts, lengths = map(list, zip(*pairs, strict=True))
    return texts, lengths, delayed(_first_of, pure=False)(texts[0])


def _as_list(texts):
    """Return a partition of a bag, which may be an iterator, as a list."""
    return texts if hasattr(texts, "shape") else list(texts)


def _first_of(texts):
    return texts.iloc[:1] if hasattr(texts, "iloc") else texts[:1]


def _embed(embedder, texts, start):
    try:
        return np.asarray(embedder.transform(texts))
    except (TypeError, ValueError) as error:
        raise in_partition(error, start) from error


def _fit(embedder, texts):
    return embedder.fit(texts)
