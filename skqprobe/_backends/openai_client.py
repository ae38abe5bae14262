"""Client of OpenAI-compatible servers: requests, errors, threads."""

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from json import JSONDecodeError
from numbers import Integral, Real
from urllib.parse import urlsplit

from skqprobe._utils.optional import import_optional
from skqprobe._utils.sklearn_compat import Interval

CONSTRAINTS: dict = {
    "model": [str],
    "base_url": [str, None],
    "api_key_env": [str],
    "max_retries": [Interval(Integral, 0, None, closed="left")],
    "timeout": [Interval(Real, 0, None, closed="neither")],
    "concurrency": [Interval(Integral, 1, None, closed="left")],
}
"""Constraints of the parameters of the client."""

INERT = frozenset({"api_key_env", "max_retries", "timeout", "concurrency"})
"""Parameters of the client that do not change the answers."""


class APIError(RuntimeError):
    """A request failed after all retries.

    Parameters
    ----------
    message : str
        Description of the error and of what to do, without the API key.
    status : int, default=None
        HTTP status. None if there was no answer, or no usable one.
    """

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


class APIClient:
    """The official client, without the API key in any error.

    Any number of threads may use one client. It is a context manager.

    Parameters
    ----------
    settings : OpenAIEmbedder or OpenAIGenerator
        Has the parameters of `CONSTRAINTS`.

    Raises
    ------
    ImportError
        If the package openai is not installed.
    ValueError
        If the key is missing where one is needed, or is not a valid key; or if
        `base_url` is not a URL, or contains a password.
    """

    def __init__(self, settings):
        self._openai = import_optional(
            "openai", needed_by=type(settings).__name__, extra="openai"
        )
        self._env, self._timeout = settings.api_key_env, settings.timeout
        self.base_url = find_base_url(settings.base_url)
        self._key = _read_key(self._env, self.base_url)
        self._client = self._openai.OpenAI(
            api_key=self._key,
            base_url=self.base_url,
            max_retries=int(settings.max_retries),
            timeout=float(settings.timeout),
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._client.close()

    def ask(self, path, body):
        """Send a request, with retries.

        Parameters
        ----------
        path : str
            The endpoint, such as "/embeddings".
        body : dict
            Content of the request, of types that JSON supports.

        Returns
        -------
        answer : dict

        Raises
        ------
        APIError
            If the server refuses, or its answer is missing or not a JSON object.
        """
        try:
            # client.embeddings.create and the like would lose numbers in an answer of
            # unexpected form. Here the answer is checked by the caller.
            answer = self._client.post(path, body=body, cast_to=object)
        except self._openai.APIStatusError as error:
            failure = APIError(self._refusal(error), error.status_code)
        except self._openai.APITimeoutError:
            failure = APIError(
                f"no answer within timeout={self._timeout} seconds in the last "
                "attempt. Raise timeout, or reduce batch_size or concurrency."
            )
        except self._openai.APIConnectionError as error:
            failure = APIError(
                f"no connection to {self._client.base_url} in the last attempt: "
                f"{self._quote(error.__cause__ or error)}. Check base_url, and check "
                "that the server is running."
            )
        except (JSONDecodeError, UnicodeDecodeError):
            failure = APIError("the answer is not JSON. Check base_url.")
        else:
            if isinstance(answer, dict) and not answer.get("error"):
                return answer
            failure = APIError(
                f"the answer is malformed: {self._quote(answer)}. Check base_url, "
                "which often ends with /v1."
            )
        # Raised outside the except blocks. The error of the client would become the
        # context of this one, and it holds the request, which holds the key.
        raise failure

    def _refusal(self, error):
        """Return what the server refused, and what may help."""
        hint = {
            401: f"Check the API key in the environment variable {self._env}.",
            403: f"Check the API key in the environment variable {self._env}.",
            404: "Check model and base_url; the latter often ends with /v1.",
            429: "Reduce concurrency, raise max_retries, or check your quota.",
        }.get(error.status_code, "")
        said = self._quote(error.body or error.message)
        return f"the server answered HTTP {error.status_code}: {said}. {hint}".strip()

    def _quote(self, value):
        """Shorten a text of the server or the client, and remove the key."""
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            value = value["message"]
        text = " ".join(str(value).replace(self._key, "[API key]").split())
        return (text if len(text) <= 300 else text[:297] + "...").rstrip(".")


def find_base_url(base_url):
    """Return `base_url`, or else the value of the variable OPENAI_BASE_URL.

    None stands for the default of the client, which is OpenAI.
    """
    if base_url is None:
        base_url = os.environ.get("OPENAI_BASE_URL", "").strip() or None
    if base_url is None:
        return None
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "base_url must be a URL such as http://localhost:8080/v1; got "
            f"{base_url!r}."
        )
    if "@" in parts.netloc:  # it would be shown by every repr
        raise ValueError(
            "base_url must not contain a user name or password. Put the key into an "
            "environment variable, and pass the name of the variable as api_key_env."
        )
    return base_url.rstrip("/")


def server_settings(settings):
    """Adapt the result of `output_settings` to models on a server.

    The server may be named by the environment, and `model` is never a local path.
    """
    settings = {key: settings[key] for key in settings if key != "model_files"}
    return settings | {"base_url": find_base_url(settings["base_url"])}


def _read_key(name, base_url):
    key = os.environ.get(name, "").strip()
    if not key and base_url is None:
        raise ValueError(
            f"An API key is needed: put it into the environment variable {name}, or "
            "pass the name of another variable as api_key_env. For a server of your "
            "own, set base_url."
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"The value of the environment variable {name} is not an API key: it has "
            "characters that are not allowed in an HTTP header."
        )
    # The client requires a key; servers that need none ignore it.
    return key or "none-needed"


def ask_each(settings, ask, items, describe):
    """Apply a function to a client and each item, several items at a time.

    Parameters
    ----------
    settings : OpenAIEmbedder or OpenAIGenerator
        Settings of the client, and `concurrency`.
    ask : callable
        ``ask(client, item)`` returns the result of an item.
    items : list
        The items. If empty, no client is made and no key is needed.
    describe : callable
        ``describe(done)`` returns the end of the message of an error; `done` is the
        list of the numbers of the finished items.

    Yields
    ------
    number : int
        Index in `items`. The items are yielded as they finish.
    result : object
        Result of the item.

    Raises
    ------
    APIError or ValueError
        The first error of `ask`. Its message begins with the class of `settings`.
    """
    if not items:
        return
    done = []
    with APIClient(settings) as client:
        try:
            for number, result in run_concurrently(
                partial(ask, client), items, settings.concurrency
            ):
                yield number, result
                done.append(number)
        except (APIError, ValueError) as error:
            error.args = (f"{type(settings).__name__}: {error} {describe(done)}",)
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
