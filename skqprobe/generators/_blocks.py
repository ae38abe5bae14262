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
        self.generator = clone(generator).set_params(progress=False)  # one bar for all
        self.prompt = prompt
        sums = {"n_tokens": [0], "log_likelihoods": [0.0]}
        self.record: Any = {"completions": [""], **sums}
        self.blocks = [("", 0)]  # prefix and number of tokens, for each candidate

    def extend(self, numbers, n_tokens):
        """Continue candidates of the last record by a number of tokens."""
        generator, record, blocks = self.generator, None, []
        for number, count in Counter(np.asarray(numbers).tolist()).items():
            text = self.record["completions"][number]
            # A part of a character is drawn again, with the tokens that it had at
            # least: all of the block, if it has nothing else.
            prefix, (before, n_block) = text.rstrip("\ufffd"), self.blocks[number]
            n_again = 0 if prefix == text else n_block if prefix == before else 1
            generator.set_params(max_tokens=int(n_tokens) + n_again)
            drawn = generator.sample(self.prompt, count, prefix=prefix)
            drawn = _checked(drawn, prefix, count)
            self._stop(drawn, len(prefix))
            self._add(drawn, number)
            record = join_records(record, drawn)
            blocks += [(prefix, generator.max_tokens)] * count
        self.record, self.blocks = record, blocks
        return record

    def _add(self, record, number):
        """Add the sums over the tokens of a candidate to those of its continuations."""
        record.pop("likelihood_features", None)  # of the last tokens only
        for key in ("n_tokens", "log_likelihoods"):
            before = self.record.get(key, [None] * (number + 1))[number]
            if key in record and before is None:
                del record[key]
            elif key in record:
                record[key] = [None if n is None else before + n for n in record[key]]

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


def _checked(record, prefix, k):
    """Return a copy of the record of a continuation with lists of its candidates."""
    names = "completions", "finish_reasons"
    lists = {name: list(record.get(name, ())) for name in names}
    if [*map(len, lists.values())] != [k, k] or not all(
        text.startswith(prefix) for text in lists["completions"]
    ):
        raise ValueError(
            f"The method sample of the generator must return {k} completions, all with "
            f"the beginning prefix={prefix!r}, and {k} finish_reasons, 'length' at "
            f"max_tokens; it returned {lists}."
        )
    return record | lists


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
        elif lengths[0] == sizes[0] or (parts[0] is None and lengths[1] == sizes[1]):
            del joined[key]  # of some candidates only
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
