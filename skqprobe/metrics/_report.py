"""policy_report: rewards and distance from the base model in one table."""

import numpy as np

from skqprobe._utils.optional import import_optional
from skqprobe.metrics._best_of_k import base_of_k, best_of_k
from skqprobe.metrics._bootstrap import bootstrap_terms
from skqprobe.metrics._per_prompt import (
    PromptTerms,
    check_ks,
    check_rewards,
    check_scores,
    gain_terms,
    mean_terms,
)
from skqprobe.metrics._soft_best_of_k import soft_best_of_k
from skqprobe.metrics._values import candidate_values, policy_temperature


def policy_report(
    policy,
    X,
    y,
    groups=None,
    ks=(1, 10, 48),
    *,
    n_draws=200,
    n_resamples=9999,
    confidence_level=0.95,
    random_state=None,
):
    """Tabulate the rewards of a policy and its distance from the base model.

    Every figure has a confidence interval, from one bootstrap over prompts.

    Parameters
    ----------
    policy : estimator
        Fitted probe, or any classifier, regressor or ranker. "sampled" uses its
        `temperature` (for a pipeline, that of the last step), or 0 if it has none.
    X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
        Input of the policy, from prompts that were not used to train or choose it.
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    ks : sequence of int, default=(1, 10, 48)
        Numbers of candidates to choose from. Numbers above the size of the largest
        prompt are reduced to it. Prompts with fewer than k candidates are left out for
        that k.
    n_draws : int, default=200
        Number of random sets of k candidates per prompt for "sampled" and the distance,
        where these are not exact; see `soft_best_of_k_reward`.
    n_resamples : int, default=9999
        Number of resamples of the prompts.
    confidence_level : float, default=0.95
        Level of the interval, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws and the resamples.

    Returns
    -------
    table : DataFrame
        Columns "value", "low" and "high"; for each k the rows

        - "base": reward of a random candidate;
        - "greedy": reward of the best candidate by the policy's values;
        - "sampled": reward of the choice at the policy's temperature;
        - "oracle": reward of the best candidate by reward;
        - "recovery": (greedy - base) / (oracle - base), NaN if there is no possible
          gain;
        - "kl": log k - H of the sampled choice, in nats, an upper estimate of its KL
          divergence from the base model;
        - "effective candidates": exp H of the sampled choice.

    Raises
    ------
    ImportError
        If pandas is not installed.

    Warns
    -----
    UndefinedMetricWarning
        If a recovery is undefined in some of the resamples.

    Examples
    --------
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.metrics import policy_report
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = QProbePolicy("log_loss", temperature=0.5).fit(X[:120], y[:120])
    >>> table = policy_report(policy, X[120:], y[120:], ks=[1, 16], random_state=0)
    >>> table.loc[16, "value"].loc[["base", "greedy", "oracle"]].round(1).tolist()
    [0.4, 0.8, 1.0]
    """
    pandas = import_optional("pandas", needed_by="policy_report", extra="frame")
    rewards, layout = check_rewards(y, groups)
    values = check_scores(candidate_values(policy, X), layout, "the output of policy")
    most = layout.sizes.max()
    ks, _ = check_ks(sorted({min(k, most) for k in ks}), layout, "skip")
    soft = soft_best_of_k(
        rewards, values, ks, policy_temperature(policy), layout, n_draws, random_state
    )
    base = base_of_k(rewards, ks, layout)
    greedy = best_of_k(rewards, values, ks, layout)
    oracle = best_of_k(rewards, rewards, ks, layout)
    figures = {
        "base": mean_terms(base),
        "greedy": mean_terms(greedy),
        "sampled": mean_terms(soft.reward),
        "oracle": mean_terms(oracle),
        "recovery": gain_terms(greedy, base, oracle),
        "kl": mean_terms(np.log(ks) - soft.entropy),
        "effective candidates": mean_terms(soft.perplexity),
    }
    # One bootstrap, so that all figures have the same resamples.
    estimate = bootstrap_terms(
        PromptTerms(*map(np.hstack, zip(*figures.values(), strict=True))),
        n_resamples=n_resamples,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    table = pandas.DataFrame(
        {"value": estimate.value, "low": estimate.low, "high": estimate.high},
        index=pandas.MultiIndex.from_product([figures, ks.tolist()]),
    )
    table = table.swaplevel().rename_axis(["k", "figure"])
    return table.loc[[(k, figure) for k in ks for figure in figures]]
