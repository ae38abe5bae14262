"""Distances of a choice among candidates from the base model."""

import numpy as np
from scipy.special import entr

from skqprobe._candidates.segments import segment_sum
from skqprobe._candidates.validation import check_proba
from skqprobe.metrics._per_prompt import check_has_groups, mean_terms, reduce_terms


def kl_upper_estimate(proba, groups=None, *, average="mean", prompt_weight=None):
    """Estimate an upper bound of the KL divergence of a policy from the base model.

    ``log k - H(proba)`` is the divergence of the choice from a random choice. In
    expectation, a choice among samples of the base model is at most as far from the
    base model. The estimate needs no likelihoods. For the best of k without ties it is
    log k; `best_of_k_kl_bound` is tighter there.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities, as returned by `predict_proba`.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    kl : float, or ndarray of shape (n_prompts,)
        Divergence in nats, in [0, log k].

    Examples
    --------
    >>> from skqprobe.metrics import kl_upper_estimate
    >>> kl = kl_upper_estimate([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    >>> print(f"{kl:.4f}")
    0.3466
    """
    proba, layout = _check_proba(proba, groups)
    return reduce_terms(mean_terms(choice_kl(proba, layout)), average, prompt_weight)


def effective_candidates(proba, groups=None, *, average="mean", prompt_weight=None):
    """Compute the effective number of candidates among which a policy chooses.

    ``exp(H(proba))`` is 1 for a certain choice and k for a random one.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities, as returned by `predict_proba`.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    n_effective : float, or ndarray of shape (n_prompts,)
        Effective number of candidates, in [1, k].

    Examples
    --------
    >>> from skqprobe.metrics import effective_candidates
    >>> effective_candidates([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    1.5
    """
    values = np.exp(choice_entropy(*_check_proba(proba, groups)))
    return reduce_terms(mean_terms(values), average, prompt_weight)


def best_of_k_kl_bound(k):
    """Compute an upper bound of the KL divergence of best-of-k from the base model.

    The bound is ``log k - (k - 1) / k`` for any scores [1]_.

    Parameters
    ----------
    k : int or array-like of int
        Number of candidates from which the best is chosen, 1 or more.

    Returns
    -------
    bound : float or ndarray
        Bound in nats.

    Raises
    ------
    ValueError
        If k is less than 1.

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


def choice_entropy(proba, layout):
    """Compute the entropy of the choice in nats, per prompt."""
    return segment_sum(entr(proba), layout.offsets)


def choice_kl(proba, layout):
    """Compute log k minus the entropy of the choice, per prompt."""
    return np.maximum(np.log(layout.sizes) - choice_entropy(proba, layout), 0)


def _check_proba(proba, groups):
    proba, layout = check_proba(proba, groups)
    check_has_groups(layout, "proba")
    return proba, layout
