"""How text comes in: the one module that knows the forms of prompts and completions."""

import warnings
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TextInput:
    """Prompts and completions, row by row.

    Parameters
    ----------
    prompts : list of (str, list of dict, or None)
        The prompt of each row: text, or chat messages with the keys "role" and
        "content"; None where the rows are plain texts.
    completions : list of str
        The completion (or plain text) of each row.
    shape : tuple of int
        (n_rows,), or (n_prompts, k) where records came in.
    """

    prompts: list[Any]
    completions: list[str]
    shape: tuple[int, ...]


def check_texts(X):
    """Bring texts, pairs or records into rows.

    Parameters
    ----------
    X : list of str, array-like of shape (n, 2), data frame or list of dict
        Plain texts; (prompt, completion) pairs, or a data frame with the columns
        "prompt" and "completion"; or records with the keys "prompt" and "completions",
        all with the same number of completions. A prompt is a string or a list of chat
        messages, ``{"role": ..., "content": ...}``.

    Returns
    -------
    texts : TextInput

    Raises
    ------
    ValueError
        If X is none of these, or records have different numbers of completions.
    """
    if (
        isinstance(X, (str, bytes, Mapping, type))
        or not hasattr(X, "__iter__")
        or getattr(X, "ndim", 1) == 0
    ):
        raise ValueError(
            f"X must be a list of texts, of (prompt, completion) pairs or of records; "
            f"got one {type(X).__name__}. Put it into a list."
        )
    if hasattr(X, "columns"):
        rows = _frame_rows(X)
    else:
        rows = X.tolist() if hasattr(X, "tolist") else list(X)
        # A column of texts, (n, 1), is what a ColumnTransformer hands over.
        if rows and isinstance(rows[0], list) and len(rows[0]) == 1:
            rows = [
                row[0] if isinstance(row, list) and len(row) == 1 else row
                for row in rows
            ]
    if not rows:
        raise ValueError("X is empty; at least one text is needed.")
    if isinstance(rows[0], Mapping):
        return _from_records(rows)
    if isinstance(rows[0], str):
        for i, text in enumerate(rows):
            _check_text(text, f"X[{i}]")
        return TextInput([None] * len(rows), rows, (len(rows),))
    pairs = [_check_pair(pair, f"X[{i}]") for i, pair in enumerate(rows)]
    prompts, completions = map(list, zip(*pairs, strict=True))
    return TextInput(prompts, completions, (len(rows),))


def _frame_rows(X):
    """Rows of a data frame: pairs, or the texts of its one column."""
    columns = list(X.columns)
    if columns.count("prompt") == columns.count("completion") == 1:
        return list(zip(X["prompt"].to_list(), X["completion"].to_list(), strict=True))
    if len(columns) == 1:
        return list(X[columns[0]])
    raise ValueError(
        f"A data frame needs the columns 'prompt' and 'completion', or one column of "
        f"texts; X has {columns}."
    )


def _from_records(records):
    prompts, completions, sizes = _open_records(records)
    if len(set(sizes)) > 1:
        raise ValueError(
            f"The records have {min(sizes)} to {max(sizes)} completions; candidate "
            "sets need the same number for every prompt. Where it differs, use rows: "
            "skqprobe.embedders.flatten_records(records) gives (prompt, completion) "
            "pairs, groups and rewards."
        )
    return TextInput(prompts, completions, (len(records), sizes[0]))


def _open_records(records):
    """Prompts and completions by row, and the number of completions by record."""
    prompts, completions, sizes = [], [], []
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or not {"prompt", "completions"} <= set(
            record
        ):
            raise ValueError(
                f"X[{i}] must be a record with the keys 'prompt' and 'completions'; "
                f"got {_short(record)}."
            )
        prompt = check_prompt(record["prompt"], f"X[{i}]['prompt']")
        texts = record["completions"]
        if not _is_list(texts) or len(texts) == 0:
            raise ValueError(
                f"X[{i}]['completions'] must be a list of at least one text; got "
                f"{_short(texts)}."
            )
        for j, text in enumerate(texts):
            _check_text(text, f"X[{i}]['completions'][{j}]")
        prompts += [prompt] * len(texts)
        completions += list(texts)
        sizes.append(len(texts))
    return prompts, completions, sizes


