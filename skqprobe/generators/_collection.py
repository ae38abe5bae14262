"""Collection: records in progress, which `collect` completes."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skqprobe._backends.http_client import APIError
from skqprobe._backends.identity import identify
from skqprobe._backends.refusal import PromptRefused
from skqprobe._utils.describe import describe
from skqprobe._utils.warn import warn_user
from skqprobe.embedders._inputs import is_list
from skqprobe.generators._base import describe_failure, name_prompt
from skqprobe.generators._record_file import asked_for, finish, missing_rewards
from skqprobe.generators._record_json import to_json
from skqprobe.generators._rewards import call_reward
from skqprobe.generators._select import select_candidates

_RESERVED = {"position", "item", "rewards", "errors", "generator"}
_RESERVED |= {"asked", "asked_probability"}
"""Keys that records of `collect` have, and those of a generator may not have."""


class Collection:
    """Records in progress.

    Parameters
    ----------
    items, texts : list
        Entries of `prompts`, and the prompts in them.
    generator, reward, k : object
        Arguments of `collect`.
    selection : tuple
        Arguments `n_rewards` and `embedder` of `collect`.
    store : Records
        Storage of the records.
    failed : dict of int to Exception
        Errors of the entries that are not prompts, by position.
    """

    def __init__(self, items, texts, generator, reward, k, selection, store, failed):
        self.items, self.texts, self.generator = items, texts, generator
        self.reward, self.k, self.store = reward, k, store
        self.n_rewards, self.embedder = selection
        self.settings = json.loads(json.dumps(generator._settings(), default=_name))
        self.failed, self._objectives = failed, {}
        self.has_drawn = False

    def resume(self, reward_version, rescore):
        """Read the records, and prepare them for the rewards of this call."""
        store = self.store
        store.read()
        for i, record in [*store.records.items(), *store.refused.items()]:
            self._check_same(i, record)
        changed = [i for i in store.records if self._item_differs(i)]
        if changed and not rescore:
            raise self._differs(
                f"it has another item in the place of prompts[{changed[0]}]",
                "pass rescore=True to score its completions again",
            )
        is_new = reward_version != store.reward_version
        if is_new and not rescore and self._has_rewards():
            raise self._differs(
                f"reward_version was {store.reward_version!r}, is {reward_version!r}",
                "pass rescore=True to score its completions again",
            )
        if is_new or (rescore and store.records):
            store.append({"reward_version": reward_version})
        for i in changed:
            store.append({"position": i, "item": self._own_item(i)})

    def n_open(self):
        """Return the number of prompts that lack completions or rewards."""
        done = [r for r in self.store.records.values() if not missing_rewards(r)]
        return len(self.items) - len(done)

    def complete(self, workers, bar, skip):
        """Sample and score what is missing."""
        n_left: Counter = Counter()
        for record in self.store.records.values():
            for reward in record["rewards"]:
                self._check_objectives(reward)

        def submit(i):
            missing = missing_rewards(self.store.records[i])
            n_left[i] = len(missing)
            for j in missing:
                workers.submit(i, j)

        def update(wait=False):
            for i, _ in workers.finished(wait):
                n_left[i] -= 1
                if n_left[i] == 0:
                    bar.update()

        for i in list(self.store.records):
            submit(i)
            update()
        for i in self._sample(skip):
            if i in self.failed:
                bar.update()
            else:
                submit(i)
            update()
        update(wait=True)

    def score(self, i, j):
        """Compute the reward of a completion, and store it or its error."""
        record = self.store.records[i]
        value, error = call_reward(self.reward, self.items[i], record["completions"][j])
        place = {"position": i, "completion": j}
        error = error or self._check_objectives(value)
        if error is None:
            self.store.append({**place, "reward": value})
        elif record["errors"].get(j) != error:
            self.store.append({**place, "error": error})

    def _check_objectives(self, reward):
        """Return an error if a reward has other objectives than the first one."""
        if reward is None:
            return None
        found = "one number"
        if isinstance(reward, Mapping):
            found = f"the objectives {sorted(reward)}"
        elif isinstance(reward, list):
            found = f"{len(reward)} numbers in a list"
        expected = self._objectives.setdefault("of the first", found)
        if found == expected:
            return None
        return f"ValueError: the reward has {found}, but others have {expected}"

    def result(self, skip):
        """Return the records, and report what failed."""
        self._report_failed_prompts(skip)
        found = {i: finish(record) for i, record in sorted(self.store.records.items())}
        _warn_of_failures(found, self._path())
        if self.has_drawn:
            _warn_of_length(found.values())
        return list(found.values())

    def _sample(self, skip):
        """Sample and store the missing records; yield their positions."""
        known = self.store.refused if skip else {}
        self.failed |= {i: PromptRefused(known[i]["refused"]) for i in known}
        known = self.store.records.keys() | self.failed.keys()
        missing = [i for i in range(len(self.items)) if i not in known]
        yield from self.failed
        for number, candidates in self._draw([self.texts[i] for i in missing], skip):
            i = missing[number]
            if isinstance(candidates, Exception):
                self._fail(i, candidates, skip)
            else:
                self._add(i, candidates)
            yield i
        lost = set(missing) - self.store.records.keys() - self.failed.keys()
        if lost:
            raise ValueError(
                f"{type(self.generator).__name__} returned no record for "
                f"prompts[{min(lost)}]."
            )

    def _draw(self, texts, skip):
        """Sample; with `skip`, also if prompts fail that are the only ones left."""
        try:
            yield from self.generator.sample_each(texts, self.k)
        except APIError as error:
            if not (skip and self.store.records and error.failures):
                raise
            yield from error.failures.items()

    def _add(self, i, candidates):
        """Store a record of the generator."""
        name = type(self.generator).__name__
        _check_candidates(candidates, self.texts[i], self.k, name)
        if i in self.store.records:
            raise ValueError(f"{name} returned two records for prompts[{i}].")
        own = {} if self._own_item(i) is None else {"item": self._own_item(i)}
        own |= self._select(i, candidates)
        entry = {"position": i, **candidates, **own, "generator": self.settings}
        try:
            self.store.append(entry)
        except ValueError as error:
            raise ValueError(
                f"{name} returned a record that cannot be written to path: {error}. "
                "Use types that JSON supports, or set path=None."
            ) from None
        self.has_drawn = True

    def _select(self, i, candidates):
        """Select the completions to be rewarded; the position is the seed."""
        if self.n_rewards is None:
            return {}
        if self.embedder is None:
            asked = np.random.RandomState(i).permutation(self.k)[: self.n_rewards]
            proba = {"asked_probability": self.n_rewards / self.k}
        else:
            X = self.embedder.transform([candidates])
            if np.ndim(X) != 3 or np.shape(X)[:2] != (1, self.k):
                raise ValueError(
                    f"embedder returned an array of shape {np.shape(X)} for one record "
                    f"with {self.k} completions; it must be (1, {self.k}, n_features)."
                )
            asked, proba = select_candidates(X, self.n_rewards, random_state=i)[0], {}
        return {"asked": sorted(asked.tolist()), **proba}

    def _fail(self, i, error, skip):
        """Store that a prompt was refused; raise other errors unless `skip`."""
        refused = isinstance(error, PromptRefused)
        if refused and self.store.refused.get(i, {}).get("refused") != error.reason:
            entry = {"position": i, "prompt": self.texts[i], "refused": error.reason}
            self.store.append({**entry, "generator": self.settings})
        if not skip and not (refused and self._path()):
            raise name_prompt(error, i, self.texts[i])
        self.failed[i] = error

    def _report_failed_prompts(self, skip):
        """Raise an error for refused prompts, or warn of those that were left out."""
        if not self.failed:
            return
        n, shown = len(self.failed), sorted(self.failed)[:5]
        said = [describe_failure(self.failed[i], i, self.texts[i]) for i in shown]
        said = [text.rstrip(".") for text in said]
        more = f"; and {n - len(shown)} more" if n > len(shown) else ""
        message = f"{n} of {len(self.items)} prompts failed. {'; '.join(said)}{more}."
        if not skip:
            raise PromptRefused(
                f"{message} The records of the others are in {self._path()}. Pass "
                "on_error='skip' to leave these prompts out."
            )
        warn_user(f"{message} They were left out.", RuntimeWarning)

    def _check_same(self, i, record):
        """Raise an error if a stored record is not of this collection."""
        n_prompts, stored = len(self.texts), record.get("generator", {})
        changes = [
            f"{name} was {stored.get(name)!r}, is {self.settings.get(name)!r}"
            for name in sorted(stored.keys() | self.settings.keys())
            if not _is_same(stored.get(name), self.settings.get(name))
        ]
        n_found = len(record.get("completions", [None] * self.k))
        if i >= n_prompts:
            raise self._differs(f"it has more prompts than the {n_prompts} given")
        if not _is_same(record["prompt"], self.texts[i]):
            raise self._differs(f"it has another prompt in the place of prompts[{i}]")
        if n_found != self.k:
            raise self._differs(
                f"it has {n_found} completions per prompt, but k={self.k}"
            )
        if "completions" in record:
            n_asked = len(record["asked"]) if "asked" in record else None
            if n_asked != self.n_rewards:
                raise self._differs(f"n_rewards was {n_asked}, is {self.n_rewards}")
        if changes:
            raise self._differs("its generator differs: " + ", ".join(changes))

    def _differs(self, difference, remedy="give the prompts and settings of the file"):
        return ValueError(
            f"{self._path()} was collected with different settings: {difference}. The "
            f"file was not changed; {remedy}, or give another path."
        )

    def _own_item(self, i):
        item = self.items[i]
        return dict(item) if isinstance(item, Mapping) else None

    def _item_differs(self, i):
        return not _is_same(self.store.records[i].get("item"), self._own_item(i))

    def _has_rewards(self):
        records = self.store.records.values()
        return any(any(r is not None for r in each["rewards"]) for each in records)

    def _path(self):
        return getattr(self.store, "path", None)


def _name(value):
    """Convert a setting that JSON does not support."""
    description = describe(value)
    if isinstance(value, (np.generic, Path)):
        return description
    return [description, identify(value)]


def _is_same(stored, given):
    return to_json(stored, sort_keys=True) == to_json(given, sort_keys=True)


def _check_candidates(candidates, prompt, k, name):
    """Validate the record of a generator, before anything is written."""
    keys = set(candidates) if isinstance(candidates, Mapping) else set()
    if not keys >= {"prompt", "completions"}:
        raise ValueError(
            f"{name} must return a dict with the keys 'prompt' and 'completions'; got "
            f"{sorted(map(str, keys)) or type(candidates).__name__}."
        )
    if keys & _RESERVED:
        raise ValueError(
            f"{name} returned the key {min(keys & _RESERVED)!r}, which collect uses "
            "itself; rename it."
        )
    if candidates["prompt"] != prompt:
        raise ValueError(
            f"{name} must return the prompt as it is, {prompt!r}; got "
            f"{candidates['prompt']!r}."
        )
    completions = candidates["completions"]
    if not is_list(completions) or not all(isinstance(c, str) for c in completions):
        raise ValueError(f"{name} must return 'completions' as a list of texts.")
    if len(completions) != k:
        raise ValueError(
            f"{name} returned {len(completions)} completions for a prompt, but k={k}."
        )


def _warn_of_failures(records, path):
    failures = [
        (i, j, error)
        for i, record in records.items()
        for j, error in record.get("errors", {}).items()
    ]
    if failures:
        i, j, error = failures[0]
        again = (
            "Call collect again to retry only these."
            if path is not None
            else "With path=, another call would retry only these."
        )
        n_rewards = sum(len(asked_for(record)) for record in records.values())
        warn_user(
            f"{len(failures)} of {n_rewards} rewards failed and are None. The first: "
            f"prompts[{i}], completion {j}: {error}. {again}",
            RuntimeWarning,
        )


def _warn_of_length(records):
    lists = [r.get("finish_reasons") for r in records]
    reasons = Counter(str(e) for each in lists if is_list(each) for e in each)
    found = {name: reasons[name] for name in ("length", "content_filter")}
    if any(found.values()):
        listed = ", ".join(f"{name!r} ({n})" for name, n in found.items() if n)
        warn_user(
            f"{sum(found.values())} of {reasons.total()} completions were cut off. "
            f"Their finish reasons: {listed}. 'length' is the maximum number of "
            "tokens: if they should be complete, raise max_tokens of the generator. "
            "'content_filter' is a filter of the server.",
            RuntimeWarning,
        )
