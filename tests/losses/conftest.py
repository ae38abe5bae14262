from itertools import pairwise

import numpy as np
import pytest


@pytest.fixture
def sizes():
    """Sizes with repetitions: pairwise losses compute prompts of one size together."""
    return [3, 1, 6, 3, 2, 1, 6, 4]


@pytest.fixture
def offsets(sizes):
    return np.append(0, np.cumsum(sizes))


@pytest.fixture
def prompts(offsets):
    """Rows of each prompt as slices."""
    return [slice(start, end) for start, end in pairwise(offsets)]


@pytest.fixture
def scores(rng, offsets):
    return rng.normal(scale=0.3, size=offsets[-1])


@pytest.fixture
def rewards(rng, offsets):
    """Multiples of 1/3 in [0, 1]: valid for every loss, and with ties."""
    return rng.integers(0, 4, size=offsets[-1]) / 3


@pytest.fixture(params=[False, True], ids=["unweighted", "weighted"])
def weight(request, rng, offsets):
    """None, or whole numbers of copies."""
    return rng.integers(1, 4, offsets[-1]).astype(float) if request.param else None
