"""The best of k candidates of a prompt, exactly."""

import numpy as np

from skqprobe._candidates.segments import segment_mean


def order_by_score(scores, layout):
    """Order the candidates of each prompt by ascending score."""
    order = np.empty(layout.n_rows, dtype=np.intp)
    for _, rows in layout.by_size():  # many short sorts are faster than a long one
        by_score = np.argsort(scores[rows], axis=1)
        order[rows] = np.take_along_axis(rows, by_score, axis=1)
    return order


def average_ties(values, scores, layout):
    """Average values that are sorted by score inside each prompt over equal scores."""
    first = np.concatenate(([True], scores[1:] != scores[:-1]))
    first[layout.offsets[:-1]] = True
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=layout.n_rows)
    return np.repeat(np.add.reduceat(values, starts) / sizes, sizes)


def best_of_k(rewards, scores, ks, layout):
    """Compute the reward of best-of-k, (n_prompts, n_k); NaN for too few."""
    order = order_by_score(scores, layout)
    ordered = average_ties(rewards[order], scores[order], layout)
    reward = np.empty((layout.n_prompts, len(ks)))
    for prompts, rows in layout.by_size():
        reward[prompts] = ordered[rows] @ _rank_weights(rows.shape[1], ks)
    return reward


def base_of_k(rewards, ks, layout):
    """Compute mean rewards, (n_prompts, n_k); NaN for prompts with too few."""
    mean = segment_mean(rewards, layout.offsets)[:, None]
    return np.where(layout.sizes[:, None] >= ks, mean, np.nan)


def _rank_weights(m, ks):
    """Share of the k-subsets of m in which each rank is the highest, (m, n_k).

    The weights C(i - 1, k - 1) / C(m, k) are computed as a product from rank m down,
    without binomial coefficients: w(m) = k / m and w(i - 1) = w(i) (i - k) / (i - 1).
    """
    rank = np.arange(m, 1, -1)[:, None]
    ratios = np.maximum(rank - ks, 0) / (rank - 1)
    weights = np.cumprod(np.vstack([ks / m, ratios]), axis=0)[::-1]
    return np.where(ks <= m, weights, np.nan)
