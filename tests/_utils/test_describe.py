import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from skqprobe._utils.describe import describe


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, None),
        (1.5, 1.5),
        (np.float32(2), 2.0),
        ("text", "text"),
        ((1, 2), (1, 2)),
        (Path("folder") / "file", str(Path("folder") / "file")),
        (np.mean, "numpy.mean"),
        (TfidfVectorizer(min_df=2), "TfidfVectorizer(min_df=2)"),
        (
            partial(np.quantile, 0.5, axis=np.int64(1)),
            {"partial": "numpy.quantile", "args": [0.5], "axis": 1},
        ),
        (object(), "builtins.object"),
        (float("nan"), "builtins.float"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_descriptions_are_json_without_addresses(value, expected):
    assert describe(value) == expected
    assert "0x" not in json.dumps(describe(value), allow_nan=False)
