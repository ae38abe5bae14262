"""Statistics of the columns of X, by the scalers of scikit-learn.

The statistics of parts of X are pooled in a scaler by rows that have them.
"""

import numpy as np
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

from skqprobe._arrays.blocks import BlockReader, row_blocks

FIT_IN_BLOCKS = StandardScaler, MinMaxScaler, MaxAbsScaler
"""Transformers for which `partial_fit` on the blocks of X is `fit` on X."""


def fit_scaler(scaler, X):
    """Fit one of FIT_IN_BLOCKS to X, read in blocks."""
    read = BlockReader(X)
    for rows in row_blocks(X):
        scaler.partial_fit(np.asarray(read(rows)))
    return scaler


def summarize_columns(X, kind):
    """Return number of rows and statistics of the columns of X, for `pool_scaler`."""
    if issubclass(kind, StandardScaler):
        scaler = fit_scaler(StandardScaler(), X)
        step = np.sqrt(scaler.var_)
        return len(X), np.stack([scaler.mean_ - step, scaler.mean_ + step])
    scaler = fit_scaler(MinMaxScaler(), X)
    return len(X), np.stack([scaler.data_min_, scaler.data_max_])


def pool_scaler(scaler, summaries):
    """Fit one of FIT_IN_BLOCKS to parts of X, from their `summarize_columns`.

    Two rows with half of the weight of a part each have its mean and variance.
    """
    for n_rows, rows in summaries:
        is_weighted = isinstance(scaler, StandardScaler)
        weights = {"sample_weight": [n_rows / 2] * 2} if is_weighted else {}
        scaler.partial_fit(rows, **weights)
    scaler.n_samples_seen_ = int(sum(n_rows for n_rows, _ in summaries))
    return scaler
