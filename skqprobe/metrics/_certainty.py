"""risk_coverage and conformal_threshold: prompts that are better not answered."""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from skqprobe._candidates.choice import choice_reward
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import check_values
from skqprobe._utils.sklearn_compat import FloatInterval
from skqprobe.metrics._best_of_k import average_ties
from skqprobe.metrics._per_prompt import check_rewards, check_scores


@dataclass(frozen=True)
class RiskCoverage:
    """Risk of the answers against the share of prompts that are answered.

    Parameters
    ----------
    coverage : ndarray of shape (n_prompts,)
        Shares of the prompts that are answered, in ascending order.
    risk : ndarray of shape (n_prompts,)
        One minus the mean reward of these answers.
    threshold : ndarray of shape (n_prompts,)
        Lowest predicted reward among them.
    area : float
        Area under the curve: the mean risk over all shares.
    """

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray
    area: float


def risk_coverage(y, values, predicted, groups=None):
    """Compute the risk of the answers if only the most certain prompts are answered.

    The risk is one minus the mean reward, for rewards in [0, 1]. The prompts are
    answered in descending order of the predicted reward, each by its best candidate.
    The lower the area under the curve, the better the prediction separates good answers
    from bad ones [1]_.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    values : array-like of shape (n_prompts, k) or (n_rows,)
        Values of the candidates, of which the best is chosen; candidates of equal
        value are equally likely.
    predicted : array-like of shape (n_prompts,)
        Predicted reward of each choice, such as `CalibratedPolicyCV.predict_reward`, in
        order of first appearance. Only the order matters. Prompts of equal prediction
        share their mean risk.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.

    Returns
    -------
    curve : RiskCoverage
        Object with `coverage`, `risk`, `threshold` and `area`.

    Raises
    ------
    ValueError
        If a reward is not in [0, 1], or an argument is malformed.

    See Also
    --------
    conformal_threshold : Threshold of the prediction for a given risk.

    References
    ----------
    .. [1] El-Yaniv, Wiener, "On the foundations of noise-free selective
       classification", JMLR 11, 2010, pages 1605-1641.

    Examples
    --------
    >>> from skqprobe.metrics import risk_coverage
    >>> y, values = [[1, 0], [0, 0], [1, 0], [1, 0]], [[2.0, 1.0]] * 4
    >>> curve = risk_coverage(y, values, predicted=[0.9, 0.3, 0.5, 0.2])
    >>> curve.coverage, curve.risk.round(2)
    (array([0.25, 0.5 , 0.75, 1.  ]), array([0.  , 0.  , 0.33, 0.25]))
    """
    rewards, layout = check_rewards(y, groups)
    if rewards.min() < 0 or rewards.max() > 1:
        raise ValueError(
            f"y must be in [0, 1]; it ranges from {rewards.min():.3g} to "
            f"{rewards.max():.3g}. Scale the rewards, or pass y >= level."
        )
    values = check_scores(values, layout, "values")
    n_prompts = layout.n_prompts
    predicted = _check_per_prompt(predicted, n_prompts, "predicted")
    risk = 1 - choice_reward(values, rewards, layout, 0)
    order = np.argsort(-predicted, kind="stable")
    as_one = check_layout((1, n_prompts))
    risk, threshold = risk[order], predicted[order]
    answered = np.arange(1, n_prompts + 1)
    risk = np.cumsum(average_ties(risk, threshold, as_one)) / answered
    return RiskCoverage(answered / n_prompts, risk, threshold, float(risk.mean()))


def conformal_threshold(predicted, rewards, risk=0.1):
    """Find the lowest threshold of the prediction at which few answers are bad.

    Answer the prompts whose predicted reward is at least the threshold. It is the
    lowest one with ``(1 + n_bad) / n_answered <= risk`` on the calibration prompts. If
    these and a new prompt are exchangeable, then

    ``E[is_bad_answer / (n_answered / (n_calibration + 1))] <= risk``,

    whatever the prediction: in expectation, the bad answers are at most the share
    `risk` of the answered prompts, where the latter are counted on the calibration
    prompts. This is the argument of conformal selection [1]_ and of conformal risk
    control [2]_ for one new prompt: a bad one that is answered is among the ``1 +
    n_bad`` bad ones of all prompts, each of which is equally likely to be the new one.

    Parameters
    ----------
    predicted : array-like of shape (n_prompts,)
        Predicted rewards of the choices for calibration prompts, which were not used to
        fit or select the policy.
    rewards : array-like of shape (n_prompts,)
        Rewards of these choices: 1 or True for a good one, 0 or False for a bad one.
    risk : float, default=0.1
        Share of bad ones among the answers, in (0, 1).

    Returns
    -------
    threshold : float
        Lowest predicted reward of a prompt to answer. Infinite if there are too few
        good answers to guarantee the risk: at least ``1 / risk`` are needed.

    Raises
    ------
    ValueError
        If a reward is neither 0 nor 1, or an argument is malformed.

    See Also
    --------
    risk_coverage : Risk for each share of answered prompts.

    References
    ----------
    .. [1] Jin, Candès, "Selection by prediction with conformal p-values", JMLR 24,
       2023, arXiv 2210.01408.
    .. [2] Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal risk control", ICLR
       2024, arXiv 2208.02814.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.metrics import conformal_threshold
    >>> rng = np.random.default_rng(0)
    >>> predicted = rng.random(500)
    >>> rewards = rng.random(500) < predicted
    >>> print(f"{conformal_threshold(predicted, rewards, risk=0.2):.2f}")
    0.57
    """
    if not FloatInterval(Real, 0, 1, closed="neither").is_satisfied_by(risk):
        raise ValueError(f"risk must be a number in (0, 1); got {risk!r}.")
    n_prompts = len(predicted) if np.ndim(predicted) else 1
    predicted = _check_per_prompt(predicted, n_prompts, "predicted")
    rewards = _check_per_prompt(rewards, n_prompts, "rewards")
    if not np.isin(rewards, (0, 1)).all():
        raise ValueError(
            "rewards must be 0 for bad answers and 1 for good ones; pass rewards >= "
            "the lowest reward of a good answer."
        )
    order = np.argsort(-predicted, kind="stable")
    predicted, n_bad = predicted[order], np.cumsum(1 - rewards[order])
    is_last = np.append(predicted[1:] != predicted[:-1], True)  # of equal ones
    # A quotient is rounded as `risk` is: 29 / 100 <= 0.29, but 29 > 0.29 * 100.
    meets = is_last & ((1 + n_bad) / np.arange(1, len(predicted) + 1) <= risk)
    return float(predicted[meets].min(initial=np.inf))


def _check_per_prompt(values, n_prompts, name):
    """Validate one number per prompt."""
    if np.shape(values)[:1] != (n_prompts,):
        raise ValueError(
            f"{name} has shape {np.shape(values)}; pass one number for each of the "
            f"{n_prompts} prompts, of shape ({n_prompts},)."
        )
    return check_values(values, (n_prompts,), name)
