"""Client of the server upstream, whose answers are passed on or chosen from."""

import asyncio
import json
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from skqprobe._backends.answers import message_of, read_json, shorten
from skqprobe._backends.http_client import MAX_REDIRECTS, APIError, same_server
from skqprobe._backends.openai_client import find_base_url
from skqprobe._backends.redaction import redact
from skqprobe._utils.optional import import_optional
from skqprobe.serve._control import HEADER
from skqprobe.serve._errors import UpstreamError

_OF_CONNECTION = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers of one connection, which are not passed on; "connection" names others."""

_NOT_SENT = _OF_CONNECTION | {"host", "content-length", "cookie", "expect", "origin"}
_NOT_RETURNED = _OF_CONNECTION | {"date", "server", "set-cookie"}
_OF_CLIENT = {"authorization", "api-key", "x-api-key"}
"""Headers with the key of a client, or with the token of this server."""


class Upstream:
    """Asynchronous client of one server.

    Parameters
    ----------
    settings : SimpleNamespace
        Settings of the server.
    """

    def __init__(self, settings):
        self._httpx = import_optional("httpx", needed_by="create_app", extra="serve")
        try:
            parts = urlsplit(find_base_url(settings.upstream))
        except ValueError as error:
            raise ValueError(str(error).replace("base_url", "upstream")) from None
        self._query = parse_qsl(parts.query, keep_blank_values=True)
        self._url = urlunsplit(parts._replace(query=""))
        self._settings = settings
        self._pools: list[_Pool] = []
        self._loop = None

    def headers_for(self, headers):
        """Return the headers to send, as pairs of str and bytes."""
        left_out, key = _NOT_SENT, self._settings.api_key
        if self._settings.client_token is not None:
            left_out = left_out | _OF_CLIENT
        kept = _keep([(n, v.encode("latin-1")) for n, v in headers.items()], left_out)
        # Errors must be readable, to find the key in them. Without the header, httpx
        # would ask for compressed answers, which this client may not understand.
        if key is not None or "accept-encoding" not in dict(kept):
            kept = [pair for pair in kept if pair[0] != "accept-encoding"]
            kept.append(("accept-encoding", b"identity"))
        if key is not None:
            kept.append(("authorization", f"Bearer {key}".encode()))
        return kept

    async def ask(self, path, body, headers):
        """Return the JSON object of the answer to a request.

        Parameters
        ----------
        path : str
            The endpoint, such as "/completions".
        body : dict
            Content of the request.
        headers : list of (str, bytes)
            Headers of the request.

        Raises
        ------
        UpstreamError
            If there is no usable answer.
        """
        own = {"accept-encoding", "content-type"}
        headers = [pair for pair in headers if pair[0] not in own]
        headers += [("accept-encoding", b"identity"), ("content-type", JSON)]
        content = json.dumps(body).encode()
        async with self.stream("POST", path, headers, content) as response:
            answer = await self._read(response)
        if response.status_code >= 400:
            raise self._refusal(response, answer)
        try:
            return read_json(answer)
        except APIError as error:  # also an error in an answer of HTTP 200
            raise UpstreamError(
                error.status if error.status in range(400, 600) else 502,
                self.redact(str(error).replace("base_url", "upstream")),
            ) from None

    @asynccontextmanager
    async def stream(self, method, path, headers, content, query=()):
        """Send a request, and give the answer, whose body is not read yet.

        Redirects are followed on the same server only.
        """
        pool = self._find_pool()
        client, query = pool.client, [*self._query, *query]
        url = self._url + quote(path, safe="/:@!$&'()*+,;=~")
        options = {"headers": headers, "content": content, "params": query or None}
        response, pool.n_under_way = None, pool.n_under_way + 1
        try:
            request = client.build_request(method, url, **options)
            for n_left in reversed(range(MAX_REDIRECTS + 1)):
                response = await client.send(request, stream=True)
                if response.next_request is None:
                    break
                await response.aclose()
                if not (n_left and same_server(request, response.next_request)):
                    raise UpstreamError(
                        502, "the upstream redirects the request, which is not followed"
                    )
                request = response.next_request
            yield response
        except self._httpx.TimeoutException:
            raise UpstreamError(504, "the upstream did not answer in time") from None
        except (self._httpx.TransportError, self._httpx.InvalidURL) as error:
            name = type(error).__name__
            raise UpstreamError(
                502, f"the connection to the upstream failed: {name}"
            ) from None
        finally:
            pool.n_under_way -= 1
            if response is not None:
                await response.aclose()

    async def check(self, response):
        """Return the headers of an answer that is passed on.

        Raises
        ------
        UpstreamError
            If the answer is an error, which may contain the key of this server.
        """
        if response.status_code >= 400 and self._settings.api_key is not None:
            raise self._refusal(response, await self._read(response))
        return [(n.encode(), v) for n, v in _keep(_decode(response), _NOT_RETURNED)]

    def redact(self, text):
        """Remove the key of this server from a text."""
        key = self._settings.api_key
        return redact(text, {} if key is None else {key: "[API key]"})

    async def close(self):
        """Close all connections."""
        for pool in self._pools:
            await pool.client.aclose()
        self._pools = []

    def _find_pool(self):
        """Return a pool of the running event loop, to which connections belong."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._pools = loop, []
            self._tls = self._httpx.create_ssl_context()
        for pool in self._pools:
            if pool.n_under_way < POOL_SIZE:
                return pool
        if len(self._pools) == MAX_POOLS:
            return min(self._pools, key=lambda pool: pool.n_under_way)
        client = self._httpx.AsyncClient(
            verify=self._tls,
            timeout=self._httpx.Timeout(self._settings.timeout, pool=None),
            limits=self._httpx.Limits(
                max_connections=POOL_SIZE,
                keepalive_expiry=2.0,  # before most servers close a connection
            ),
            follow_redirects=False,
            # Cookies of one client must not be sent with the requests of another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._pools.append(_Pool(client))
        return self._pools[-1]

    async def _read(self, response):
        """Return the body of an answer, up to the largest size."""
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise UpstreamError(502, f"the upstream answers in {shorten(encoding, 40)}")
        limit, content = self._settings.max_answer_bytes, bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > limit:
                raise UpstreamError(
                    502, f"the upstream's answer has more than {limit} bytes"
                )
        return bytes(content)

    def _refusal(self, response, content):
        """Return the error with which the upstream refuses a request."""
        text = content.decode("utf-8", "replace")
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            said = text
        said = said.get("error", said) if isinstance(said, dict) else said
        if self._settings.api_key is not None:
            content = self.redact(text).encode()
        kept = ("content-type", "retry-after", "x-request-id")
        found = _decode(response)
        headers = {n: value.decode("latin-1") for n, value in found if n in kept}
        param = said.get("param") if isinstance(said, dict) else None
        return UpstreamError(
            response.status_code,
            self.redact(message_of(said)),
            content,
            headers,
            param if isinstance(param, str) else "",
        )


def _decode(response):
    """Return the headers of an answer as pairs of str, in lower case, and bytes."""
    return [(n.decode("latin-1").lower(), value) for n, value in response.headers.raw]


def _keep(headers, left_out):
    """Return headers without those left out, of one connection, and of this package."""
    named = b",".join(value for name, value in headers if name == "connection")
    left_out = left_out | {
        n.strip() for n in named.decode("latin-1").lower().split(",")
    }
    return [
        (name, value)
        for name, value in headers
        if name not in left_out and not name.startswith(HEADER)
    ]


JSON = b"application/json"

POOL_SIZE = 16
"""Connections per pool. The time of httpx per request grows with their square."""

MAX_POOLS = 64
"""Number of pools. More requests wait for a connection."""


class _Pool:
    """A client of httpx, and the number of its requests under way."""

    def __init__(self, client):
        self.client, self.n_under_way = client, 0
