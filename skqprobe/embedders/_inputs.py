"""Forms of text input: texts, pairs and records, and their validation."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from skqprobe._arrays.named_rewards import stack_rewards
from skqprobe._utils.warn import warn_user


@dataclass(frozen=True)
class TextInput:
    """Prompts and completions, one per row.

    Parameters
    ----------
    prompts : list of (str, list of dict, or None)
        Prompt of each row: a text, or chat messages with the keys "role" and "content".
        None for plain texts.
    completions : list of str
        Completion (or plain text) of each row.
    shape : tuple of int
        (n_rows,), or (n_prompts, k) for records.
    """

    prompts: list[Any]
    completions: list[str]
    shape: tuple[int, ...]

    def describe(self, i):
        """Return the place of row i in X, and the beginning of its text."""
        prompt = self.prompts[i] or ""
        if not isinstance(prompt, str):
            prompt = prompt[-1]["content"]
        if len(self.shape) == 1:
            place = f"X[{i}]"
        else:
            place = "X[{}]['completions'][{}]".format(*divmod(i, self.shape[1]))
        return f"{place} ({(prompt + self.completions[i])[:40]!r})"


def check_texts(X):
    """Validate texts, pairs or records, and convert them to rows.

    Parameters
    ----------
    X : list of str, array-like of shape (n, 2), data frame or list of dict
        Plain texts; (prompt, completion) pairs, or a data frame with the columns
        "prompt" and "completion"; a data frame of preferences, with the columns
        "chosen", "rejected" and, optionally, "prompt", read as sets of two; or
        records with the keys "prompt" and "completions", all with the same number of
        completions. A prompt is a text; a list of chat messages, ``{"role": ...,
        "content": ...}``, whose content is a text or a list of text parts; or an item,
        a dict with one of these under "prompt".

    Returns
    -------
    texts : TextInput
        Prompts and completions, one per row.

    Raises
    ------
    ValueError
        If X has none of these forms, or records have different numbers of completions.
    """
    if (
        isinstance(X, (str, bytes, Mapping, Set, type))
        or not hasattr(X, "__iter__")
        or getattr(X, "ndim", 1) == 0
    ):
        raise ValueError(
            f"X must be a list of texts, of (prompt, completion) pairs or of records; "
            f"got one {type(X).__name__}. Put it into a list."
        )
    if are_preferences(X):
        rows = X["chosen"].to_list()
    elif hasattr(X, "columns"):
        rows = _frame_rows(X)
    else:
        rows = X.tolist() if hasattr(X, "tolist") else list(X)
        # A ColumnTransformer passes a column of texts, of shape (n, 1).
        if rows and isinstance(rows[0], list) and len(rows[0]) == 1:
            rows = [
                row[0] if isinstance(row, list) and len(row) == 1 else row
                for row in rows
            ]
    if not rows:
        raise ValueError("X is empty; at least one text is needed.")
    if are_preferences(X):
        return _from_preferences(X)
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
    """Return the rows of a data frame: pairs, or texts of its only column."""
    columns = list(X.columns)
    if {"completion", "chosen", "rejected"} <= set(columns):
        raise ValueError(
            "X has the column 'completion', and 'chosen' and 'rejected', too. Select "
            "'prompt' and 'completion' for rows, or 'prompt', 'chosen' and 'rejected' "
            "for pairs."
        )
    if columns.count("prompt") == columns.count("completion") == 1:
        return list(zip(X["prompt"].to_list(), X["completion"].to_list(), strict=True))
    if len(columns) == 1:
        return list(X[columns[0]])
    raise ValueError(
        "A data frame needs the columns 'prompt' and 'completion', or 'chosen' and "
        f"'rejected', or one column of texts; X has {columns}."
    )


def are_preferences(X):
    """Return whether X is a data frame with a chosen and a rejected completion."""
    columns = list(getattr(X, "columns", []))
    counts = [columns.count(name) for name in ("chosen", "rejected", "prompt")]
    return counts in ([1, 1, 0], [1, 1, 1]) and "completion" not in columns


def _from_preferences(X):
    """Convert a data frame of preferences to sets of two; the prompt is optional."""
    completions = [*zip(X["chosen"].to_list(), X["rejected"].to_list(), strict=True)]
    prompts = [None] * len(completions)
    if "prompt" in X.columns:
        prompts = [
            _open_item(prompt, f"the prompt of X[{i}]")
            for i, prompt in enumerate(X["prompt"].to_list())
        ]
    for i, both in enumerate(completions):
        for name, text in zip(("chosen", "rejected"), both, strict=True):
            _check_text(text, f"the {name} completion of X[{i}]")
    texts = [text for both in completions for text in both]
    return TextInput(
        [prompt for prompt in prompts for _ in range(2)], texts, (len(prompts), 2)
    )


def _from_records(records):
    prompts, completions, sizes = _open_records(records)
    if len(set(sizes)) > 1:
        raise ValueError(
            f"The records have {min(sizes)} to {max(sizes)} completions, but candidate "
            "sets need the same number for every prompt. If it differs, use rows: "
            "skqprobe.embedders.flatten_records(records) returns (prompt, completion) "
            "pairs, groups and rewards."
        )
    return TextInput(prompts, completions, (len(records), sizes[0]))


def _open_records(records):
    """Return prompts and completions per row, and the number of rows per record."""
    prompts, completions, sizes = [], [], []
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or not {"prompt", "completions"} <= set(
            record
        ):
            raise ValueError(
                f"X[{i}] must be a record with the keys 'prompt' and 'completions'; "
                f"got {_short(record)}."
            )
        prompt = _open_item(record["prompt"], f"X[{i}]['prompt']")
        texts = record["completions"]
        if not is_list(texts) or len(texts) == 0:
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
    if not is_list(pair):
        raise ValueError(
            f"{name} must be a (prompt, completion) pair like X[0]; got {_short(pair)}."
        )
    if len(pair) != 2:
        raise ValueError(
            f"{name} must be a (prompt, completion) pair; it has {len(pair)} entries."
        )
    prompt, completion = pair
    _check_text(completion, f"the completion of {name}")
    return _open_item(prompt, f"the prompt of {name}"), completion


def _open_item(prompt, name):
    """Return the prompt of an item, as `collect` takes it, or a prompt."""
    if isinstance(prompt, Mapping) and "prompt" in prompt:
        prompt = prompt["prompt"]
    return check_prompt(prompt, name)


def check_prompt(prompt, name):
    """Validate a prompt, and return it as a text or a list of chat messages."""
    if isinstance(prompt, np.ndarray):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        return prompt
    messages = prompt if isinstance(prompt, (list, tuple)) and prompt else [None]
    checked = []
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(
                f"{name} must be a text or a list of chat messages, each with the keys "
                f"'role' and 'content'; got {_short(prompt)}."
            )
        if is_list(message["content"]):
            message = {**message, "content": _join_parts(message["content"], name)}
        _check_text(message["content"], f"the content of a message in {name}")
        checked.append(message)
    return checked


def _join_parts(parts, name):
    """Return the text of a message of parts, ``{"type": "text", "text": ...}``."""
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise ValueError(
                f"The content of a message in {name} has a part that is not a text: "
                f"{_short(part)}. Only texts are supported."
            )
    return "".join(part["text"] for part in parts)


def find_surrogate(text):
    """Return an error if a text, or a tuple of them, is not valid Unicode."""
    try:
        "".join(text).encode()
    except UnicodeEncodeError as error:
        return ValueError(
            f"it contains {error.object[error.start]!r}, one half of a surrogate pair, "
            "which is not a character: remove it"
        )


def _check_text(text, name):
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text; got {_short(text)}.")


def is_list(value):
    """Return whether a value is a list, or has a length and an order like a list."""
    # A data frame would be iterated over the names of its columns.
    unordered = isinstance(value, (str, bytes, Mapping, Set)) or hasattr(
        value, "columns"
    )
    listed = isinstance(value, Collection) and getattr(value, "ndim", 1) > 0
    return listed and not unordered


def _short(value):
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def flatten_records(records):
    """Convert records, with any numbers of completions, to the rows layout.

    Parameters
    ----------
    records : list of dict
        Records with the keys "prompt" (a text or chat messages), "completions" (a list
        of texts) and, optionally, "rewards" (as many numbers, or lists or dicts of
        them, with None for each reward that failed), as
        :func:`skqprobe.generators.collect` returns them.

    Returns
    -------
    pairs : list of (prompt, completion), of length n_rows
        Pairs of all records, without the completions that have no reward: it failed,
        or was not asked for.
    groups : ndarray of int, of shape (n_rows,)
        Position in `records` of the record of each row.
    y : ndarray of float, of shape (n_rows,) or (n_rows, n_objectives), or None
        Rewards, with the names of the objectives if they are dicts. None if no record
        has rewards.

    Raises
    ------
    ValueError
        If `records` is not a list of records; if a record has no "prompt", no
        "completions", no "rewards" although others have, or another number of rewards
        than of completions; if a reward is neither a number, nor a list or dict of
        numbers, nor None; or if rewards differ in their objectives.

    Warns
    -----
    UserWarning
        If rewards failed.

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
    if not is_list(records) or len(records) == 0:
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
        n_rewards = len(rewards) if is_list(rewards) else "no list of"
        if n_rewards != size:
            raise ValueError(
                f"Record {i} has {size} completions, but {n_rewards} rewards. Give one "
                "reward per completion."
            )
    y = _to_numbers(records)
    known = ~np.isnan(y.reshape(len(y), -1)).any(axis=1)  # None becomes NaN
    ranges = zip(map(range, sizes), records, strict=True)
    asked = np.concatenate([np.isin(each, r.get("asked", each)) for each, r in ranges])
    n_failed = (asked & ~known).sum()
    if n_failed:
        warn_user(
            f"{n_failed} of {asked.sum()} rewards failed (None). Their completions "
            "were left out.",
        )
    pairs = [pair for pair, is_known in zip(pairs, known, strict=True) if is_known]
    return pairs, groups[known], y[known]


def _to_numbers(records):
    """Return the rewards of all records as an array; None becomes NaN."""
    try:
        return stack_rewards([r for record in records for r in record["rewards"]])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            "The rewards of the records must be numbers, or None for a reward that "
            "failed; or all lists or dicts of numbers, of the same objectives: "
            f"{error}."
        ) from None
