"""Client of OpenAI-compatible servers: requests and errors."""

import copy
import json
import os
import re
from numbers import Integral, Real
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from skqprobe._backends.answers import message_of, read_json, shorten
from skqprobe._backends.http_client import APIError, NoConnection, make_http_client
from skqprobe._backends.identity import identify
from skqprobe._backends.redaction import is_secret, redact, without_secrets
from skqprobe._backends.refusal import PromptRefused
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.optional import import_optional
from skqprobe._utils.sklearn_compat import Interval

CONSTRAINTS: dict = {
    "model": [str],
    "base_url": [str, None],
    "api_key_env": [str],
    "max_retries": [Interval(Integral, 0, None, closed="left")],
    "timeout": [Interval(Real, 0, None, closed="neither")],
    "max_answer_bytes": [Interval(Integral, 1, None, closed="left")],
    "concurrency": [Interval(Integral, 1, None, closed="left")],
    "extra_body": [dict, None],
    "extra_query": [dict, None],
    "default_headers": [dict, None],
}
"""Constraints of the parameters of the client."""

INERT = frozenset(
    {"api_key_env", "max_retries", "timeout", "max_answer_bytes", "concurrency"}
    | {"default_headers"}
)
"""Parameters that do not change the answers; `default_headers` may be secret."""


class ServerModel(BaseEstimator):
    """Base class of embedders and generators whose model is on a server."""

    base_url: str | None

    def _settings(self):
        """Return the settings that determine the output, without secrets.

        The server may be named by the environment, and `model` is never a local path.
        Parameters that did not exist always are left out unless they are used, so that
        older caches and files remain valid.
        """
        settings = super()._settings() | {"base_url": find_base_url(self.base_url)}
        new = {"extra_body", "extra_query"}
        left_out = {name for name in new if not settings[name]} | {"model_files"}
        settings = {k: v for k, v in settings.items() if k not in left_out}
        shown = without_secrets(settings)
        for name in new & shown.keys():  # not the values, but whether they are equal
            shown[name] = [shown[name], identify(settings[name])]
        return settings | shown

    def _shown(self):
        """Return a copy without secrets, which represents this object in text."""
        shown = copy.copy(self)
        shown.__dict__.update(without_secrets(vars(self)))
        return shown

    def __repr__(self, N_CHAR_MAX=700):
        return super(ServerModel, self._shown()).__repr__(N_CHAR_MAX)

    def _get_params_html(self, *args, **kwargs):
        return super(ServerModel, self._shown())._get_params_html(*args, **kwargs)


