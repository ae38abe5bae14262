"""Q-probes for scikit-learn: choose among a language model's samples by reward.

Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for Language Models",
ICML 2024, arXiv 2402.14688.
"""

from skqprobe._candidates.sampling import sample_candidates
from skqprobe._estimators.bayesian import BayesianQProbePolicy
from skqprobe._estimators.calibrated import CalibratedPolicyCV
from skqprobe._estimators.policy import QProbePolicy
from skqprobe._estimators.policy_cv import QProbePolicyCV
from skqprobe._estimators.regressor import QProbeRegressor
from skqprobe._pipeline import ProbePipeline, make_probe_pipeline
from skqprobe._utils.public import set_module
from skqprobe.generators._answer_vote import AnswerVote

__version__ = "0.1.0.dev0"

__all__ = [
    "AnswerVote",
    "BayesianQProbePolicy",
    "CalibratedPolicyCV",
    "ProbePipeline",
    "QProbePolicy",
    "QProbePolicyCV",
    "QProbeRegressor",
    "__version__",
    "make_probe_pipeline",
    "sample_candidates",
]

set_module(globals())
