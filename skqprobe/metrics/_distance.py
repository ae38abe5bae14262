"""How far a choice among candidates moves from the base model, in nats."""

import numpy as np
from scipy.special import entr

from skqprobe._candidates.segments import segment_sum
from skqprobe._candidates.validation import check_proba
from skqprobe.metrics._averages import check_has_groups, prompt_mean


def kl_upper_estimate(proba, groups=None, *, prompt_weight=None):
    """Estimate the KL divergence of a policy from the base model, from above.

    ``log k - H(proba)``, the divergence of the choice from a random one. Choosing from
    the candidates of the base model cannot lead further from it, in expectation, and
    the estimate needs no likelihoods. For the best of k without ties it is log k; see
    `best_of_k_kl_bound` for a tighter bound there.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities, as `predict_proba` gives them.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    kl : float, or ndarray of shape (n_weightings,)
        Mean over prompts, in nats, 0 or more.

    Examples
    --------
    >>> from skqprobe.metrics import kl_upper_estimate
    >>> kl = kl_upper_estimate([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    >>> print(f"{kl:.4f}")
    0.3466
    """
    entropy, layout = _entropy(proba, groups)
    return prompt_mean(np.maximum(np.log(layout.sizes) - entropy, 0), prompt_weight)


def effective_candidates(proba, groups=None, *, prompt_weight=None):
    """Compute among how many candidates a policy really chooses.

    ``exp(H(proba))``: 1 for a sure choice, k for a random one.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities, as `predict_proba` gives them.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    n_effective : float, or ndarray of shape (n_weightings,)
        Mean over prompts, from 1 to k.

    Examples
    --------
    >>> from skqprobe.metrics import effective_candidates
    >>> effective_candidates([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    1.5
    """
    entropy, _ = _entropy(proba, groups)
    return prompt_mean(np.exp(entropy), prompt_weight)


def best_of_k_kl_bound(k):
    """Compute an upper bound of the KL divergence of best-of-k from the base model.

    ``log k - (k - 1) / k`` [1]_, whatever the scores are.

    Parameters
    ----------
    k : int or array-like of int
        From how many candidates the best is taken, 1 or more.

    Returns
    -------
    bound : float or ndarray
        In nats.

    References
    ----------
    .. [1] Beirami et al., "Theoretical guarantees on the best-of-n alignment policy",
       2024, arXiv 2401.01879.

    Examples
    --------
    >>> from skqprobe.metrics import best_of_k_kl_bound
    >>> best_of_k_kl_bound([1, 2, 48]).round(3)
    array([0.   , 0.193, 2.892])
    """
    ks = np.asarray(k, dtype=float)
    if not (ks >= 1).all():
        raise ValueError(f"k must be 1 or more; got {k!r}.")
    bound = np.log(ks) - (ks - 1) / ks
    return float(bound) if bound.ndim == 0 else bound


def _entropy(proba, groups):
    """Entropy of the choice by prompt, in nats, and the layout."""
    rows, layout = check_proba(proba, groups)
    check_has_groups(layout, "proba")
    return segment_sum(entr(rows), layout.offsets), layout
