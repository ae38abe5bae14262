"""Cases that several test modules share: losses by kind, and estimators.

pyproject.toml puts this folder on the path, so that tests can import it.
"""

from skqprobe.losses import LOSSES

PAIRWISE = [name for name in LOSSES if name.startswith("pairwise")]
SHIFT_INVARIANT = [name for name in LOSSES if LOSSES[name].shift_invariant]
LEAST_SQUARES = [name for name in LOSSES if hasattr(LOSSES[name], "least_squares")]
