"""TextStatistics: length, marks and repetition of a completion."""

import re
import unicodedata
import zlib
from collections import Counter

import numpy as np

from skqprobe.embedders._base import BaseEmbedder

NAMES = [
    "log_characters",
    "log_words",
    "log_lines",
    "digit_share",
    "punctuation_share",
    "code_share",
    "list_share",
    "heading_share",
    "compression_ratio",
]

_FENCE = re.compile(r"\s*(```|~~~)")
_LIST = re.compile(r"\s*([-*+•]|\d{1,3}[.)])\s")
_HEADING = re.compile(r"#{1,6}\s")
_INDENT = re.compile(r"(\t| {4})\s*\S")


class TextStatistics(BaseEmbedder):
    r"""Describe a completion by its length, its marks and its repetition.

    The nine features are those of the completion alone:

    - ``log_characters``, ``log_words``, ``log_lines``: log(1 + n) of its numbers of
      characters, of words between blanks, and of lines;
    - ``digit_share``, ``punctuation_share``: shares of its characters that are digits,
      and punctuation or symbols;
    - ``code_share``: share of its lines in a fenced block, or indented by a tab or four
      spaces;
    - ``list_share``, ``heading_share``: shares of its other lines that begin with the
      mark of a list item ("-", "*", "+", "•", "1.", "1)"), and of a heading ("#");
    - ``compression_ratio``: number of bytes after compression by zlib, over the number
      before, at most 1. Repetition makes it small.

    Any reward that favors length teaches a probe on these features to choose long
    completions. Read more in :doc:`/guide/embedders`.

    X is a list of texts; a list of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or a list of records, ``{"prompt": ...,
    "completions": [...]}``, which give candidate sets.

    Attributes
    ----------
    n_features_out_ : int
        Number of features, 9.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.

    Raises
    ------
    ValueError
        If a completion is not valid Unicode.

    See Also
    --------
    LikelihoodEmbedder : Likelihood of a completion under a language model.

    Examples
    --------
    >>> from skqprobe.embedders import TextStatistics
    >>> records = [{"prompt": "Name pets.", "completions": ["- dog\n- cat", "A dog."]}]
    >>> statistics = TextStatistics()
    >>> statistics.fit_transform(records).round(2)
    array([[[2.48, 1.61, 1.1 , 0.  , 0.18, 0.  , 1.  , 0.  , 1.  ],
            [1.95, 1.1 , 0.69, 0.  , 0.17, 0.  , 0.  , 0.  , 1.  ]]],
          dtype=float32)
    """

    _parameter_constraints: dict = {}
    _view = "statistics"
    batch_size = 1000
    dtype = "float32"
    cache = None
    progress = False

    def make_texts(self, X):
        """Return the completions.

        Parameters
        ----------
        X : TextInput
            Prompts and completions, one per row.

        Returns
        -------
        texts : list of str
            Completions, one per row.
        """
        return X.completions

    def embed_batch(self, texts):
        """Describe a batch of completions.

        Parameters
        ----------
        texts : list of str
            Completions.

        Returns
        -------
        features : ndarray of shape (len(texts), 9)
            Features of the completions.
        """
        return np.array([_describe(text) for text in texts])

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str objects, of shape (9,)
            Names of the features.
        """
        return np.array([f"{self._view}__{name}" for name in NAMES], dtype=object)


def _describe(text):
    lines, content = text.splitlines(), text.encode()
    sizes = np.log1p([len(text), len(text.split()), len(lines)])
    kinds: Counter[str] = Counter()
    for character, n in Counter(text).items():
        kinds[unicodedata.category(character)[0]] += n
        kinds["digit"] += n * character.isdigit()
    marks = _count_marks(lines)
    compressed = len(zlib.compress(content, wbits=-15))  # without a header
    return [
        *sizes,
        kinds["digit"] / max(len(text), 1),
        (kinds["P"] + kinds["S"]) / max(len(text), 1),
        *(marks[kind] / max(len(lines), 1) for kind in ("code", "list", "heading")),
        min(compressed / max(len(content), 1), 1),
    ]


def _count_marks(lines):
    """Count the lines of code, the list items and the headings."""
    marks: Counter[str] = Counter()
    inside = False
    for line in lines:
        fence = _FENCE.match(line) is not None
        if inside or fence:
            marks["code"] += 1
            inside ^= fence
        elif _LIST.match(line):
            marks["list"] += 1
        elif _HEADING.match(line):
            marks["heading"] += 1
        elif _INDENT.match(line):
            marks["code"] += 1
    return marks
