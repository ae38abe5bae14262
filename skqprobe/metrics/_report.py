"""policy_report: rewards and distance from the base model in one table."""

import numpy as np

from skqprobe._candidates.choice import (
    choice_probabilities,
    choice_reward,
    expected_rewards,
)
from skqprobe._candidates.segments import segment_mean
from skqprobe._utils.optional import import_optional
from skqprobe.metrics._best_of_k import base_of_k, best_of_k
from skqprobe.metrics._bootstrap import bootstrap_terms
from skqprobe.metrics._distance import choice_kl
from skqprobe.metrics._per_prompt import (
    PromptTerms,
    check_counts,
    check_rewards,
    check_scores,
    gain_terms,
    mean_terms,
)
from skqprobe.metrics._soft_best_of_k import soft_best_of_k
from skqprobe.metrics._values import (
    candidate_values,
    policy_temperature,
    weighted_rewards,
)


def policy_report(
    policy,
    X,
    y,
    groups=None,
    ks=None,
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
        Rewards; or several per candidate, along a last axis, which the
        `objective_weights` of the policy weight.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    ks : int or sequence of int, default=None
        Numbers of candidates to choose from. Numbers above the size of the largest
        prompt are reduced to it. Prompts with fewer than k candidates are left out of
        all lines of that k. None takes 1, 10 and 48, reduced to the size of the
        smallest prompt.
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
        Columns "value", "low", "high" and "n_prompts", the number of prompts that
        inform the value. For each k and, if prompts differ in size, for "all"
        candidates of each prompt, it has the lines

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
        If the interval of a reward of the base or the policy, or of the recovery, is
        unreliable: fewer than 10 of more prompts inform it, or all have the same value.

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
    rewards, layout = check_rewards(weighted_rewards(policy, X, y, groups), groups)
    labels = groups if len(layout.shape) == 1 else None
    values = candidate_values(policy, X, labels)
    values = check_scores(values, layout, "the output of policy")
    fewest, most = layout.sizes.min(), layout.sizes.max()
    ks = np.minimum((1, 10, 48), fewest) if ks is None else check_counts(ks, "ks")
    ks = np.unique(np.minimum(ks, most))
    temperature = policy_temperature(policy)
    soft = soft_best_of_k(
        rewards, values, ks, temperature, layout, n_draws, random_state
    )
    # Per prompt: base, greedy, sampled, oracle, divergence, effective candidates.
    by_prompt = [
        base_of_k(rewards, ks, layout),
        best_of_k(rewards, values, ks, layout),
        soft.reward,
        best_of_k(rewards, rewards, ks, layout),
        np.log(ks) - soft.entropy,
        soft.perplexity,
    ]
    lines = ks.tolist()
    if fewest < most:
        lines.append("all")
        of_all = _among_all(rewards, values, temperature, layout)
        by_prompt = list(map(np.column_stack, zip(by_prompt, of_all, strict=True)))
    base, greedy, sampled, oracle, kl, effective = by_prompt
    figures = {
        "base": mean_terms(base),
        "greedy": mean_terms(greedy),
        "sampled": mean_terms(sampled),
        "oracle": mean_terms(oracle),
        "recovery": gain_terms(greedy, base, oracle),
        "kl": mean_terms(kl),
        "effective candidates": mean_terms(effective),
    }
    # One bootstrap, so that all figures have the same resamples. Those in `no_warning`
    # are often equal for all prompts: if the best candidate is chosen, or at k=1.
    no_warning = {"oracle", "kl", "effective candidates"}
    terms = PromptTerms(*map(np.hstack, zip(*figures.values(), strict=True)))
    estimate = bootstrap_terms(
        terms,
        names=[
            None if figure in no_warning else f"{figure!r} at k={k}"
            for figure in figures
            for k in lines
        ],
        n_resamples=n_resamples,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    table = pandas.DataFrame(
        {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n_prompts": np.count_nonzero(terms.denominator, axis=0),
        },
        index=pandas.MultiIndex.from_product([figures, lines]),
    )
    table = table.swaplevel().rename_axis(["k", "figure"])
    return table.loc[[(k, figure) for k in lines for figure in figures]]


def _among_all(rewards, values, temperature, layout):
    """Compute the figures per prompt for the choice among all of its candidates."""
    proba = choice_probabilities(values, layout, temperature)
    kl = choice_kl(proba, layout)
    return [
        segment_mean(rewards, layout.offsets),
        choice_reward(values, rewards, layout, 0),
        expected_rewards(proba, rewards, layout),
        choice_reward(rewards, rewards, layout, 0),
        kl,
        layout.sizes * np.exp(-kl),
    ]
