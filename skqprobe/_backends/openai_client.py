"""What the backends of OpenAI-compatible servers share: client, errors, threads."""

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from json import JSONDecodeError
from numbers import Integral, Real
from urllib.parse import urlsplit

from skqprobe._utils.sklearn_compat import Interval

CONSTRAINTS: dict = {
    "model": [str],
    "base_url": [str, None],
    "api_key_env": [str],
    "max_retries": [Interval(Integral, 0, None, closed="left")],
    "timeout": [Interval(Real, 0, None, closed="neither")],
    "concurrency": [Interval(Integral, 1, None, closed="left")],
}
"""Constraints of the parameters that say whom to ask, and how."""

INERT = frozenset({"api_key_env", "max_retries", "timeout", "concurrency"})
"""Those of them that change no answer."""


class APIError(RuntimeError):
    """A request failed, and the client has given up.

    Parameters
    ----------
    message : str
        What happened and what to do; the API key is not in it.
    status : int, default=None
        The HTTP status; None where there was no answer, or no use in it.
    """

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


class APIClient:
    """The official client, kept from giving its key away; for any number of threads.

    Parameters
    ----------
    settings : OpenAIEmbedder or OpenAIGenerator
        Has the parameters of `CONSTRAINTS`.

    Raises
    ------
    ImportError
        If the package openai is not installed.
    ValueError
        If the key is missing where one is needed, or cannot be one; or `base_url` is no
        URL, or has a password in it.
    """

    def __init__(self, settings):
        try:
            import openai
        except ImportError:
            raise ImportError(
                f"{type(settings).__name__} needs the package openai: "
                'pip install "skqprobe[openai]".'
            ) from None
        self._env, self._timeout = settings.api_key_env, settings.timeout
        self.base_url = find_base_url(settings.base_url)
        self._key = _read_key(self._env, self.base_url)
        self._client = openai.OpenAI(
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
        """Send a request, again and again if need be.

        Parameters
        ----------
        path : str
            The endpoint, such as "/embeddings".
        body : dict
            What JSON knows.

        Returns
        -------
        answer : dict

        Raises
        ------
        APIError
            If the server refuses, or gives no answer or none that is a JSON object.
        """
        import openai

        try:
            # Not client.embeddings.create and the like: answers are checked here, and
            # there numbers in an answer of another form would be lost.
            answer = self._client.post(path, body=body, cast_to=object)
        except openai.APIStatusError as error:
            failure = APIError(self._refusal(error), error.status_code)
        except openai.APITimeoutError:
            failure = APIError(
                f"no answer within timeout={self._timeout} seconds, at the last try "
                "too. Raise timeout, or make batch_size or concurrency smaller."
            )
        except openai.APIConnectionError as error:
            failure = APIError(
                f"no connection to {self._client.base_url}, at the last try too: "
                f"{self._quote(error.__cause__ or error)}. Check base_url, and that "
                "the server runs."
            )
        except (JSONDecodeError, UnicodeDecodeError):
            failure = APIError("the answer is not JSON. Check base_url.")
        else:
            if isinstance(answer, dict) and not answer.get("error"):
                return answer
            failure = APIError(
                f"the answer makes no sense: {self._quote(answer)}. Check base_url; it "
                "often ends with /v1."
            )
        # Raised here and not above: an error of the client, which would come along as
        # its context, holds the request, and so the key.
        raise failure

    def _refusal(self, error):
        """Say what the server refused, and what may help."""
        hint = {
            401: f"Check the API key in the environment variable {self._env}.",
            403: f"Check the API key in the environment variable {self._env}.",
            404: "Check model and base_url; the latter often ends with /v1.",
            429: "Make concurrency smaller, max_retries larger, or see to your quota.",
        }.get(error.status_code, "")
        said = self._quote(error.body or error.message)
        return f"the server answered HTTP {error.status_code}: {said}. {hint}".strip()

    def _quote(self, value):
        """Shorten what a server or the client said, without the key."""
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            value = value["message"]
        text = " ".join(str(value).replace(self._key, "[API key]").split())
        return (text if len(text) <= 300 else text[:297] + "...").rstrip(".")


def find_base_url(base_url):
    """Find whom the client asks: `base_url`, or else the variable OPENAI_BASE_URL.

    None is the client's own default.
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
    if "@" in parts.netloc:  # would be in every repr
        raise ValueError(
            "base_url must not have a user name or password in it. Put the key into an "
            "environment variable, and its name into api_key_env."
        )
    return base_url.rstrip("/")


def _read_key(name, base_url):
    key = os.environ.get(name, "").strip()
    if not key and base_url is None:
        raise ValueError(
            f"An API key is needed: put it into the environment variable {name}, or "
            "name another one in api_key_env. For a server of your own give base_url."
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"What the environment variable {name} holds is no API key: it has "
            "characters that no HTTP header may have."
        )
    # The client must have some key; servers that want none do not look at it.
    return key or "none-needed"


def run_concurrently(function, items, concurrency):
    """Apply a function to items, several at a time.

    After the first failure no other item is begun; those under way are finished.

    Parameters
    ----------
    function : callable
        Takes an item.
    items : list
        The items.
    concurrency : int
        How many threads there are.

    Yields
    ------
    number : int
        Which of the items it is.
    result : object
        What `function` returned for it. They come as they are done.

    Raises
    ------
    Exception
        The first that `function` raised, when all that was under way is done.
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
        # Under way there is something only if the caller has stopped, or was stopped
        # from the keyboard: no answer is worth waiting for then.
        pool.shutdown(wait=not running)
    if failure is not None:
        raise failure
