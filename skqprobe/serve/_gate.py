"""The gate: which requests are let in, and how many at a time."""

import asyncio
import hmac
import time

from skqprobe.serve._errors import RequestError

OPEN = ("/health", "/metrics")
"""Paths that are not counted."""

_NAMES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/feedback": "feedback",
}


class Gate:
    """ASGI middleware that bounds, authorizes and counts requests.

    Parameters
    ----------
    app : ASGI application
        The application behind it.
    settings : SimpleNamespace
        Settings of the server.
    metrics : Metrics
        Metrics of the server.
    """

    def __init__(self, app, settings, metrics):
        self._app, self._settings, self._metrics = app, settings, metrics
        self._n_under_way = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await self._app(scope, receive, send)
        try:
            self._check(scope)
        except RequestError as error:
            await send_error(error, send)
            return self._count(scope, error.status)
        if path_of(scope) in OPEN:
            return await self._app(scope, receive, send)
        await self._pass(scope, receive, send)

    async def _pass(self, scope, receive, send):
        """Pass a request on, and count it."""
        status, start = 499, time.perf_counter()  # 499: the client is gone

        async def watch(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            async with asyncio.timeout(self._settings.timeout):
                await send(message)  # waits while the client does not read

        self._n_under_way += 1
        self._metrics.under_way.inc()
        try:
            await self._app(scope, receive, watch)
        except TimeoutError:  # the server closes the connection
            status = 499
        finally:
            self._n_under_way -= 1
            self._metrics.under_way.dec()
            self._count(scope, status)
            seconds = time.perf_counter() - start
            self._metrics.seconds.labels(_name(scope)).observe(seconds)

    def _check(self, scope):
        """Raise an error if a request is not let in."""
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        origin = headers.get("origin", b"").decode("latin-1")
        host = headers.get("host", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != host:
            raise RequestError(403, "web pages of other servers may not use this one.")
        token, path = self._settings.client_token, path_of(scope)
        if token is not None and path != "/health":
            given = headers.get("authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, token.encode()):
                raise RequestError(
                    401,
                    "the token of this server is needed as API key.",
                    "authentication_error",
                )
        limit = self._settings.max_requests
        if self._n_under_way >= limit and path not in OPEN:
            raise RequestError(
                429,
                f"this server has {limit} requests under way; try again.",
                "rate_limit_error",
                headers={"retry-after": "1"},
            )

    def _count(self, scope, status):
        self._metrics.requests.labels(_name(scope), status).inc()


def path_of(scope):
    """Return the path of a request, below that of the application."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def _name(scope):
    return _NAMES.get(path_of(scope), "other")


async def send_error(error, send):
    """Send an error as a complete answer."""
    headers = {"content-length": str(len(error.content))} | error.headers
    encoded = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    start = {"type": "http.response.start", "status": error.status}
    await send(start | {"headers": encoded})
    await send({"type": "http.response.body", "body": error.content})
