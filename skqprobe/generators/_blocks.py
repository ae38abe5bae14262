"""Continuation of candidates block by block, for generators that continue a prefix."""

import inspect
from collections import Counter
from typing import Any

import numpy as np
from sklearn.base import clone

from skqprobe._arrays.device import to_host
from skqprobe.embedders._inputs import is_list


def start_blocks(generator, prompt, k):
    """Return an object whose method ``extend(numbers, n_tokens)`` continues candidates.

    `numbers` are positions in the last record, in increasing order, each any number of
    times; the first time, all are 0. The method returns the record of the new
    candidates. A finish reason "length" is that of the block.
    """
    if hasattr(generator, "write_blocks"):
        return generator.write_blocks(prompt, k)
    if "prefix" not in inspect.signature(generator.sample).parameters or not hasattr(
        generator, "max_tokens"
    ):
        raise ValueError(
            f"generator={type(generator).__name__} cannot continue a completion: its "
            "method sample needs the parameter `prefix`, and it needs the parameter "
            "`max_tokens`, as TransformersGenerator and OpenAIGenerator have them."
        )
    return _TextBlocks(generator, prompt)


class _TextBlocks:
    """Candidates of a generator that continues texts, such as a server."""

    def __init__(self, generator, prompt):
        self.generator = generator
        self.prompt = prompt
        self.record: Any = {"prompt": prompt, "completions": [""], "n_tokens": [0]}

    def extend(self, numbers, n_tokens):
        """Continue candidates of the last record by a number of tokens."""
        generator = clone(self.generator).set_params(max_tokens=int(n_tokens))
        record = None
        for number, count in Counter(np.asarray(numbers).tolist()).items():
            # Half a character of the last token is drawn again.
            prefix = self.record["completions"][number].rstrip("\ufffd")
            drawn = dict(generator.sample(self.prompt, count, prefix=prefix))
            self._stop(drawn, len(prefix))
            if "n_tokens" in drawn and "n_tokens" in self.record:
                before = self.record["n_tokens"][number]
                drawn["n_tokens"] = [before + n for n in drawn["n_tokens"]]
            record = join_records(record, drawn)
        self.record = record
        return record

    def _stop(self, record, n_before):
        """End the texts at a stop string that begins in the prefix."""
        stops = getattr(self.generator, "stop", None) or []
        for stop in [stops] if isinstance(stops, str) else stops:
            start = max(n_before - len(stop) + 1, 0)
            for i, text in enumerate(record["completions"]):
                end = text.find(stop, start)
                if end >= 0:
                    record["completions"][i] = text[:end]
                    record["finish_reasons"][i] = "stop"


def join_records(record, more):
    """Join the candidates of two records of a prompt."""
    if record is None:
        return dict(more)
    sizes = [len(each["completions"]) for each in (record, more)]
    joined = record | more
    for key in (record.keys() | more.keys()) - {"prompt"}:
        parts = [each.get(key) for each in (record, more)]
        lengths = [len(p) if is_list(p) or hasattr(p, "shape") else 0 for p in parts]
        if lengths == sizes:
            if isinstance(parts[0], list):
                joined[key] = [*parts[0], *parts[1]]
            else:
                joined[key] = np.concatenate([to_host(p, key) for p in parts])
        elif lengths[0] == sizes[0]:  # of the first candidates only
            del joined[key]
    return joined


def take_candidates(record, numbers):
    """Return a record of some candidates."""
    size, taken = len(record["completions"]), dict(record)
    for key in record.keys() - {"prompt"}:
        values = record[key]
        if is_list(values) and len(values) == size:
            some = isinstance(values, list)
            taken[key] = [values[i] for i in numbers] if some else values[numbers]
    return taken
