"""collect: draw candidates, score each, and keep them on disk as they come."""

import base64
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skqprobe._utils.progress import progress_bar
from skqprobe.embedders._inputs import check_prompt
from skqprobe.generators._base import BaseGenerator

_KEYS = {"position", "prompt", "completions", "rewards", "generator"}
_BEGIN = b'{"position": '  # of a line: tells a torn one of ours from another's file


def collect(prompts, generator, reward, k, *, path=None, progress="auto"):
    """Draw candidates for prompts and score each of them.

    With `path`, every prompt is written to a file as soon as its candidates are scored.
    Called again, `collect` reads what the file has, tries the rewards again that
    failed, and goes on with the prompts that are not there yet. The process may be
    killed at any moment: what it loses is the prompt (with a generator that draws for
    several at a time, the prompts) under way.

    Parameters
    ----------
    prompts : list of (str, list of dict, or dict)
        A text; chat messages with the keys "role" and "content"; or an item of your
        own: a dict with one of these under the key "prompt", and anything else that
        your reward reads (with `path`, of types that JSON knows).
    generator : BaseGenerator
        What draws the candidates.
    reward : callable
        ``reward(item, completion)`` returns the reward, a finite number. The item is
        the entry of `prompts`, as it was given.
    k : int
        How many candidates to draw for each prompt.
    path : str or Path, default=None
        A JSONL file, made when there is none: a record a line, in the order in which
        they were finished; "position" says of which of `prompts`. One process may write
        to it at a time. `prompts` may grow at the end from one call to the next.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds.

    Returns
    -------
    records : list of dict
        One a prompt: what `generator` gave ("prompt", "completions" and perhaps
        more), and

        - "rewards" : list of k floats. A reward that failed is None, not 0.0.
        - "errors" : dict of int to str. Only where rewards failed: which ones, and why.
        - "item" : dict. Only where the prompt came as one: the item.
        - "generator" : dict. The generator's settings.

        With `path` they are what the file has: arrays of one dimension are lists.
        Those of more, such as "hidden_states", are arrays; in the file they are
        base64, about 1.3 times their size in memory.

    Raises
    ------
    ValueError
        If `prompts` has another form, or the file is of other prompts, another `k` or
        another generator, or is none that `collect` wrote; it is left as it is.
    Exception
        What `generator` raises passes through; finished prompts are in the file.

    Warns
    -----
    RuntimeWarning
        If rewards failed: `reward` raised an Exception, or returned something else
        than a finite number. Once a call, with their number.

    See Also
    --------
    BestOfK : Draw candidates and choose by a fitted probe.
    skqprobe.embedders.flatten_records : From records to rows, groups and rewards.

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
    asked = _check_arguments(prompts, generator, reward)
    generator.generate([], k)  # checks k and the generator's parameters
    settings = _settings(generator)
    file = _NoFile() if path is None else _RecordFile(path, prompts)
    records = file.read(asked, settings, k)
    _try_failed_again(records, prompts, reward, file)
    missing = [i for i in range(len(prompts)) if i not in records]
    with progress_bar(progress, len(missing), "collect", "prompt") as bar:
        drawn = generator.sample_each([asked[i] for i in missing], k)
        for number, candidates in drawn:
            i = missing[number]
            record = _make_record(prompts[i], candidates, settings, k)
            _score(record, prompts[i], reward)
            records[i] = file.append(i, record)
            bar.update()
    records = [records[i] for i in range(len(prompts))]
    _warn_of_failures(records, path)
    return records


def _check_arguments(prompts, generator, reward):
    """Validate what costs nothing to look at; return what the model is asked."""
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
    if not isinstance(prompts, (list, tuple)):
        raise ValueError(
            f"prompts must be a list of prompts; got {type(prompts).__name__}."
        )
    asked = []
    for i, item in enumerate(prompts):
        if not isinstance(item, Mapping):
            asked.append(check_prompt(item, f"prompts[{i}]"))
        elif "prompt" in item:
            asked.append(check_prompt(item["prompt"], f"prompts[{i}]['prompt']"))
        else:
            raise ValueError(
                f"prompts[{i}] is a dict without the key 'prompt'; it has "
                f"{list(item)}. (Chat messages go into a list, even a single one.)"
            )
    return asked


def _settings(generator):
    """Collect what the completions depend on, as JSON has it."""
    incidental = generator.inert_parameters
    settings = {
        name: value
        for name, value in generator.get_params(deep=False).items()
        if name not in incidental
    }
    text = json.dumps({"class": type(generator).__name__} | settings, default=_name)
    return json.loads(text)


def _name(value):
    """Stand in for a setting that JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _make_record(item, candidates, settings, k):
    n_drawn = len(candidates["completions"])
    if n_drawn != k:
        raise ValueError(
            f"{settings['class']} gave {n_drawn} completions for a prompt, but {k} "
            "were asked for."
        )
    own = {"item": dict(item)} if isinstance(item, Mapping) else {}
    return {**candidates, **own, "generator": settings}


def _try_failed_again(records, items, reward, file):
    """Score again what failed in an earlier call."""
    failed = [i for i, record in records.items() if None in record["rewards"]]
    try:
        for i in failed:
            _score(records[i], items[i], reward)
    finally:
        if failed:
            file.rewrite(records)


