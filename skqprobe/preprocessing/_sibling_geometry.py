"""Distances between the candidates of a prompt, and features computed from them.

All functions take prompts of one size k.
"""

import numpy as np
from scipy.stats import rankdata

FEATURES = ("mean", "nearest", "share", "density", "duplicates", "rank")
"""Names of the features."""

DENSITY_FLOOR = 0.01
"""Number added to a kernel density, so that its logarithm stays finite."""

DUPLICATE = 0.01
"""Largest distance between duplicates, in units of the median distance."""

EQUAL, EQUAL_COSINE = 1e-5, 1e-6
"""Largest distance between candidates that are equal up to rounding, as to float16: in
units of the largest distance, and of cosines."""

TINY_SQUARE = 1e-25
"""Squared length below which squares of numbers may underflow in float32."""

ROUNDING = 16
"""Bound on the rounding error of the squared length of a vector, and of products of it,
in units of the machine precision times this square."""


class Siblings:
    """Candidates of prompts of one size, and the distances between them.

    The distances are the squared distances between vectors. The cosine distance is that
    of unit vectors divided by the square root of 2. The vectors are centered per
    prompt: an offset that all candidates share would cost digits.

    Parameters
    ----------
    E : ndarray of shape (n_prompts, k, d)
        Embeddings of dtype float32 or float64.
    metric : {"cosine", "sqeuclidean"}
        Distance between embeddings.
    """

    def __init__(self, E, metric):
        squares = np.einsum("ijk,ijk->ij", E, E)
        if squares.min() < TINY_SQUARE:
            squares = np.einsum("ijk,ijk->ij", E, E, dtype=np.float64)
        present = squares > 0
        # An embedding of zeros is a missing one, at the distance 1 from all others.
        self.missing = None if metric != "cosine" or present.all() else ~present
        if metric == "cosine":
            length = np.sqrt(np.where(present, 2 * squares, 1))
            E = E / length[..., None].astype(E.dtype)
        share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        center = share[:, None].astype(E.dtype) @ E
        self.vectors = np.subtract(E, center, out=E if metric == "cosine" else None)
        # The distance between duplicates is 0: rounding errors must not make it larger.
        rounding = ROUNDING * float(np.finfo(E.dtype).eps)
        self.squares = np.einsum("ijk,ijk->ij", self.vectors, self.vectors)
        self.squares *= 1 - rounding

    def sorted_distances(self, some):
        """Compute the distances of some candidates to all, in ascending order.

        Parameters
        ----------
        some : slice
            Candidates of each prompt.

        Returns
        -------
        distances : ndarray of shape (n_prompts, n_some, k)
            The first is that of the candidate to itself, 0.
        """
        squares, missing = self.squares, self.missing
        products = self.vectors[:, some] @ self.vectors.transpose(0, 2, 1)
        products *= 2
        distances = squares[:, some, None] + squares[:, None]
        distances -= products
        np.maximum(distances, 0, out=distances)
        if missing is not None:
            distances[missing[:, some, None] | missing[:, None]] = 1
        own = np.arange(squares.shape[1])[some]
        distances[:, np.arange(len(own)), own] = -1
        distances.sort(axis=2)
        distances[..., 0] = 0
        return distances


def learn_scale(sampled, quantiles, metric):
    """Compute the median of distances, and quantiles in units of the median.

    Distances between candidates that are equal do not count: if most are, the median
    would be a rounding error.

    Parameters
    ----------
    sampled : list of ndarray
        Distances to the siblings.
    quantiles : array-like of shape (n_quantiles,)
        Probabilities in [0, 1].
    metric : {"cosine", "sqeuclidean"}
        Distance.

    Returns
    -------
    learned : tuple or None
        Median distance and quantiles of ``distance / median``, or None if all are
        equal.
    """
    distances = np.concatenate([some.ravel() for some in sampled])
    floor = EQUAL * distances.max(initial=0)
    if metric == "cosine":
        floor = max(floor, EQUAL_COSINE)
    distances = distances[distances > floor]
    if len(distances) == 0:
        return None
    scale = float(np.median(distances))
    return scale, np.quantile(distances / scale, np.asarray(quantiles, dtype=float))


def sibling_features(distances, names, *, nearest, thresholds, bandwidths):
    """Compute features of shape (n_rows, n_features).

    In place of the rank, which needs all candidates of a prompt, is "mean".

    Parameters
    ----------
    distances : ndarray of shape (n_rows, k)
        Result of `sorted_distances`, in units of the median distance.
    names : sequence of str
        Names out of FEATURES.
    nearest, thresholds, bandwidths : sequence of float
        Settings of the features "nearest", "share" and "density".
    """
    dtype, n_siblings = distances.dtype, max(1, distances.shape[1] - 1)
    counts = [max(1, round(share * n_siblings)) for share in nearest]
    # A product with weights is a mean over siblings, in a fifth of the time of `mean`.
    position = np.arange(distances.shape[1])[:, None]
    some = ((position > 0) & (position <= counts)) / np.array(counts)
    some, every = some.astype(dtype), (position > 0).astype(dtype) / n_siblings

    def shares(limits):
        return [(distances <= limit).astype(dtype) @ every for limit in limits]

    compute = {
        "mean": lambda: [-(distances @ every)],
        "nearest": lambda: [-(distances @ some)],
        "share": lambda: shares(thresholds.astype(dtype)),
        "density": lambda: [
            np.log(np.exp(distances * (-1 / float(width))) @ every + DENSITY_FLOOR)
            for width in bandwidths
        ],
        "duplicates": lambda: shares([DUPLICATE]),
        "rank": lambda: [-(distances @ every)],
    }
    return np.hstack([column for name in names for column in compute[name]()])


def compare_with_siblings(features, ranked):
    """Replace columns by their ranks, and subtract the mean of each prompt, in place.

    Parameters
    ----------
    features : ndarray of shape (n_prompts, k, n_features)
        Features of all candidates of a prompt.
    ranked : ndarray of bool, of shape (n_features,)
        Columns to replace.
    """
    if ranked.any():
        features[..., ranked] = rankdata(features[..., ranked], axis=1)
        features[..., ranked] /= features.shape[1]
    features -= features.mean(axis=1, keepdims=True)
