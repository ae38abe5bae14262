"""Measure how many candidates a stopping rule saves, and how good predictions are.

    python benchmarks/cost.py          # about ten minutes
    python benchmarks/cost.py --quick

One half of the prompts trains, the other one measures, for `N_HALVES` random halves.
Prompts of a group stay together. The policy is `QProbePolicyCV` with ``log_loss`` on
scaled columns, in a `CalibratedPolicyCV`. Nothing is chosen by rewards of the measuring
prompts. Intervals are over prompts, with 95% of the resamples.

**Candidates.** `ExpectedGain` is fitted to the held-out predictions of the training
prompts, for `COSTS`. For the reward of the best of k, the columns are the mean number
of candidates at which the rule earns as much, and k divided by it. "pooled" is the rule
without a prior of prompts: the gain is that of all training candidates, so that it
stops at the first value above a threshold.

**Calibration.** Expected calibration error of the reward that is predicted for the
chosen candidate: the mean difference between predicted and earned reward in `N_BINS`
bins of equal size. "sampling" is the error that a correct prediction would have, since
a bin has few prompts. "log_loss" is the probability of the probe, without calibration.

**Votes.** Mean reward on numbers (gsm), where the completions end with an answer: of a
random candidate, the best one by value, the most frequent answer, with equal numbers
decided at random ("count") or by the best value ("count, value"), and the answer with
the most probability. The policy is `make_probe_pipeline`, with ``log_loss``. The
temperature of the vote is the best of `TEMPERATURES` on held-out training prompts.
"""

import time
from dataclasses import dataclass

import numpy as np
from _command import QUICK_NOTE, make_parser, versions
from _data import load
from _intervals import mean_interval
from _output import format_interval, print_data, print_pairs, write_json
from scipy.special import expit
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import (
    AnswerVote,
    CalibratedPolicyCV,
    QProbePolicyCV,
    make_probe_pipeline,
)
from skqprobe.generators import ExpectedGain, Threshold
from skqprobe.metrics import best_of_k_reward, reward_at_cost
from skqprobe.preprocessing import PerCandidate

PARTS = ("candidates", "calibration", "votes")
OF_CANDIDATES = ("two_words", "alpacaeval_gpt4")
OF_CALIBRATION = ("two_words", "hh_harmless")
OF_VOTES = "gsm"
N_HALVES, N_ORDERS, N_RESAMPLES, N_BINS = 10, 12, 2000, 10
TEMPERATURES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
COSTS = tuple(np.geomspace(5e-5, 0.2, 60).tolist())
KS = (2, 4, 8, 16, 32)


def make_policy(method="isotonic"):
    """Make the calibrated policy."""
    probe = QProbePolicyCV(["log_loss"], alphas=(10.0, 1.0, 0.1, 0.01, 0.001))
    pipeline = make_pipeline(PerCandidate(StandardScaler()), probe)
    return CalibratedPolicyCV(pipeline, method)