def _score(record, item, reward):
    """Score the completions that have no reward yet."""
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
    if value is None or isinstance(value, (str, bytes)):
        raise TypeError(f"the reward is no number but {type(value).__name__}")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"the reward is {number}")
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
            "Call collect again to try only these once more."
            if path is not None
            else "With path= another call would try only these once more."
        )
        warnings.warn(
            f"{len(failures)} of {sum(len(r['rewards']) for r in records)} rewards "
            f"failed; they are None. The first: prompts[{i}], completion {j}: {error}. "
            + again,
            RuntimeWarning,
            stacklevel=3,
        )


class _NoFile:
    """Stands in where nothing is written."""

    def read(self, asked, settings, k):
        return {}

    def append(self, i, record):
        return record

    def rewrite(self, records):
        pass


class _RecordFile:
    """Records by position, in a JSONL file."""

    def __init__(self, path, items):
        # Through a link, if it is one: what is replaced is the file itself.
        self.path = Path(path).resolve()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for i, item in enumerate(items):
            try:
                json.dumps(item, default=_encode_array)
            except TypeError as error:
                raise ValueError(
                    f"prompts[{i}] cannot be written to path: {error}. Give types that "
                    "JSON knows, or no path."
                ) from None

    def read(self, asked, settings, k):
        """Read the records, and check that they are of this call's making."""
        if not self.path.exists():
            return {}
        records, n_bytes, torn = {}, 0, b""
        with open(self.path, "rb") as file:
            for n_before, line in enumerate(file):
                if not line.endswith(b"\n"):
                    torn = line
                    break
                i, record = self._open_line(line, n_before)
                self._check_record(i, record, asked, settings, k)
                records[i] = record
                n_bytes += len(line)
        if torn:
            self._drop_torn_line(torn, n_bytes)
        return records

    def append(self, i, record):
        """Write a record; return it as the file has it."""
        line = _to_line(i, record)
        with open(self.path, "ab") as file:
            file.write(line)
        return _from_line(line)[1]

    def rewrite(self, records):
        """Replace all records, or none of them."""
        new = self.path.with_name(self.path.name + ".new")
        with open(new, "wb") as file:
            file.writelines(_to_line(i, record) for i, record in records.items())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)

    def _open_line(self, line, n_before):
        try:
            return _from_line(line)
        except MemoryError:  # says nothing of the line
            raise
        except Exception:
            raise self._foreign_line(n_before) from None

    def _foreign_line(self, n_before):
        return ValueError(
            f"Line {n_before + 1} of {self.path} is no record that collect wrote. The "
            "file was left as it is; give another path."
        )

    def _check_record(self, i, record, asked, settings, k):
        made, n = record["generator"], len(record["completions"])
        differ = [
            name
            for name in sorted(made.keys() | settings.keys())
            if made.get(name) != settings.get(name)
        ]
        if i >= len(asked):
            reason = f"it has more than the {len(asked)} prompts given"
        elif record["prompt"] != json.loads(json.dumps(asked[i])):
            reason = f"it has another prompt in the place of prompts[{i}]"
        elif n != k:
            reason = f"it has {n} completions a prompt, and k is {k}"
        elif differ:
            reason = "its generator differs: " + ", ".join(
                f"{name} was {made.get(name)!r}, is {settings.get(name)!r}"
                for name in differ
            )
        else:
            return
        raise ValueError(
            f"{self.path} was collected otherwise: {reason}. The file was left as it "
            "is; give another path, or the prompts and settings it was made with."
        )

    def _drop_torn_line(self, torn, n_bytes):
        """Cut off what a killed process began to write."""
        if n_bytes == 0 and torn[: len(_BEGIN)] != _BEGIN[: len(torn)]:
            raise self._foreign_line(0)
        os.truncate(self.path, n_bytes)


def _to_line(i, record):
    line = json.dumps({"position": i, **record}, default=_encode_array)
    return line.encode() + b"\n"


def _from_line(line):
    """Read a position and a record; any error says that the line is none of ours."""
    record = json.loads(line, object_hook=_decode_array)
    if not record.keys() >= _KEYS:
        raise KeyError
    if "errors" in record:  # JSON makes texts of keys
        record["errors"] = {int(i): error for i, error in record["errors"].items()}
    position, rewards = record.pop("position"), record["rewards"]
    if not (
        type(position) is int
        and position >= 0
        and isinstance(record["generator"], dict)
        and isinstance(record["completions"], list)
        and isinstance(rewards, list)
        and len(rewards) == len(record["completions"])
        and all(reward is None or math.isfinite(reward) for reward in rewards)
    ):
        raise ValueError
    return position, record


def _encode_array(value):
    """Arrays for JSON: lists, or in base64 those of more than one dimension."""
    if isinstance(value, np.generic) or (
        isinstance(value, np.ndarray) and value.ndim < 2
    ):
        return value.tolist()
    if isinstance(value, np.ndarray):
        data = base64.b64encode(value.tobytes()).decode()
        return {"base64": data, "dtype": value.dtype.str, "shape": value.shape}
    raise TypeError(f"{type(value).__name__} is a type that JSON does not know")


def _decode_array(found):
    if found.keys() != {"base64", "dtype", "shape"}:
        return found
    values = np.frombuffer(base64.b64decode(found["base64"]), found["dtype"])
    return values.reshape(found["shape"])
