"""Q-probes for scikit-learn: choose among a language model's samples by reward.

Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for Language Models",
ICML 2024, arXiv 2402.14688.
"""

from skqprobe._choice import sample_candidates
from skqprobe._pipeline import make_probe_pipeline
from skqprobe._policy import QProbePolicy
from skqprobe._policy_cv import QProbePolicyCV
from skqprobe._regressor import QProbeRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "QProbePolicy",
    "QProbePolicyCV",
    "QProbeRegressor",
    "__version__",
    "make_probe_pipeline",
    "sample_candidates",
]