def halves(data, n_halves):
    """Yield training and measuring prompts: random halves of the groups."""
    labels = np.unique(data.groups)
    for seed in range(n_halves):
        order = np.random.default_rng(seed).permutation(labels)
        in_train = np.isin(data.groups, order[: len(labels) // 2])
        yield np.flatnonzero(in_train), np.flatnonzero(~in_train)


# Candidates


@dataclass
class Curves:
    """Sums per prompt over the halves that measured it.

    Parameters
    ----------
    fixed : ndarray of shape (n_prompts, n_ks)
        Rewards of the best of k.
    n_drawn, reward : dict of str to ndarray of shape (n_prompts, n_settings)
        Candidates and rewards of each rule and setting.
    """

    fixed: np.ndarray
    n_drawn: dict
    reward: dict


def rules(values):
    """Make the settings of each rule, fitted to values of training prompts."""
    thresholds = np.quantile(values, np.linspace(0.02, 1, len(COSTS)))
    return {
        "gain": [ExpectedGain(cost).fit(values) for cost in COSTS],
        "pooled": [Threshold(float(value)) for value in thresholds],
    }


def measure_candidates(data, n_halves):
    """Measure rules on the halves; return curves and the numbers k."""
    n, m = data.y.shape
    ks = [k for k in KS if k < m]
    zeros = {name: np.zeros((n, len(COSTS))) for name in ("gain", "pooled")}
    curves = Curves(
        np.zeros((n, len(ks))),
        zeros,
        {name: each.copy() for name, each in zeros.items()},
    )
    times = np.zeros(n)
    for seed, (train, test) in enumerate(halves(data, n_halves)):
        policy = make_policy("sigmoid").fit(data.X[train], data.y[train])
        y, values = data.y[test], policy.predict_rewards(data.X[test])
        curves.fixed[test] += best_of_k_reward(y, values, ks, average=None)
        times[test] += 1
        for name, settings in rules(policy.held_out_rewards_).items():
            for j, rule in enumerate(settings):
                found = reward_at_cost(
                    y,
                    values,
                    rule,
                    random_state=seed,
                    n_orders=N_ORDERS,
                    average=None,
                )
                curves.n_drawn[name][test, j] += found.n_drawn
                curves.reward[name][test, j] += found.reward
    return curves, times, ks


def equal_candidates(fixed, n_drawn, reward):
    """Interpolate the mean number of candidates that earns each fixed reward."""
    order = np.argsort(n_drawn)
    earned = np.maximum.accumulate(reward[order])
    return np.interp(fixed, earned, n_drawn[order])


def summarize_candidates(curves, times, ks):
    """Compute the numbers of candidates and their ratios, with intervals."""
    rng = np.random.default_rng(0)
    n = len(times)
    weight = rng.multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    weight = np.vstack([np.ones(n), weight])
    total = (weight @ times)[:, None]
    fixed = weight @ curves.fixed / total
    lines = [{"k": k, "reward": float(fixed[0, i])} for i, k in enumerate(ks)]
    for name in curves.n_drawn:
        n_drawn = weight @ curves.n_drawn[name] / total
        reward = weight @ curves.reward[name] / total
        each = zip(fixed, n_drawn, reward, strict=True)
        equal = [equal_candidates(*arrays) for arrays in each]
        ratio = np.array(ks) / np.array(equal)
        low, high = np.quantile(ratio[1:], [0.025, 0.975], axis=0)
        for i, line in enumerate(lines):
            line[f"{name} n_drawn"] = float(equal[0][i])
            ends = {"value": ratio[0, i], "low": low[i], "high": high[i]}
            line[f"{name} ratio"] = {end: float(value) for end, value in ends.items()}
    return lines


def print_candidates(lines):
    """Print one line per k."""
    print(f"{'k':>3}  reward  candidates  {'ratio':22}pooled  ratio")
    for line in lines:
        print(
            f"{line['k']:3}  {line['reward']:.3f}  {line['gain n_drawn']:10.2f}  "
            f"{format_interval(line['gain ratio']):22}{line['pooled n_drawn']:6.2f}  "
            f"{format_interval(line['pooled ratio'])}",
            flush=True,
        )


# Calibration


def calibration_error(predicted, rewards):
    """Compute the expected calibration error in bins of equal size."""
    bins = np.array_split(np.argsort(predicted, kind="stable"), N_BINS)
    gaps = [abs(predicted[b].mean() - rewards[b].mean()) * len(b) for b in bins]
    return sum(gaps) / len(predicted)


def sampling_error(predicted, n_draws=200):
    """Compute the mean calibration error of correct predictions of rewards 0 and 1."""
    rng, p = np.random.default_rng(0), np.clip(predicted, 0, 1)
    drawn = rng.random((n_draws, len(p))) < p
    return np.mean([calibration_error(p, each) for each in drawn])


def measure_calibration(data, n_halves):
    """Measure predictions on the halves: (error, sampling error) by name."""
    found: dict = {"isotonic": [], "sigmoid": [], "linear": [], "log_loss": []}
    for train, test in halves(data, n_halves):
        for method in ("isotonic", "sigmoid", "linear"):
            policy = make_policy(method).fit(data.X[train], data.y[train])
            chosen = policy.predict(data.X[test])
            earned = data.y[test, chosen]
            predicted = policy.predict_reward(data.X[test])
            figures = calibration_error(predicted, earned), sampling_error(predicted)
            found[method].append(figures)
        plain = expit(policy.decision_function(data.X[test]).max(axis=1))
        figures = calibration_error(plain, earned), sampling_error(plain)
        found["log_loss"].append(figures)
    return {name: np.array(each).tolist() for name, each in found.items()}


def print_calibration(found):
    """Print the means over the halves, and the largest excess."""
    print(f"{'prediction':12}{'error':>7}{'sampling':>10}{'excess':>8}{'largest':>9}")
    for name, figures in found.items():
        error, sampling = np.transpose(figures)
        excess = error - sampling
        print(
            f"{name:12}{error.mean():7.3f}{sampling.mean():10.3f}{excess.mean():8.3f}"
            f"{excess.max():9.3f}",
            flush=True,
        )


# Votes


def make_vote(train):
    """Fit a vote, whose temperature is set later."""
    pipeline = make_probe_pipeline(["log_loss"])
    return AnswerVote(pipeline).fit(train.X, train.y)


def select_temperature(data, train):
    """Select the temperature with the highest reward of the vote, in three folds."""
    total = np.zeros(len(TEMPERATURES))
    for fit, held_out in GroupKFold(3).split(train, groups=data.groups[train]):
        vote = make_vote(data.take(train[fit]))
        X, y = data.X[train[held_out]], data.y[train[held_out]]
        of_held_out = data.answers[train[held_out]]
        for j, temperature in enumerate(TEMPERATURES):
            vote.policy_[-1].set_params(temperature=temperature)
            total[j] += vote.score(X, y, answers=of_held_out) * len(y)
    return TEMPERATURES[total.argmax()]


def measure_votes(data, n_halves):
    """Measure choices and votes on the halves: mean reward per prompt, by name."""
    names = "base", "plain", "count", "count, value", "softmax"
    total: dict = {name: np.zeros(len(data.y)) for name in names}
    times = np.zeros(len(data.y))
    for train, test in halves(data, n_halves):
        X, y = data.X[test], data.y[test]
        vote = make_vote(data.take(train))
        temperature = select_temperature(data, train)
        vote.policy_[-1].set_params(temperature=temperature)
        values = vote.policy_.decision_function(X)
        of_test = data.answers[test]
        proba = {
            "base": np.ones(y.shape),
            "plain": values == values.max(axis=1, keepdims=True),
            "softmax": vote.predict_proba(X, answers=of_test),
        }
        vote.set_params(weight="count")
        proba["count, value"] = vote.predict_proba(X, answers=of_test)
        alone = AnswerVote(weight="count").fit(X, None)
        proba["count"] = alone.predict_proba(X, answers=of_test)
        for name, p in proba.items():
            total[name][test] += (p * y).sum(axis=1) / p.sum(axis=1)
        times[test] += 1
    kept = times > 0
    return {name: each[kept] / times[kept] for name, each in total.items()}


def print_votes(rewards):
    """Print the rewards, and the differences from the plain choice."""
    figures = {}
    for name, each in rewards.items():
        figures[name] = mean_interval(each, N_RESAMPLES)
        difference = mean_interval(each - rewards["plain"], N_RESAMPLES)
        print(
            f"{name:14}{format_interval(figures[name]):24}"
            f"{format_interval(difference, '+') if name != 'plain' else ''}",
            flush=True,
        )
    return figures


def main(argv=None):
    parser = make_parser(__doc__, "data", "quick", "json", only=PARTS)
    args = parser.parse_args(argv)
    start, n_halves = time.perf_counter(), 2 if args.quick else N_HALVES
    figures: dict = {}
    print_pairs(versions())

    def load_or_say(part, name):
        if part not in (args.only or PARTS):
            return None
        data = load(name, args.data)
        if data is None:
            print(f"\n{part}: left out, there is no {name}.npz")
        else:
            print_data(data.shape(), part)
        return data

    for name in OF_CANDIDATES:
        if (data := load_or_say("candidates", name)) is not None:
            lines = summarize_candidates(*measure_candidates(data, n_halves))
            print_candidates(lines)
            figures[f"candidates, {name}"] = lines
    for name in OF_CALIBRATION:
        if (data := load_or_say("calibration", name)) is not None:
            found = measure_calibration(data, n_halves)
            print_calibration(found)
            figures[f"calibration, {name}"] = found
    data = load_or_say("votes", OF_VOTES)
    if data is not None and data.answers is not None:
        figures["votes"] = print_votes(measure_votes(data, n_halves))
    write_json(args.json, figures)
    print(f"{time.perf_counter() - start:.0f} s")
    if args.quick:
        print(QUICK_NOTE)


if __name__ == "__main__":
    main()
