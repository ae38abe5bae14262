"""BaseLoss: the protocol of a loss."""

from abc import ABC, abstractmethod

import numpy as np

from skqprobe._utils.estimator import BaseEstimator


class BaseLoss(ABC, BaseEstimator):
    """Base class of all losses.

    A subclass implements :meth:`value_and_gradient`. Its settings are arguments of
    ``__init__`` and are stored under the same names. `clone` and `get_params` then keep
    them, and a search reaches them as ``loss__name``.

    All arrays are in prompt order: the candidates of a prompt are contiguous.

    Attributes
    ----------
    shift_invariant : bool
        Whether adding a constant to all scores of a prompt leaves the loss unchanged. A
        probe with such a loss has no intercept, and it learns nothing if every prompt
        has a single candidate.
    smooth : bool
        Whether the loss has a gradient everywhere. Only then can a fit measure by its
        gradient how far from the minimum it ended.

    Examples
    --------
    Define a loss that is the squared regret of the softmax policy:

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
    smooth = True

    @abstractmethod
    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute the value of each prompt and the gradient.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,)
            Scores of the candidates, such as the values of a probe. float64.
        rewards : ndarray of shape (n_rows,)
            Rewards of the candidates. float64.
        offsets : ndarray of shape (n_prompts + 1,)
            Position where each prompt begins. Prompt p has the rows ``offsets[p]`` to
            ``offsets[p + 1] - 1``, at least one.
        weight : ndarray of shape (n_rows,), default=None
            Positive number of copies of each candidate in its prompt. float64.

        Returns
        -------
        value : ndarray of shape (n_prompts,)
            Loss of each prompt.
        gradient : ndarray of shape (n_rows,)
            Derivative of the loss of a candidate's prompt with respect to the
            candidate's score.
        """

    def check_rewards(self, rewards):
        """Check that the loss is defined for these rewards.

        By default, all rewards are valid.

        Parameters
        ----------
        rewards : ndarray of shape (n_rows,)
            Rewards of the candidates.

        Raises
        ------
        ValueError
            If the loss is not defined for a reward.
        """

    def informative_prompts(self, rewards, offsets):
        """Find the prompts for which the loss is defined.

        A fit leaves out the other prompts. By default, all prompts are informative.

        Parameters
        ----------
        rewards : ndarray of shape (n_rows,)
            Rewards of the candidates.
        offsets : ndarray of shape (n_prompts + 1,)
            Position where each prompt begins.

        Returns
        -------
        informative : ndarray of shape (n_prompts,)
            Whether the loss is defined for each prompt.
        """
        return np.ones(len(offsets) - 1, dtype=bool)

    def inverse_link(self, scores):
        """Map scores to expected rewards.

        By default, the score is the expected reward.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,)
            Scores of the candidates, such as the values of a probe.

        Returns
        -------
        expected : ndarray of shape (n_rows,)
            Expected reward of each candidate.
        """
        return scores
