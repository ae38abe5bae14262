"""collect: sample candidates, score each, and write them to disk."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skqprobe._utils.progress import progress_bar
from skqprobe._utils.warn import warn_user
from skqprobe.generators._base import BaseGenerator, check_prompts
from skqprobe.generators._record_file import NoFile, RecordFile


def collect(prompts, generator, reward, k, *, path=None, progress="auto"):
    """Sample candidates for prompts and score each of them.

    With `path`, the record of a prompt is written to a file as soon as its candidates
    are scored. If `collect` is called again, it reads the file, retries the rewards
    that failed, and continues with the remaining prompts. The process may be killed at
    any moment. It loses only the prompt in progress, or several prompts with a
    generator that samples concurrently.

    Parameters
    ----------
    prompts : list of (str, list of dict, or dict)
        Texts; chat messages with the keys "role" and "content"; or items: dicts with
        one of these under the key "prompt", and anything else that `reward` reads. With
        `path`, items must have types that JSON supports.
    generator : BaseGenerator
        Generator of the candidates.
    reward : callable
        Function ``reward(item, completion)`` that returns a finite number. The item is
        the entry of `prompts`, unchanged.
    k : int
        Number of completions per prompt.
    path : str or Path, default=None
        JSONL file of the records, created if it does not exist. Records are in the
        order in which they were finished; "position" is the index in `prompts`. Only
        one process may write to the file at a time. Between two calls, prompts may be
        appended to `prompts`.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Returns
    -------
    records : list of dict
        Records, one per prompt: the record of `generator` ("prompt", "completions" and
        optional keys), and

        - "rewards" : list of k floats. A reward that failed is None, not 0.0.
        - "errors" : dict of int to str. The error of each completion whose reward
          failed. Present only if there are any.
        - "item" : dict. The item, if the entry of `prompts` is one.
        - "generator" : dict. The class and settings of the generator, and a digest of
          the files of a local model.

        With `path`, the records are those of the file: arrays of one dimension are
        lists. Arrays of more dimensions, such as "hidden_states", stay arrays. In the
        file they are base64, about 1.3 times their size in memory.

    Raises
    ------
    ValueError
        If an argument is invalid; or if the file has other prompts, another `k` or
        another generator (its class, settings or model files), or was not written by
        `collect`. The file is not changed then.
    Exception
        Any error of `generator`. Finished prompts are in the file.

    Warns
    -----
    RuntimeWarning
        If rewards failed: `reward` raised an Exception, or did not return a finite
        number. One warning per call, with their number.

    See Also
    --------
    BestOfK : Sample candidates and choose one with a fitted probe.
    skqprobe.embedders.flatten_records : Convert records to rows, groups and rewards.

    Examples
    --------
    >>> import random
    >>> from skqprobe.generators import BaseGenerator, collect
    >>> class Guess(BaseGenerator):
    ...     def __init__(self, progress="auto"):
    ...         self.progress = progress
    ...
    ...     def sample(self, prompt, k):
    ...         draw = random.Random(prompt)
    ...         texts = [str(draw.randint(2, 5)) for _ in range(k)]
    ...         return {"prompt": prompt, "completions": texts}
    >>> items = [{"prompt": "1 + 1 =", "sum": 2}, {"prompt": "2 + 3 =", "sum": 5}]
    >>> def is_right(item, completion):
    ...     return int(completion) == item["sum"]
    >>> records = collect(items, Guess(), is_right, k=4)
    >>> for record in records:
    ...     print(record["completions"], record["rewards"])
    ['3', '2', '2', '5'] [0.0, 1.0, 1.0, 0.0]
    ['5', '5', '2', '4'] [1.0, 1.0, 0.0, 0.0]
    """
    if not isinstance(generator, BaseGenerator):
        raise ValueError(
            "generator must be a generator, such as TransformersGenerator or a "
            f"subclass of BaseGenerator; got {type(generator).__name__}."
        )
    if not callable(reward):
        raise ValueError(
            "reward must be a function of (item, completion) that returns a number; "
            f"got {type(reward).__name__}."
        )
    texts = check_prompts(prompts, allow_items=True)
    items = list(prompts)
    generator._check_settings(k)
    settings = json.loads(json.dumps(generator._settings(), default=_name))

    def find_difference(i, record):
        return _find_difference(i, record, texts, settings, k)

    file = NoFile() if path is None else RecordFile(path, items)
    records = file.read(find_difference)
    _retry_failed(records, items, reward, file)
    missing = [i for i in range(len(items)) if i not in records]
    with progress_bar(progress, len(missing), "collect", "prompt") as bar:
        sampled = generator.sample_each([texts[i] for i in missing], k)
        for number, candidates in sampled:
            i = missing[number]
            n_sampled = len(candidates["completions"])
            if n_sampled != k:
                raise ValueError(
                    f"{type(generator).__name__} returned {n_sampled} completions for "
                    f"a prompt, but k={k}."
                )
            own = {"item": dict(items[i])} if isinstance(items[i], Mapping) else {}
            record = {**candidates, **own, "generator": settings}
            _score(record, items[i], reward)
            records[i] = file.append(i, record)
            bar.update()
    records = [records[i] for i in range(len(items))]
    _warn_of_failures(records, path)
    return records


def _name(value):
    """Convert a setting that JSON does not support."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _find_difference(i, record, prompts, settings, k):
    """Return how a stored record differs from this collection; None if it does not."""
    if i >= len(prompts):
        return f"it has more prompts than the {len(prompts)} given"
    if record["prompt"] != json.loads(json.dumps(prompts[i])):
        return f"it has another prompt in the place of prompts[{i}]"
    if len(record["completions"]) != k:
        return f"it has {len(record['completions'])} completions per prompt, but k={k}"
    stored = record["generator"]
    changes = [
        f"{name} was {stored.get(name)!r}, is {settings.get(name)!r}"
        for name in sorted(stored.keys() | settings.keys())
        if stored.get(name) != settings.get(name)
    ]
    return "its generator differs: " + ", ".join(changes) if changes else None


def _retry_failed(records, items, reward, file):
    """Compute the rewards again that failed in an earlier call."""
    failed = [i for i, record in records.items() if None in record["rewards"]]
    try:
        for i in failed:
            _score(records[i], items[i], reward)
    finally:
        if failed:
            file.rewrite(records)


def _score(record, item, reward):
    """Compute the rewards of the completions that have none."""
    completions = record["completions"]
    rewards = list(record.get("rewards", [None] * len(completions)))
    errors = {}
    for i, completion in enumerate(completions):
        if rewards[i] is None:
            try:
                rewards[i] = _check_reward(reward(item, completion))
            except Exception as error:
                errors[i] = f"{type(error).__name__}: {error}"
    record.pop("errors", None)
    record["rewards"] = rewards
    if errors:
        record["errors"] = errors


def _check_reward(value):
    if value is None or isinstance(value, (str, bytes, bytearray, complex)):
        raise TypeError(f"the reward must be a number; got {type(value).__name__}")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"the reward must be finite; got {number}")
    return number


def _warn_of_failures(records, path):
    failures = [
        (i, j, error)
        for i, record in enumerate(records)
        for j, error in record.get("errors", {}).items()
    ]
    if failures:
        i, j, error = failures[0]
        again = (
            "Call collect again to retry only these."
            if path is not None
            else "With path=, another call would retry only these."
        )
        warn_user(
            f"{len(failures)} of {sum(len(r['rewards']) for r in records)} rewards "
            f"failed and are None. The first: prompts[{i}], completion {j}: {error}. "
            + again,
            RuntimeWarning,
        )