class APIClient:
    """The official client, with limits, and without secrets in any error.

    Any number of threads may use one client. It is a context manager.

    Parameters
    ----------
    settings : OpenAIEmbedder or OpenAIGenerator
        Has the parameters of `CONSTRAINTS`.

    Raises
    ------
    ImportError
        If the package openai is not installed, or one that the proxy needs.
    ValueError
        If the key is missing where one is needed, or is not a valid key; if `base_url`
        is not a URL, or contains a password; or if another parameter is invalid.
    """

    def __init__(self, settings):
        self._openai = import_optional(
            "openai", needed_by=type(settings).__name__, extra="openai"
        )
        self._env, self._timeout = settings.api_key_env, float(settings.timeout)
        base_url = find_base_url(settings.base_url)
        self._key = _read_key(self._env, base_url)
        self._extra_body = _check_body(settings.extra_body or {})
        headers = _check_headers(settings.default_headers or {})
        query = dict(settings.extra_query or {})
        if base_url is not None:
            parts = urlsplit(base_url)
            query = dict(parse_qsl(parts.query, keep_blank_values=True)) | query
            base_url = urlunsplit(parts._replace(query=""))
        hidden = {**self._extra_body, **headers, **query}
        self._secrets = {str(v): "***" for k, v in hidden.items() if is_secret(k)}
        self._form = _FORMS.setdefault((base_url, settings.model), _Form(base_url))
        failure: Exception
        try:
            self._http_client = make_http_client(
                self._openai, self._timeout, int(settings.max_answer_bytes)
            )
            self._client = self._openai.OpenAI(
                api_key=self._key,
                base_url=base_url,
                max_retries=int(settings.max_retries),
                timeout=self._timeout,
                default_headers=headers,
                default_query=query,
                http_client=self._http_client,
            )
            return
        except ImportError as error:
            failure = ImportError(
                "the proxy of the environment (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) "
                "needs another package: pip install socksio. The error was: "
                + self.redact(str(error))
            )
        except Exception as error:  # InvalidURL is no ValueError
            failure = ValueError(
                "no HTTP client can be made for base_url and the proxies of the "
                f"environment: {self.redact(str(error))} (The address of a SOCKS proxy "
                "begins with socks5://, and needs another package: pip install "
                "socksio.)"
            )
        raise failure

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._client.close()

    def redact(self, text):
        """Remove the key and other secrets from a text."""
        return redact(text, {self._key: "[API key]"} | self._secrets)

    def ask(self, path, body, read):
        """Send a request, with retries, in a form that the server accepts.

        Parameters
        ----------
        path : str
            The endpoint, such as "/embeddings".
        body : dict
            Content of the request, of types that JSON supports.
        read : callable
            ``read(answer)`` returns the content of an answer, which is a dict.

        Returns
        -------
        content : object
            Result of `read`.

        Raises
        ------
        APIError
            If the server refuses, if its answer is missing or not a JSON object, or if
            `read` raises it.
        """
        for _ in range(3):
            sent = self._form.apply(body | self._extra_body)
            try:
                return self._post(path, sent, read)
            except APIError as error:
                if not self._form.adapt(sent, error):
                    raise
        return self._post(path, self._form.apply(body | self._extra_body), read)

    def _post(self, path, body, read):
        failure: APIError
        try:
            response = self._client.post(
                path, body=body, cast_to=self._http_client.Response
            )
            if "failure" in response.extensions:
                raise response.extensions["failure"]
            return read(read_json(response.content))
        except APIError as error:
            failure = error
        except self._openai.APIStatusError as error:
            failure = self._refusal(error)
        except self._openai.APITimeoutError:
            failure = APIError(
                f"no complete answer within timeout={self._timeout} seconds in the "
                "last attempt. Raise timeout, or reduce batch_size or concurrency."
            )
        except self._openai.APIConnectionError as error:
            cause = self._quote(str(error.__cause__ or error))
            failure = NoConnection(
                f"no connection to {self._client.base_url} in the last attempt: "
                f"{cause}. Check base_url, and check that the server is running."
            )
        failure.args = (self.redact(str(failure)),)
        failure.said = self.redact(failure.said)
        failure.param = self.redact(failure.param)
        # Raised outside the except blocks. The error of the client would become the
        # context of this one, and it holds the request, which holds the key.
        raise failure

    def _refusal(self, error):
        """Return what the server refused, and what may help."""
        status, body = error.status_code, error.body
        if 300 <= status < 400:
            target = self._quote(error.response.headers.get("location", "nowhere"))
            return APIError(
                f"the server answered HTTP {status}: it redirects to {target}. "
                "Requests are redirected to the same host and port only. Check "
                "base_url.",
                status,
            )
        said = message_of(body or error.message)
        param = body.get("param") if isinstance(body, dict) else None
        hint = {
            401: f"Check the API key in the environment variable {self._env}.",
            403: f"Check the API key in the environment variable {self._env}.",
            404: "Check model and base_url; the latter often ends with /v1.",
            429: "Reduce concurrency, raise max_retries, or check your quota.",
        }.get(status, "")
        if status == 400 and re.search("temperature|top_p", said):
            hint = "temperature=None and top_p=None leave these out."
        return APIError(
            f"the server answered HTTP {status}: {self._quote(said)}. {hint}".strip(),
            status,
            said,
            param if isinstance(param, str) else "",
        )

    def _quote(self, text):
        """Shorten a text of the server or the client, and remove secrets."""
        return shorten(" ".join(self.redact(text).split())).rstrip(".")


