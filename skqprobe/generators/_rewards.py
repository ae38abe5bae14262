"""Calls of a reward function: conversion of the result, threads and coroutines."""

import asyncio
import inspect
import os
import threading
from collections.abc import Mapping
from contextvars import copy_context
from functools import cache
from queue import Empty, SimpleQueue

import numpy as np
from sklearn import config_context, get_config

from skqprobe.embedders._inputs import is_list


def call_reward(reward, item, completion):
    """Compute a reward.

    Parameters
    ----------
    reward : callable
        ``reward(item, completion)`` returns a number, a sequence or a dict of them, or
        an awaitable of one of these.
    item : object
        Item of the completion.
    completion : str
        The completion.

    Returns
    -------
    value : float, list of float, dict of str to float, or None
        The reward, or those of all objectives. None if it failed.
    error : str or None
        The error, if it failed.

    Raises
    ------
    KeyboardInterrupt
        If `reward` raises it. All other exceptions are failed rewards.
    """
    try:
        value = reward(item, completion)
        if inspect.isawaitable(value):
            value = _await(value)
        return check_rewards(value), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit, CancelledError, pytest.fail
        return None, _describe(error)


def check_rewards(value):
    """Convert the result of a reward function to a float, or to several."""
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"names of rewards must be texts; got {list(value)}")
        _raise_if_empty(value)
        return {name: check_reward(each) for name, each in value.items()}
    if is_list(value) and not isinstance(value, bytearray):
        _raise_if_empty(value)
        return [check_reward(each) for each in value]
    return check_reward(value)


def _raise_if_empty(rewards):
    if not len(rewards):
        raise ValueError("the reward is empty; return one number per objective")


def check_reward(value):
    """Convert a reward to a finite float."""
    if np.ma.is_masked(value):
        raise ValueError("the reward is masked")
    shape = getattr(value, "shape", ())
    if shape != ():
        raise TypeError(f"the reward must be one number; got the shape {tuple(shape)}")
    name = type(value).__name__
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    value = value.item() if hasattr(value, "item") else value  # of arrays and tensors
    try:
        if isinstance(value, (str, bytes, bytearray)) or kind in "mM":
            raise TypeError  # float and NumPy convert texts and times to numbers
        number = float(value)
    except TypeError:
        raise TypeError(f"the reward must be a number; got {name}") from None
    if not np.isfinite(number):
        raise ValueError(f"the reward must be finite; got {number}")
    return number


def _describe(error):
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:
        return name


def _await(awaitable):
    """Wait for an awaitable that runs in the event loop of this process."""

    async def catch():
        try:
            return await awaitable, None
        except BaseException as error:  # SystemExit would end the event loop
            return None, error

    waiting = asyncio.run_coroutine_threadsafe(catch(), _event_loop(os.getpid()))
    try:
        value, error = _poll(waiting.result, TimeoutError)
    except KeyboardInterrupt:
        waiting.cancel()
        raise
    if error is not None:
        raise error
    return value


def _poll(get, not_yet):
    """Wait for a result in short steps: a signal may not end a long one."""
    while True:
        try:
            return get(timeout=0.1)
        except not_yet:
            pass


@cache
def _event_loop(process):
    """Start the event loop of a process, in which clients stay valid between calls."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class Workers:
    """Threads that apply a function to tasks. One worker is the calling thread.

    Threads do not keep the process alive: after an interrupt, tasks in progress are
    abandoned. After an error of the caller, all submitted tasks are finished.

    Parameters
    ----------
    function : callable
        Function of the arguments of a task.
    n_workers : int
        Number of tasks that run at the same time.
    """

    def __init__(self, function, n_workers):
        self._function, self._n_workers = function, n_workers
        self._tasks: SimpleQueue = SimpleQueue()
        self._done: SimpleQueue = SimpleQueue()
        self._n_threads = self._n_open = 0
        self._stopped = False

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc_info):
        try:
            if not self._stopped and (kind is None or issubclass(kind, Exception)):
                for _ in self.finished(wait=True):
                    pass
        finally:
            self._stopped = True
            for _ in range(self._n_threads):
                self._tasks.put(None)

    def submit(self, *task):
        """Run a task, in a thread if there are several workers."""
        if self._n_workers == 1:
            self._function(*task)
            self._done.put((task, None))
            self._n_open += 1
            return
        self._tasks.put(task)
        self._n_open += 1
        if self._n_threads < min(self._n_workers, self._n_open):
            self._n_threads += 1
            run, config = copy_context().run, get_config()  # those of the caller
            thread = threading.Thread(
                target=run, args=(self._work, config), daemon=True
            )
            thread.start()

    def finished(self, wait=False):
        """Yield tasks that have finished since the last call, or all with `wait`.

        Raises
        ------
        BaseException
            Exception of the function. No task is started after it.
        """
        while self._n_open and (wait or not self._done.empty()):
            task, failure = _poll(self._done.get, Empty)
            self._n_open -= 1
            if failure is not None:
                raise failure
            yield task

    def _work(self, config):
        while (task := self._tasks.get()) is not None and not self._stopped:
            failure = None
            try:
                with config_context(**config):
                    self._function(*task)
            except BaseException as error:
                self._stopped, failure = True, error
            self._done.put((task, failure))
