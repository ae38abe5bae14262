"""The "two words" data set: completions of a small language model, rewarded."""

from importlib.resources import files

import numpy as np
from sklearn.utils import Bunch

# For each choice of `embedding`: the letter that its features are named with.
_FEATURE_LETTERS = {"hidden_state": "h", "minilm": "m"}


def load_two_words(*, embedding="hidden_state", return_X_y=False, as_frame=False):
    """Load the "two words" data set: 240 prompts with 16 rewarded completions each.

    Each prompt asks for one sentence with two given words. The completions were
    sampled from a small language model, SmolLM2-135M-Instruct. A completion has
    reward 1 if it is one sentence of under 15 words that contains both words, and
    reward 0 otherwise.

    =======================  ==========================================
    Prompts                  240
    Completions of a prompt  16
    Features                 576 ("hidden_state") or 384 ("minilm")
    Reward                   0 or 1
    =======================  ==========================================

    Parameters
    ----------
    embedding : {"hidden_state", "minilm"}, default="hidden_state"
        What the features are.

        - "hidden_state": the language model's own hidden state after layer 18 of
          30, at the last token of the completion.
        - "minilm": the sentence embedding that another model, all-MiniLM-L6-v2,
          gives to the two words and the completion; of unit length.

    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    as_frame : bool, default=False
        If True, `data` is a DataFrame and `target` a Series, with a row for each
        completion and the prompts as the index. This needs pandas.

    Returns
    -------
    data : Bunch
        Dictionary-like object, with the following attributes.

        data : ndarray of shape (240, 16, n_features), dtype float16, or DataFrame
            The features. With ``as_frame=True`` a DataFrame of shape
            (3840, n_features) and dtype float32: the 16 completions of the first
            prompt, then those of the second, and so on. Its index, named
            "prompt", says the prompt of each row, as its two words.
        target : ndarray of shape (240, 16), dtype float64, or Series
            The rewards. With ``as_frame=True`` a Series named "reward" with the
            index of `data`.
        feature_names : list of str
            "h0", "h1" and so on for the hidden states, "m0", "m1" for MiniLM.
        frame : None or DataFrame of shape (3840, n_features + 1)
            With ``as_frame=True``: `data` and `target` together.
        words : ndarray of str of shape (240, 2)
            The two words. No two prompts have a word in common.
        prompts : ndarray of str of shape (240,)
            What the language model was given: four examples, then the two words.
        completions : ndarray of str of shape (240, 16)
            What it wrote, without the end token: prompt + completion is the
            whole text. A completion begins with a blank, if not empty.
        log_likelihood : ndarray of shape (240, 16), dtype float32
            Sum of the log-probabilities of the sampled tokens given the prompt,
            the token that ended the completion among them.
        n_tokens : ndarray of shape (240, 16), dtype int16
            The number of tokens in that sum; never 0.
        DESCR : str
            The full description of the data set.
        filename : str
            The path of the file with the data.

    (data, target) : tuple if ``return_X_y=True``
        The two attributes of these names.

    Raises
    ------
    ValueError
        If `embedding` is none of the choices.
    ImportError
        If `as_frame` is True and pandas is not installed.

    Notes
    -----
    The completions of a prompt belong together. Split the data by prompts: the
    sets layout (the default) along its first axis, the frame with
    ``groups=X.index``.

    Examples
    --------
    >>> from skqprobe.datasets import load_two_words
    >>> two_words = load_two_words()
    >>> two_words.data.shape
    (240, 16, 576)
    >>> print(*two_words.words[0])
    pebble puddle
    >>> print(two_words.completions[0, 7].strip())
    A pebble easily falls into a puddle.
    >>> print(two_words.target[0, 7])
    1.0

    A completion at random, the most likely of the 16, and the best of the 16:

    >>> rewards = two_words.target
    >>> likely = two_words.log_likelihood.argmax(axis=1)
    >>> print(f"{rewards.mean():.2f}")
    0.36
    >>> print(f"{rewards[range(240), likely].mean():.2f}")
    0.57
    >>> print(f"{rewards.max(axis=1).mean():.2f}")
    0.96
    """
    if embedding not in list(_FEATURE_LETTERS):
        choices = ", ".join(map(repr, _FEATURE_LETTERS))
        raise ValueError(f"embedding must be one of {choices}; got {embedding!r}")
    folder = files("skqprobe.datasets")
    path = folder.joinpath("data", "two_words.npz")
    with path.open("rb") as stream, np.load(stream) as file:
        data = file[embedding]
        target = file["rewards"].astype(np.float64)
        words = file["words"]
        template = str(file["template"])
        texts_and_numbers = {
            name: file[name] for name in ("completions", "log_likelihood", "n_tokens")
        }
    letter = _FEATURE_LETTERS[embedding]
    feature_names = [f"{letter}{j}" for j in range(data.shape[-1])]
    frame = None
    if as_frame:
        frame, data, target = _to_frame(data, target, words, feature_names)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        frame=frame,
        feature_names=feature_names,
        words=words,
        prompts=np.array([template.format(*pair) for pair in words]),
        **texts_and_numbers,
        DESCR=folder.joinpath("descr", "two_words.rst").read_text(encoding="utf-8"),
        filename=str(path),
    )


def _to_frame(data, target, words, feature_names):
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "load_two_words with as_frame=True needs pandas: pip install pandas"
        ) from error
    labels = np.repeat([" ".join(pair) for pair in words], target.shape[1])
    X = pd.DataFrame(
        data.reshape(-1, data.shape[-1]).astype(np.float32),
        columns=feature_names,
        index=pd.Index(labels, name="prompt"),
    )
    y = pd.Series(target.ravel(), index=X.index, name="reward")
    return X.assign(reward=y.to_numpy()), X, y
