"""Distances between the candidates of a prompt, and features computed from them.

All functions take prompts of one size k. The distances to the siblings of a candidate
are an array of shape (n_prompts, k, k - 1), sorted along the last axis.
"""

import numpy as np
from scipy.stats import rankdata

FEATURES = ("mean", "nearest", "share", "density", "duplicates", "rank")
"""Names of the features."""

DENSITY_FLOOR = 0.01
"""Number added to a kernel density, so that its logarithm stays finite."""

DUPLICATE = 0.01
"""Largest distance between duplicates, in units of the median distance."""


def pairwise_distances(E, metric):
    """Compute distances of shape (n_prompts, k, k) from (n_prompts, k, d)."""
    E = E.astype(np.result_type(E, np.float32), copy=False)
    if metric == "cosine":
        # In float32, squares of norms below 1e-22 underflow.
        length = np.sqrt(np.einsum("ijk,ijk->ij", E, E, dtype=np.float64))[..., None]
        E = E / np.where(length, length, 1).astype(E.dtype)
        distances = 1 - E @ E.transpose(0, 2, 1)
    else:
        squares = (E**2).sum(axis=2)
        products = E @ E.transpose(0, 2, 1)
        distances = squares[:, :, None] + squares[:, None] - 2 * products
    return np.maximum(distances, 0)


def sibling_distances(distances):
    """Sort distances of shape (n_prompts, k, k) and drop the diagonal, in place."""
    k = distances.shape[1]
    distances[:, np.arange(k), np.arange(k)] = -1  # sorts the diagonal to the front
    return np.sort(distances, axis=2)[:, :, 1:]


def learn_scale(sampled, quantiles):
    """Compute the median of distances, and quantiles in units of the median.

    Parameters
    ----------
    sampled : list of ndarray
        Distances to the siblings. Without any distance, the scale is 1 and the
        quantiles are 0.
    quantiles : array-like of shape (n_quantiles,)
        Probabilities in [0, 1].

    Returns
    -------
    scale : float
        Median distance, or 1 if the median is 0.
    thresholds : ndarray of shape (n_quantiles,)
        Quantiles of ``distance / scale``.
    """
    distances = np.concatenate([some.ravel() for some in sampled])
    if len(distances) == 0:
        distances = np.zeros(1)
    scale = float(np.median(distances)) or 1.0
    return scale, np.quantile(distances / scale, np.asarray(quantiles))


def sibling_features(distances, names, *, nearest, thresholds, bandwidths):
    """Compute features of shape (n_prompts, k, n_features), of mean 0 per prompt.

    Parameters
    ----------
    distances : ndarray of shape (n_prompts, k, k - 1)
        Distances to the siblings, in units of the median distance.
    names : sequence of str
        Names out of FEATURES.
    nearest, thresholds, bandwidths : sequence of float
        Settings of the features "nearest", "share" and "density".
    """
    n_prompts, k, n_siblings = distances.shape
    if n_siblings == 0:
        distances = np.zeros((n_prompts, k, 1), distances.dtype)
    compute = {
        "mean": lambda: [-distances.mean(axis=2)],
        "nearest": lambda: [
            -distances[..., : max(1, round(share * n_siblings))].mean(axis=2)
            for share in nearest
        ],
        "share": lambda: [(distances <= limit).mean(axis=2) for limit in thresholds],
        "density": lambda: [
            np.log(np.exp(-distances / width).mean(axis=2) + DENSITY_FLOOR)
            for width in bandwidths
        ],
        "duplicates": lambda: [(distances <= DUPLICATE).mean(axis=2)],
        "rank": lambda: [rankdata(-distances.mean(axis=2), axis=1) / k],
    }
    columns = [column for name in names for column in compute[name]()]
    features = np.stack(columns, axis=2).astype(distances.dtype)
    return features - features.mean(axis=1, keepdims=True)
