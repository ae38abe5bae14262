"""Metrics: rewards of policies and distances from the base model, with intervals."""

from skqprobe._utils.public import set_module
from skqprobe.metrics._bootstrap import Estimate, prompt_bootstrap
from skqprobe.metrics._certainty import (
    RiskCoverage,
    conformal_threshold,
    risk_coverage,
)
from skqprobe.metrics._cost import RewardAtCost, reward_at_cost
from skqprobe.metrics._distance import (
    best_of_k_kl_bound,
    effective_candidates,
    kl_upper_estimate,
)
from skqprobe.metrics._objectives import (
    WeightMixture,
    objective_rewards,
    weights_at_cost,
)
from skqprobe.metrics._pareto import hypervolume, pareto_front
from skqprobe.metrics._report import policy_report
from skqprobe.metrics._rewards import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    oracle_reward,
    recovery,
    soft_best_of_k_reward,
    softmax_reward,
    win_rate,
)
from skqprobe.metrics._scorers import (
    CandidateScorer,
    best_of_k_scorer,
    expected_reward_scorer,
    recovery_scorer,
)
from skqprobe.metrics._values import candidate_values

__all__ = [
    "CandidateScorer",
    "Estimate",
    "RewardAtCost",
    "RiskCoverage",
    "WeightMixture",
    "base_reward",
    "best_of_k_kl_bound",
    "best_of_k_reward",
    "best_of_k_scorer",
    "candidate_values",
    "conformal_threshold",
    "effective_candidates",
    "expected_reward",
    "expected_reward_scorer",
    "hypervolume",
    "kl_upper_estimate",
    "objective_rewards",
    "oracle_reward",
    "pareto_front",
    "policy_report",
    "prompt_bootstrap",
    "recovery",
    "recovery_scorer",
    "reward_at_cost",
    "risk_coverage",
    "soft_best_of_k_reward",
    "softmax_reward",
    "weights_at_cost",
    "win_rate",
]

set_module(globals())
