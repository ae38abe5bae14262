"""expand_prefixes: beginnings of completions, with the rewards of the whole ones."""

import re
from numbers import Integral

import numpy as np

from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe.embedders._causal_lm import CausalLMEmbedder
from skqprobe.embedders._inputs import find_surrogate, flatten_records


def expand_prefixes(records, every, embedder=None):
    """Convert records to rows of prefixes, to fit a value of unfinished completions.

    A completion is cut after each `every` words or tokens. Each prefix, and the whole
    completion, is a row with the reward of the whole completion. So the value of a
    prefix that is fitted to these rows estimates the mean reward of its continuations
    [1]_. A group has the candidates of one prompt at one cut, which compete when the
    model has written so much. Read more in :doc:`/guide/prefixes`.

    Parameters
    ----------
    records : list of dict
        Records with the keys "prompt" (a text or chat messages), "completions" (a list
        of texts) and, optionally, "rewards" (as many numbers, or lists or dicts of
        them, with None for each reward that failed), as
        :func:`skqprobe.generators.collect` returns them.
    every : int
        Number of words, or of tokens with `embedder`, between two cuts.
    embedder : HiddenStateEmbedder or LikelihoodEmbedder, default=None
        Embedder whose model counts the tokens. It reads a completion and all of its
        prefixes in one pass. If None, words are counted.

    Returns
    -------
    pairs : list of (prompt, prefix), of length n_rows
        Pairs of all records, without the completions that have no reward: it failed,
        or was not asked for. The last prefix of a completion is the whole of it.
    groups : ndarray of object, of shape (n_rows,)
        Tuples (position in `records` of the record, cut). The cut is a multiple of
        `every`; a whole completion belongs to the first one that it does not exceed.
    y : ndarray of float, of shape (n_rows,) or (n_rows, n_objectives), or None
        Rewards of the whole completions, as :func:`flatten_records` returns them.
    sample_weight : ndarray of shape (n_rows,)
        1 divided by the number of rows of the completion: a long one counts as much as
        a short one.

    Raises
    ------
    ValueError
        If `every` is not an integer of 1 or more, `embedder` does not read tokens, or
        `records` is malformed; with `embedder`, if a text is not valid Unicode.

    Warns
    -----
    UserWarning
        If rewards failed.

    See Also
    --------
    flatten_records : Rows of whole completions.

    Notes
    -----
    A reward model is fitted to the rows without groups, ``fit(X, y,
    sample_weight=sample_weight)``, and a policy with groups. The rows of one prompt are
    in several groups. To keep them together in cross-validation, pass ``[prompt for
    prompt, _ in groups]`` to the splitter.

    A cut inside a character of several tokens is moved to its end.

    References
    ----------
    .. [1] Mudgal, Lee, Ganapathy, Li, Wang, Huang, Chen, Cheng, Collins, Strohman,
       Chen, Beutel, Beirami, "Controlled decoding from language models", ICML 2024,
       arXiv 2310.17022.

    Examples
    --------
    >>> from skqprobe.embedders import expand_prefixes
    >>> texts = [" one two three", " 1"]
    >>> records = [{"prompt": "Count:", "completions": texts, "rewards": [1, 0]}]
    >>> pairs, groups, y, sample_weight = expand_prefixes(records, every=2)
    >>> pairs
    [('Count:', ' one two'), ('Count:', ' one two three'), ('Count:', ' 1')]
    >>> groups.tolist(), y, sample_weight
    ([(0, 2), (0, 4), (0, 2)], array([1., 1., 0.]), array([0.5, 0.5, 1. ]))
    """
    if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every must be an integer of 1 or more; got {every!r}.")
    if not (embedder is None or isinstance(embedder, CausalLMEmbedder)):
        raise ValueError(
            "embedder must be a HiddenStateEmbedder, a LikelihoodEmbedder or None; got "
            f"{type(embedder).__name__}. Others read no tokens: leave it out to count "
            "words."
        )
    pairs, numbers, y = flatten_records(records)
    if embedder is None:
        cut = _cut_words
    else:
        cut = load_causal_lm(embedder).cut
        for _, text in pairs:
            if error := find_surrogate(text):
                raise ValueError(
                    f"The completion {text[:40]!r} is not valid Unicode: {error}."
                )
    prefixes = [cut(completion, int(every)) for _, completion in pairs]
    sizes = [len(texts) for texts in prefixes]
    rows = [
        (prompt, prefix)
        for (prompt, _), texts in zip(pairs, prefixes, strict=True)
        for prefix in texts.values()
    ]
    groups = np.empty(len(rows), dtype=object)
    groups[:] = [
        (int(number), n)
        for number, texts in zip(numbers, prefixes, strict=True)
        for n in texts
    ]
    y = None if y is None else y[np.repeat(np.arange(len(sizes)), sizes)]
    return rows, groups, y, np.repeat(1 / np.array(sizes), sizes)


def _cut_words(text, every):
    """Return a dict of the prefixes of 1, 2, ... times `every` words, and the text."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    texts = [*(text[:end] for end in ends[every - 1 : -1 : every]), text]
    return {every * (i + 1): prefix for i, prefix in enumerate(texts)}
