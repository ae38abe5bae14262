"""Requests for many items at a time, of which some may fail."""

import copy
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from skqprobe._backends.http_client import APIError
from skqprobe._backends.openai_client import APIClient
from skqprobe._backends.refusal import PromptRefused

MAX_FAILED = 20
"""Number of items that fail in a row, after which the server is checked."""


def ask_each(settings, ask, items, describe, check=None):
    """Apply a function to a client and each item, several items at a time.

    Parameters
    ----------
    settings : OpenAIEmbedder or OpenAIGenerator
        Settings of the client, and `concurrency`.
    ask : callable
        ``ask(client, item)`` returns the result of an item, or the error of this item
        alone.
    items : list
        The items. If empty, no client is made and no key is needed.
    describe : callable
        ``describe(done)`` returns the end of the message of an error; `done` is the
        list of the numbers of the finished items.
    check : callable, default=None
        ``check(client, item)`` raises an APIError if the server refuses even the
        simplest item of the kind. Not needed if `ask` returns no errors.

    Yields
    ------
    number : int
        Index in `items`. The items are yielded as they finish.
    result : object
        Result of the item. An error is yielded after the next item that succeeds, or
        after a check: of `MAX_FAILED` errors in a row, and of refusals at the end.

    Raises
    ------
    APIError or ValueError
        The first error that `ask` raises; that of `check`; or the first that `ask`
        returns, if all items have one. The message begins with the class of `settings`.
    """
    if not items:
        return
    done: list[int] = []
    failed: dict[int, Any] = {}  # errors since the last success
    works = False
    with APIClient(settings) as client:

        def try_to_ask(item):
            try:
                return ask(client, item)
            except PromptRefused as error:
                return error

        try:
            for number, result in run_concurrently(
                try_to_ask, items, settings.concurrency
            ):
                if isinstance(result, Exception):
                    failed[number] = result
                    if len(failed) < MAX_FAILED:
                        continue
                    check(client, items[number])
                else:
                    done.append(number)
                    yield number, result
                works = True
                yield from failed.items()
                failed.clear()
            if any(isinstance(error, PromptRefused) for error in failed.values()):
                check(client, items[max(failed)])
            elif failed and not works:
                failure = copy.copy(next(iter(failed.values())))
                failure.failures = failed
                raise failure
            yield from failed.items()
        except (APIError, ValueError) as error:
            message = f"{type(settings).__name__}: {error} {describe(done)}"
            error.args = (client.redact(message),)
            raise


def run_concurrently(function, items, concurrency):
    """Apply a function to items, several at a time.

    After the first error, no other item is started; running ones are finished.

    Parameters
    ----------
    function : callable
        Function of one item.
    items : list
        The items.
    concurrency : int
        Number of threads.

    Yields
    ------
    number : int
        Index in `items`. The items are yielded as they finish.
    result : object
        Result of `function` for the item.

    Raises
    ------
    Exception
        The first error of `function`, after all running items are finished.
    """
    waiting = enumerate(items)
    running: dict = {}
    failure = None
    pool = ThreadPoolExecutor(concurrency)
    try:
        while True:
            while failure is None and len(running) < concurrency:
                number, item = next(waiting, (None, None))
                if number is None:
                    break
                running[pool.submit(function, item)] = number
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                if future.exception() is None:
                    yield number, future.result()
                else:
                    failure = failure or future.exception()
    finally:
        # Items are still running only if the caller stopped, or was interrupted from
        # the keyboard. Then do not wait for their answers.
        pool.shutdown(wait=not running)
    if failure is not None:
        raise failure
