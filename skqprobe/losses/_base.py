"""BaseLoss: the protocol of a loss, and helpers that losses share."""

from abc import ABC, abstractmethod
from numbers import Real

import numpy as np

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_sum,
)
from skqprobe._utils.estimator import BaseEstimator


class BaseLoss(ABC, BaseEstimator):
    """Base class of all losses.

    A subclass implements :meth:`value_and_gradient`. Settings are arguments of its
    ``__init__``, stored under their own names, so that ``clone`` and ``get_params``
    keep them and a search reaches them as ``loss__name``.

    Attributes
    ----------
    shift_invariant : bool
        True for a loss that reads only differences of scores inside a prompt. Such a
        loss cannot see an intercept, and learns nothing where every prompt has a
        single candidate.

    Examples
    --------
    The squared error of the softmax choice, as a loss of one's own:

    >>> import numpy as np
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.losses import BaseLoss, PolicyGradient
    >>> class SquaredRegret(BaseLoss):
    ...     shift_invariant = True
    ...
    ...     def value_and_gradient(self, scores, rewards, offsets, weight=None):
    ...         value, gradient = PolicyGradient().value_and_gradient(
    ...             scores, rewards, offsets, weight
    ...         )
    ...         regret = value + np.maximum.reduceat(rewards, offsets[:-1])
    ...         slope = np.repeat(2 * regret, np.diff(offsets))
    ...         return regret**2, slope * gradient
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(50, 4, 3)), rng.random(size=(50, 4))
    >>> policy = QProbePolicy(loss=SquaredRegret()).fit(X, y)
    >>> policy.predict(X[:5]).shape
    (5,)
    """

    shift_invariant = False

    @abstractmethod
    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,), float64
            Probe values, prompt by prompt.
        rewards : ndarray of shape (n_rows,), float64
            Rewards, prompt by prompt.
        offsets : ndarray of shape (n_prompts + 1,), int
            Prompt p has the rows ``offsets[p]`` to ``offsets[p + 1] - 1``, at least
            one.
        weight : ndarray of shape (n_rows,), float64, default=None
            Positive; row i counts as ``weight[i]`` copies of itself in its prompt.

        Returns
        -------
        value : ndarray of shape (n_prompts,)
            The loss of each prompt.
        gradient : ndarray of shape (n_rows,)
            Derivative of the loss of a row's prompt with respect to the row's score.
        """

    def check_rewards(self, rewards):
        """Raise a ValueError if the loss is not defined for these rewards.

        Parameters
        ----------
        rewards : ndarray of shape (n_rows,)
            Rewards of the training data.
        """

    def informative_prompts(self, rewards, offsets):
        """Tell which prompts the loss is defined for; the others are left out.

        Parameters
        ----------
        rewards : ndarray of shape (n_rows,)
            Rewards, prompt by prompt.
        offsets : ndarray of shape (n_prompts + 1,)
            Where each prompt begins.

        Returns
        -------
        informative : ndarray of bool, of shape (n_prompts,)
        """
        return np.ones(len(offsets) - 1, dtype=bool)

    def inverse_link(self, scores):
        """Map a score to the expected reward that it stands for.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,)
            Probe values.

        Returns
        -------
        expected : ndarray of shape (n_rows,)
            The scores themselves, unless a subclass says otherwise.
        """
        return scores


def _share(offsets, weight):
    """Share of each row in its prompt: weights that sum to 1 inside a prompt."""
    if weight is None:
        return repeat_per_prompt(1 / np.diff(offsets), offsets)
    return weight / repeat_per_prompt(segment_sum(weight, offsets), offsets)


def _softplus(z):
    """``log(1 + exp(z))`` and its derivative, the logistic function.

    The same as ``np.logaddexp(0, z)`` and ``scipy.special.expit(z)``, at a small part
    of their time: numpy computes exp and log1p on whole vector registers.
    """
    small = np.exp(-np.abs(z))  # at most 1: no overflow
    slope = np.where(z >= 0, 1.0, small)
    slope /= 1 + small
    value = np.log1p(small, out=small)
    value += np.maximum(z, 0)
    return value, slope


def _check_positive(loss, name):
    value = getattr(loss, name)
    if not (isinstance(value, Real) and 0 < float(value) < np.inf):
        raise ValueError(
            f"{name} of {type(loss).__name__} must be a finite number above 0; got "
            f"{value!r}."
        )