class _Form:
    """Form of the requests that a server accepts, as far as it is known.

    Newer models of OpenAI refuse the name max_tokens, most other servers the new name.
    A few servers refuse encoding_format.
    """

    def __init__(self, base_url):
        self.limit = "max_completion_tokens" if base_url is None else "max_tokens"
        self.has_format = True

    def apply(self, body):
        """Return the content of a request in this form."""
        body = dict(body)
        if "messages" in body and "max_tokens" in body:
            body.setdefault(self.limit, body.pop("max_tokens"))
        if not self.has_format:
            body.pop("encoding_format", None)
        return body

    def adapt(self, sent, error):
        """Change the form if an error asks for another one; return whether it does."""
        said = f"{error.param} {error.said}"
        if error.status not in (400, 422):
            return False
        if "encoding_format" in sent and "encoding_format" in said:
            self.has_format = False
        elif "messages" not in sent or "max_completion_tokens" not in said:
            return False
        elif "max_tokens" in sent:
            self.limit = "max_completion_tokens"
        elif _UNKNOWN.search(said):
            self.limit = "max_tokens"
        else:
            return False
        return True


_FORMS: dict[tuple[str | None, str], _Form] = {}
"""Forms by the address of a server and the name of a model."""

_UNKNOWN = re.compile("unknown|unrecogni|unsupported|not supported|extra", re.I)


def is_about_item(error):
    """Return whether a server refuses the content of a request, and not its settings.

    Parameters
    ----------
    error : APIError
        Error of the request.
    """
    # llama.cpp has 500 for long texts, OpenRouter has 403 for those that it moderates.
    words = {500: "too (large|long)", 403: "flagged|moderat|safety|content policy"}
    if not re.match(r"(input|messages|prompt)\b|$", error.param):
        return False
    if re.search("billing|quota|credit|balance", error.said, re.I):
        return False  # it refuses the account
    if error.status in words:
        return re.search(words[error.status], error.said) is not None
    return error.status in (400, 413, 422, 451)


def failure_of_item(error):
    """Return the error of one item, after which others may succeed.

    Parameters
    ----------
    error : APIError
        Error of the request.

    Returns
    -------
    failure : PromptRefused or APIError
        `PromptRefused` if the server refuses the content of the item.

    Raises
    ------
    APIError
        The error, if all items have it: of the key, the address or the connection.
    """
    if is_about_item(error):
        return PromptRefused(str(error))
    status = error.status or 0
    of_all = status in (401, 402, 404, 429) or 300 <= status < 400
    if of_all or isinstance(error, NoConnection):
        raise error
    return error


def find_base_url(base_url):
    """Return `base_url`, or else the value of the variable OPENAI_BASE_URL.

    None stands for the default of the client, which is OpenAI.
    """
    if base_url is None:
        base_url = os.environ.get("OPENAI_BASE_URL", "").strip() or None
    if base_url is None:
        return None
    try:
        parts = urlsplit(base_url)
        is_url = parts.scheme in ("http", "https") and parts.hostname
        is_url = is_url and parts.port != 0  # .port raises an error
    except ValueError:
        is_url = False
    if not is_url:
        raise ValueError(
            "base_url must be a URL such as http://localhost:8080/v1; got "
            f"{redact(base_url)!r}."
        )
    if "@" in parts.netloc:  # it would be stored with every record
        raise ValueError(
            "base_url must not contain a user name or password. Put the key into an "
            "environment variable, and pass the name of the variable as api_key_env."
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/"), fragment=""))


def _check_headers(headers):
    for name, value in headers.items():
        texts = isinstance(name, str) and isinstance(value, str)
        if not (texts and (name + value).isascii() and (name + value).isprintable()):
            raise ValueError(
                "default_headers must be a dict of texts of ASCII; the header "
                f"{name!r} is not."
            )
    return headers


def _check_body(extra_body):
    reserved = {"input", "messages", "model", "n", "prompt", "stream"} & set(extra_body)
    if reserved:
        raise ValueError(
            f"extra_body must not replace {sorted(reserved)}, which have parameters or "
            "arguments of their own."
        )
    try:
        json.dumps(extra_body, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"extra_body is not valid JSON: {error}.") from None
    return extra_body


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
