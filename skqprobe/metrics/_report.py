"""policy_report: rewards and distance from the base model in one table."""

from dataclasses import dataclass

import numpy as np

from skqprobe._arrays.magnitude import check_magnitude
from skqprobe._candidates.validation import check_scored, check_values
from skqprobe.metrics._averages import check_has_groups, check_ks, prompt_mean
from skqprobe.metrics._best_of_k import (
    base_of_k,
    best_of_k,
    share_of_gain,
    soft_best_of_k,
)
from skqprobe.metrics._bootstrap import bootstrap_weights
from skqprobe.metrics._scorers import candidate_values, policy_temperature


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
    """Tabulate how much better the chosen candidates are, each figure with interval.

    Parameters
    ----------
    policy : estimator
        A fitted probe, or any classifier, regressor or ranker. "sampled" uses its
        `temperature` (of a pipeline, that of the last step), 0 where it has none.
    X : array-like of shape (n_prompts, m, n_features) or (n_rows, n_features)
        Embeddings, or what the policy takes; of prompts that were not used to train or
        choose the policy.
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    ks : sequence of int, default=(1, 10, 48)
        Numbers of candidates to choose from. Those above the largest prompt are cut
        down to it; for the others prompts that have fewer are left out.
    n_draws : int, default=200
        Random sets of k candidates a prompt for "sampled" and the distance, where they
        are not exact; see `soft_best_of_k_reward`.
    n_resamples : int, default=9999
        How many times the bootstrap resamples the prompts.
    confidence_level : float, default=0.95
        Of the intervals.
    random_state : int, RandomState instance or None, default=None
        Determines the draws and the resamples.

    Returns
    -------
    table : DataFrame, or Table where pandas is not installed
        Columns "value", "low" and "high"; for each k the rows

        - "base": reward of a random candidate;
        - "greedy": reward of the best by the policy's values;
        - "sampled": reward of the choice at the policy's temperature;
        - "oracle": reward of the truly best;
        - "recovery": (greedy - base) / (oracle - base), NaN where there is no gain;
        - "kl": log k - H of the sampled choice, in nats, an upper estimate of its KL
          divergence from the base model;
        - "effective candidates": exp H of the sampled choice.

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
    rewards, layout = check_scored(y, groups, "y")
    check_has_groups(layout, "y")
    check_magnitude(rewards, "y")
    values = candidate_values(policy, X)
    values = layout.to_prompt_order(
        check_values(values, layout.shape, "the policy's values")
    )
    most = layout.sizes.max()
    ks, _ = check_ks(sorted({min(k, most) for k in ks}), layout, "skip")
    soft = soft_best_of_k(
        rewards, values, ks, policy_temperature(policy), layout, n_draws, random_state
    )
    by_prompt = np.stack(
        [
            base_of_k(rewards, ks, layout),
            best_of_k(rewards, values, ks, layout),
            soft.reward,
            best_of_k(rewards, rewards, ks, layout),
            np.log(ks) - soft.entropy,
            soft.perplexity,
        ]
    )
    # One bootstrap for all figures, so that all have the same resamples.
    n_figures, n_prompts, n_k = by_prompt.shape
    columns = by_prompt.transpose(1, 0, 2).reshape(n_prompts, n_figures * n_k)

    def statistic(weight):
        means = prompt_mean(columns, weight).reshape(len(weight), n_figures, n_k)
        base, greedy, sampled, oracle, kl, effective = np.moveaxis(means, 1, 0)
        share = share_of_gain(greedy, base, oracle)
        rows = [base, greedy, sampled, oracle, share, kl, effective]
        return np.stack(rows, axis=2).reshape(len(weight), n_k * len(rows))

    estimate = bootstrap_weights(
        statistic, n_prompts, n_resamples, confidence_level, random_state
    )
    index = [(int(k), figure) for k in ks for figure in FIGURES]
    return _table(index, estimate)


FIGURES = ["base", "greedy", "sampled", "oracle", "recovery", "kl"]
FIGURES += ["effective candidates"]


def _table(index, estimate):
    columns = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    try:
        import pandas as pd
    except ImportError:
        return Table(index, columns)
    index = pd.MultiIndex.from_tuples(index, names=["k", "figure"])
    return pd.DataFrame(columns, index=index)


@dataclass(frozen=True, repr=False)
class Table:
    """What `policy_report` gives where pandas is not installed.

    Parameters
    ----------
    index : list of (int, str)
        k and the name of the figure, by row.
    columns : dict of str to ndarray
        "value", "low" and "high".
    """

    index: list[tuple[int, str]]
    columns: dict[str, np.ndarray]

    def _cells(self):
        yield ["k", "figure", *self.columns]
        for (k, figure), *row in zip(self.index, *self.columns.values(), strict=True):
            yield [
                k if figure == FIGURES[0] else "",
                figure,
                *map("{:.3f}".format, row),
            ]

    def __repr__(self):
        return "\n".join(
            "{:>6}  {:<20} {:>8} {:>8} {:>8}".format(*row) for row in self._cells()
        )

    def _repr_html_(self):
        head, *body = ("<td>".join(map(str, row)) for row in self._cells())
        rows = "".join(f"<tr><td>{row}" for row in body)
        return f"<table><tr><th>{head.replace('td', 'th')}{rows}</table>"
