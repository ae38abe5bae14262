"""Choices: values and probabilities of candidates, of several requests in one batch."""

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn import config_context, get_config
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skqprobe._backends.http_client import APIError
from skqprobe._candidates.choice import choice_probabilities
from skqprobe._candidates.layout import check_layout
from skqprobe.embedders import BaseEmbedder, EmbedderUnion
from skqprobe.generators import BestOfK, stack_embeddings
from skqprobe.metrics._values import last_step

MAX_BATCH = 64
"""Number of requests in a batch."""

EMBEDDINGS = "embeddings"
"""Key of a record with the embeddings of the candidates, of shape (k, n_features)."""


class Values(NamedTuple):
    """Values, probabilities and predicted rewards of the candidates of a request.

    `rewards` is None if the pipeline does not predict them, and `embeddings` if it is
    not known which of its steps embed.
    """

    values: np.ndarray
    probabilities: np.ndarray
    rewards: np.ndarray | None
    embeddings: np.ndarray | None

    def at(self, temperature):
        """Return the probabilities at a temperature; None is that of the pipeline."""
        if temperature is None:
            return self.probabilities
        layout = check_layout((1, len(self.values)), None)
        values = np.asarray(self.values, dtype=np.float64)
        return choice_probabilities(values, layout, temperature)


class Chooser:
    """Compute the values of candidates in a thread, of several requests at a time.

    Parameters
    ----------
    pipeline : estimator
        Fitted pipeline, as `BestOfK` takes it.
    embeddings : str, list of str or None
        Keys of the records, as `BestOfK` takes them.
    batch_wait : float
        Longest wait for the candidates of other requests, in seconds.
    report : callable
        ``report(n_requests)`` is called for each batch.
    """

    def __init__(self, pipeline, embeddings, batch_wait, report):
        check_is_fitted(pipeline, msg="pipeline (a %(name)s) is not fitted; fit it.")
        self._pipeline = getattr(pipeline, "best_estimator_", pipeline)
        self._embeddings, self._embedder = embeddings, cast(Any, None)
        if embeddings is None and isinstance(self._pipeline, Pipeline):
            first = self._pipeline.steps[0][1]
            if _reads_pairs(first) and len(self._pipeline) > 1:
                self._embedder, self._pipeline = first, self._pipeline[1:]
                self._embeddings = EMBEDDINGS
        self._config = get_config()  # which each thread has of its own
        self._batch_wait, self._report = batch_wait, report
        self._pool = ThreadPoolExecutor(1, "skqprobe-choice")
        self._waiting: list[tuple[dict, asyncio.Future]] = []
        self._running: asyncio.Task | None = None
        self.n_drawing = 0  # requests whose candidates may come soon

    @property
    def has_embeddings(self):
        """Whether the embeddings of candidates are known."""
        return self._embeddings is not None

    async def values(self, record):
        """Return the `Values` of a record of candidates, or raise any error."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self):
        """Compute batches until nothing waits."""
        if self.n_drawing and self._batch_wait:
            await asyncio.sleep(self._batch_wait)
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            batch = [each for each in batch if not each[1].done()]  # some may be gone
            records = [record for record, _ in batch]
            if records:
                self._report(len(records))
            found = await loop.run_in_executor(self._pool, self.compute, records)
            for (_, future), result in zip(batch, found, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def compute(self, records):
        """Return the `Values` of each record, or its error."""
        if not records:
            return []
        try:
            with config_context(**self._config):
                return self._compute(records)
        except Exception as error:
            # A server that embeds would fail for each of them, after as many attempts.
            if len(records) == 1 or isinstance(error, (APIError, OSError)):
                return [error] * len(records)
            return [self.compute([record])[0] for record in records]

    def _compute(self, records):
        if self._embedder is not None:
            records = self._embed(records)
        by_size = defaultdict(list)
        for i, record in enumerate(records):
            by_size[len(record["completions"])].append(i)
        found: list[Any] = [None] * len(records)
        for size, places in by_size.items():
            group = [records[i] for i in places]
            for i, values in zip(places, self._compute_sets(group, size), strict=True):
                found[i] = values
        return found

    def _embed(self, records):
        """Embed the candidates of all records in one call, whatever their numbers."""
        pairs = [(r["prompt"], text) for r in records for text in r["completions"]]
        X = np.asarray(self._embedder.transform(pairs))
        ends = list(accumulate(len(record["completions"]) for record in records))
        parts = np.split(X, ends[:-1])
        return [r | {EMBEDDINGS: x} for r, x in zip(records, parts, strict=True)]

    def _compute_sets(self, records, k):
        """Yield the values of records with k candidates each."""
        best = BestOfK(None, self._pipeline, k, embeddings=self._embeddings)
        values, proba, rewards, of_choice = best._evaluate(records, k)
        if not np.isfinite(values).all():
            raise ValueError("values of candidates are not finite.")
        if is_regressor(last_step(self._pipeline)):
            rewards = values
        elif rewards is not None:  # of the best of k, the reward that corrects for it
            rewards[np.arange(len(values)), values.argmax(axis=1)] = of_choice
        X = stack_embeddings(records, self._embeddings) if self.has_embeddings else None
        for i in range(len(records)):
            yield Values(
                values[i],
                proba[i].astype(np.float64),
                None if rewards is None else rewards[i],
                None if X is None else X[i],
            )


def _reads_pairs(step):
    """Whether a step embeds (prompt, completion) pairs, and needs nothing else."""
    is_union = isinstance(step, EmbedderUnion)
    return isinstance(step, BaseEmbedder) or (is_union and not step.encoders_)
