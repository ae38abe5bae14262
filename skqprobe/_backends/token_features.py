"""Features of a completion, from the distributions of its tokens."""

import math

import numpy as np
from scipy.special import entr

TOKEN_FEATURES = [
    "sum_log_likelihood",
    "mean_log_likelihood",
    "min_log_likelihood",
    "mean_entropy",
    "n_tokens",
    "max_entropy",
    "tail_entropy",
    "mean_margin",
]


def describe_tokens(log_p, entropy, margin):
    """Compute the features of a completion.

    Parameters
    ----------
    log_p : ndarray of shape (n_tokens,)
        Log-probability of each token.
    entropy : ndarray of shape (n_tokens,)
        Entropy of the distribution of each token.
    margin : ndarray of shape (n_tokens,)
        Difference of the two largest probabilities of the distribution of each token.

    Returns
    -------
    features : dict of str to float
        Values of `TOKEN_FEATURES`, which are zero without tokens.
    """
    if not len(log_p):
        return dict.fromkeys(TOKEN_FEATURES, 0.0)
    tail = tail_length(len(log_p))
    values = (
        log_p.sum(),
        log_p.mean(),
        log_p.min(),
        entropy.mean(),
        len(log_p),
        entropy.max(),
        entropy[-tail:].mean(),
        margin.mean(),
    )
    return dict(zip(TOKEN_FEATURES, map(float, values), strict=True))


def describe_likeliest(log_p, likeliest):
    """Compute the features of a completion from the likeliest tokens only.

    All other tokens count as one, so the entropies are lower bounds.

    Parameters
    ----------
    log_p : list of float
        Log-probability of each token.
    likeliest : list of ndarray
        Log-probabilities of the likeliest tokens, two or more, in place of each token.

    Returns
    -------
    features : dict of str to float
        Values of `TOKEN_FEATURES`.
    """
    p = [np.sort(np.exp(np.minimum(row, 0.0))) for row in likeliest]
    entropy = [entr(row).sum() + entr(max(1 - row.sum(), 0.0)) for row in p]
    margin = [row[-1] - row[-2] for row in p]
    return describe_tokens(*map(np.array, (log_p, entropy, margin)))


def tail_length(n_tokens):
    """Return the number of tokens in the last tenth of a completion, at least 1."""
    return max(math.ceil(n_tokens / 10), 1)
