"""TextStatistics, against counts by hand."""

import zlib

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe.embedders import TextStatistics

NAMES = ["log_characters", "log_words", "log_lines", "digit_share"]
NAMES += ["punctuation_share", "code_share", "list_share", "heading_share"]
NAMES += ["compression_ratio"]
NAMES = [f"statistics__{name}" for name in NAMES]

CASES = {
    "a 2, b!": [7, 3, 1, 1 / 7, 2 / 7, 0, 0, 0, 1],
    "x + 1 = 2\n\n€5": [13, 6, 3, 3 / 13, 3 / 13, 0, 0, 0, 1],  # + = € are symbols
    "¿٣?": [3, 1, 1, 1 / 3, 2 / 3, 0, 0, 0, 1],
    # An indented item of a list is no code, and "-a", "1.5" and "#a" are no marks.
    "# T\n- a\n  * b\n    1) c\n12. d\n-a\n1.5\n#a": (
        [38, 13, 8, 5 / 38, 8 / 38, 0, 4 / 8, 1 / 8, 1]
    ),
    "See:\n```py\n# no\n- x\n```\n    y\n\tz\n    ": (
        [37, 9, 8, 0, 9 / 37, 6 / 8, 0, 0, 32 / 37]
    ),
    "~~~\n- x": [7, 3, 2, 0, 4 / 7, 1, 0, 0, 1],  # a fence that stays open
    "": [0, 0, 0, 0, 0, 0, 0, 0, 1],
}


@pytest.mark.parametrize("text", CASES)
def test_equals_counts_by_hand(text):
    expected = np.array(CASES[text], dtype=float)
    expected[:3] = np.log(1 + expected[:3])
    [found] = TextStatistics().fit_transform([("prompt 1!", text)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_compression():
    """Repetition makes the ratio small; random bytes cannot be compressed."""
    noise = np.random.default_rng(0).integers(33, 127, size=2000)
    texts = ["abc" * 1000, "".join(map(chr, noise))]
    low, high = TextStatistics().transform(texts)[:, -1]
    raw = zlib.compressobj(wbits=-15)
    size = len(raw.compress(texts[0].encode()) + raw.flush())
    np.testing.assert_allclose(low, size / 3000, rtol=1e-6)
    assert low < 0.02
    assert 0.8 < high <= 1


def test_forms_of_input():
    """Chats, rows, sets and frames; the prompt does not count."""
    chat = [{"role": "user", "content": "Name 3 pets!"}]
    records = [
        {"prompt": prompt, "completions": ["- dog\n- cat", "12"]}
        for prompt in (chat, "Pets?")
    ]
    statistics = TextStatistics()
    sets = statistics.fit_transform(records)
    assert sets.shape == (2, 2, 9)
    assert sets.dtype == np.float32
    np.testing.assert_array_equal(sets[0], sets[1])
    rows = statistics.transform(["- dog\n- cat", "12"])
    np.testing.assert_array_equal(rows, sets[0])
    assert statistics.get_feature_names_out().tolist() == NAMES
    assert statistics.view_sizes_ == {"statistics": 9}
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"prompt": ["a"], "completion": ["12"]}, index=[7])
    out = clone(statistics).set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == NAMES
    assert list(out.index) == [7]


def test_bad_unicode_is_named():
    with pytest.raises(ValueError, match=r"X\[1\].*surrogate"):
        TextStatistics().fit_transform([("a", "b"), ("a", "\udfff")])