def _check_pair(pair, name):
    if not _is_list(pair):
        raise ValueError(
            f"{name} must be a (prompt, completion) pair like X[0]; got {_short(pair)}."
        )
    if len(pair) != 2:
        raise ValueError(
            f"{name} must be a (prompt, completion) pair; it has {len(pair)} entries."
        )
    prompt, completion = pair
    _check_text(completion, f"the completion of {name}")
    return check_prompt(prompt, f"the prompt of {name}"), completion


def check_prompt(prompt, name):
    """Validate a prompt: a text, or chat messages, which become a list of dict."""
    if isinstance(prompt, np.ndarray):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        return prompt
    messages = prompt if isinstance(prompt, (list, tuple)) and prompt else [None]
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(
                f"{name} must be a text or a list of chat messages, each with the keys "
                f"'role' and 'content'; got {_short(prompt)}."
            )
        _check_text(message["content"], f"the content of a message in {name}")
    return list(messages)


def _check_text(text, name):
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text; got {_short(text)}.")


def _is_list(value):
    """Whether something is a list, or has a length and an order as one has."""
    unordered = isinstance(value, (str, bytes, Mapping, Set))
    listed = isinstance(value, Collection) and getattr(value, "ndim", 1) > 0
    return listed and not unordered


def _short(value):
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def flatten_records(records):
    """Turn records, with any numbers of completions, into the rows layout.

    Parameters
    ----------
    records : list of dict
        Each with the keys "prompt" (a text or chat messages) and "completions" (a list
        of texts), and perhaps "rewards" (as many numbers, or None where a reward
        failed), as :func:`skqprobe.generators.collect` makes them.

    Returns
    -------
    pairs : list of (prompt, completion)
        One a completion, record by record; without those whose reward failed.
    groups : ndarray of int, of shape (n_rows,)
        The number of the record that each row comes from.
    y : ndarray of float, of shape (n_rows,), or None
        The rewards; None where no record has any.

    Raises
    ------
    ValueError
        If `records` is no list of records, or a record lacks a key, or rewards where
        others have them, or has another number of rewards than of completions, or a
        reward is neither a number nor None.

    Warns
    -----
    UserWarning
        If rewards failed, with their number.

    Examples
    --------
    >>> from skqprobe.embedders import flatten_records
    >>> records = [
    ...     {"prompt": "1 + 1 =", "completions": [" 2", " 3"], "rewards": [1, 0]},
    ...     {"prompt": "2 + 2 =", "completions": [" 4"], "rewards": [1]},
    ... ]
    >>> pairs, groups, y = flatten_records(records)
    >>> pairs[2], groups, y
    (('2 + 2 =', ' 4'), array([0, 0, 1]), array([1., 0., 1.]))
    """
    if not _is_list(records) or len(records) == 0:
        raise ValueError(
            f"records must be a list of at least one record; got {_short(records)}."
        )
    prompts, completions, sizes = _open_records(records)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    pairs = list(zip(prompts, completions, strict=True))
    if not any("rewards" in record for record in records):
        return pairs, groups, None
    for i, (record, size) in enumerate(zip(records, sizes, strict=True)):
        rewards = record.get("rewards", ())
        n_rewards = len(rewards) if _is_list(rewards) else "no list of"
        if n_rewards != size:
            raise ValueError(
                f"Record {i} has {size} completions, but {n_rewards} rewards; give one "
                "for each."
            )
    y = np.concatenate(
        [_to_numbers(record["rewards"], i) for i, record in enumerate(records)]
    )
    failed = np.isnan(y)  # None becomes NaN
    if failed.any():
        warnings.warn(
            f"{failed.sum()} of {len(y)} rewards failed (None); these completions are "
            "left out.",
            UserWarning,
            stacklevel=2,
        )
        pairs = [pair for pair, bad in zip(pairs, failed, strict=True) if not bad]
    return pairs, groups[~failed], y[~failed]


def _to_numbers(rewards, i):
    """Make an array of the rewards of record number i; None becomes NaN."""
    try:
        numbers = np.asarray(rewards, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"The rewards of record {i} must be numbers, or None where a reward "
            f"failed: {error}."
        ) from None
    if numbers.ndim != 1:
        raise ValueError(
            f"The rewards of record {i} must be one number for each completion; they "
            f"have the shape {numbers.shape}."
        )
    return numbers
