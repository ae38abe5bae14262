"""Displays of the rewards of policies, with the API of scikit-learn's displays."""

from skqprobe._utils.public import set_module
from skqprobe.plotting._pareto import ParetoDisplay
from skqprobe.plotting._prompt_difficulty import PromptDifficultyDisplay
from skqprobe.plotting._q_values import QValueDisplay
from skqprobe.plotting._reward_cost import RewardCostDisplay
from skqprobe.plotting._reward_curve import RewardCurveDisplay
from skqprobe.plotting._reward_kl import RewardKLDisplay
from skqprobe.plotting._risk_coverage import RiskCoverageDisplay

__all__ = [
    "ParetoDisplay",
    "PromptDifficultyDisplay",
    "QValueDisplay",
    "RewardCostDisplay",
    "RewardCurveDisplay",
    "RewardKLDisplay",
    "RiskCoverageDisplay",
]

set_module(globals())
