"""Loader of the "two words" data set."""

from importlib.resources import files

import numpy as np
from sklearn.utils import Bunch

from skqprobe._utils.optional import import_optional

# First letter of the feature names, for each value of `embedding`.
_FEATURE_LETTERS = {"hidden_state": "h", "minilm": "m"}


def load_two_words(*, embedding="hidden_state", return_X_y=False, as_frame=False):
    """Load the "two words" data set: 240 prompts with 16 rewarded completions each.

    Each prompt asks for one sentence with two given words. The completions were
    sampled from a small language model, SmolLM2-135M-Instruct. A completion has
    reward 1 if it is one sentence of under 15 words that contains both words, and
    reward 0 otherwise.

    =======================  ==========================================
    Prompts                  240
    Completions per prompt   16
    Features                 576 ("hidden_state") or 384 ("minilm")
    Reward                   0 or 1
    =======================  ==========================================

    Parameters
    ----------
    embedding : {"hidden_state", "minilm"}, default="hidden_state"
        Embedding to load as features.

        - "hidden_state": hidden state of the language model after layer 18 of 30, at
          the last token of the completion.
        - "minilm": sentence embedding of the two words and the completion by another
          model, all-MiniLM-L6-v2, with unit length.

    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    as_frame : bool, default=False
        If True, `data` is a DataFrame and `target` a Series, with one row per
        completion and the prompts as the index. This requires pandas.

    Returns
    -------
    data : Bunch
        Dictionary-like object, with the following attributes.

        data : ndarray of shape (240, 16, n_features), dtype float16, or DataFrame
            The features. With ``as_frame=True``, a DataFrame of shape
            (3840, n_features) and dtype float32: the 16 completions of the first
            prompt, then those of the second, and so on. Its index, named
            "prompt", contains the two words of each row's prompt.
        target : ndarray of shape (240, 16), dtype float64, or Series
            The rewards. With ``as_frame=True``, a Series named "reward" with the
            index of `data`.
        feature_names : list of str
            Names of the features: "h0", "h1", ... for "hidden_state", and "m0",
            "m1", ... for "minilm".
        frame : None or DataFrame of shape (3840, n_features + 1)
            `data` and `target` in one DataFrame, with ``as_frame=True``.
        words : ndarray of str of shape (240, 2)
            The two words of each prompt. No word occurs in two prompts.
        prompts : ndarray of str of shape (240,)
            Texts given to the language model: four examples, then the two words.
        completions : ndarray of str of shape (240, 16)
            Texts written by the language model, without the end token. The full
            text is prompt + completion. A non-empty completion begins with a space.
        log_likelihood : ndarray of shape (240, 16), dtype float32
            Sum of the log-probabilities of the sampled tokens given the prompt,
            including the token that ended the completion.
        n_tokens : ndarray of shape (240, 16), dtype int16
            Number of tokens in that sum, at least 1.
        DESCR : str
            Full description of the data set.
        filename : str
            Path of the data file.

    (data, target) : tuple if ``return_X_y=True``
        The attributes `data` and `target` of the Bunch.

    Raises
    ------
    ValueError
        If `embedding` is not one of the choices.
    ImportError
        If `as_frame` is True and pandas is not installed.

    Notes
    -----
    Keep the completions of a prompt together when splitting the data. Split sets
    (the default) along the first axis, and the DataFrame with ``groups=X.index``.

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

    Mean reward of a random completion, of the most likely and of the best of the 16:

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
    pd = import_optional("pandas", needed_by="as_frame=True", extra="frame")
    labels = np.repeat([" ".join(pair) for pair in words], target.shape[1])
    X = pd.DataFrame(
        data.reshape(-1, data.shape[-1]).astype(np.float32),
        columns=feature_names,
        # scikit-learn cannot index strings of pyarrow, as groups.
        index=pd.Index(labels, dtype=object, name="prompt"),
    )
    y = pd.Series(target.ravel(), index=X.index, name="reward")
    return X.assign(reward=y.to_numpy()), X, y
