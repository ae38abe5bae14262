"""Responses that end when the client is gone, and streams that keep it waiting."""

import asyncio
import json

from skqprobe.serve._answer import event, stream_answer
from skqprobe.serve._errors import RequestError
from skqprobe.serve._gate import send_error

KEEP_ALIVE = b": keep-alive\n\n"
"""Comment of a stream, which clients ignore."""


class Response:
    """ASGI response of work that is cancelled if the client is gone.

    Parameters
    ----------
    work : callable
        ``await work()`` returns the answer, a dict, and headers, a dict; or raises a
        RequestError.
    stream : dict or None
        If given, the answer is sent as a stream, with the arguments of `stream_answer`.
    keep_alive : float
        Seconds after which a stream begins, and between comments in it.
    """

    def __init__(self, work, stream, keep_alive):
        self._work, self._stream, self._keep_alive = work, stream, keep_alive

    async def __call__(self, scope, receive, send):
        await while_connected(receive, self._run(send))

    async def _run(self, send):
        work = asyncio.create_task(self._work())
        try:
            if self._stream is None:
                answer, headers = await work
                content = json.dumps(answer).encode()
                await send(_start(200, "application/json", headers, len(content)))
                await send({"type": "http.response.body", "body": content})
            else:
                await self._run_stream(work, send)
        except RequestError as error:
            await send_error(error, send)
        finally:
            work.cancel()

    async def _run_stream(self, work, send):
        await asyncio.wait([work], timeout=self._keep_alive)
        is_done = work.done()
        headers = work.result()[1] if is_done else {}
        await send(_start(200, "text/event-stream", headers | _STREAM))
        while not work.done():
            await send(_part(KEEP_ALIVE))
            await asyncio.wait([work], timeout=self._keep_alive)
        try:
            for each in stream_answer(work.result()[0], **self._stream):
                await send(_part(each))
        except RequestError as error:  # the status has gone out
            await send(_part(event(error.as_object())))
        await send({"type": "http.response.body", "body": b""})


_STREAM = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _part(content):
    return {"type": "http.response.body", "body": content, "more_body": True}


def _start(status, content_type, headers, length=None):
    headers = {"content-type": content_type} | headers
    if length is not None:
        headers["content-length"] = str(length)
    encoded = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}


class Refusal:
    """ASGI response of an error."""

    def __init__(self, error):
        self._error = error

    async def __call__(self, scope, receive, send):
        await send_error(self._error, send)


class PassedOn:
    """ASGI response of the upstream, as it comes.

    Parameters
    ----------
    upstream : Upstream
        The client.
    request : tuple
        Arguments of `Upstream.stream`.
    headers : list of (bytes, bytes), default=()
        Headers to add to those of the upstream.
    """

    def __init__(self, upstream, request, headers=()):
        self._upstream, self._request, self._headers = upstream, request, headers

    async def __call__(self, scope, receive, send):
        await while_connected(receive, self._relay(send))

    async def _relay(self, send):
        has_begun = False
        try:
            async with self._upstream.stream(*self._request) as response:
                headers = await self._upstream.check(response)
                start = {"type": "http.response.start", "status": response.status_code}
                await send(start | {"headers": [*headers, *self._headers]})
                has_begun = True
                async for chunk in response.aiter_raw():
                    await send(_part(chunk))
                await send({"type": "http.response.body", "body": b""})
        except RequestError as error:
            if has_begun:  # the server closes the connection
                raise
            await send_error(error, send)


async def while_connected(receive, coroutine):
    """Run a coroutine, and cancel it if the client disconnects."""
    work = asyncio.create_task(coroutine)
    gone = asyncio.create_task(_wait_until_gone(receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.wait({work, gone})


async def _wait_until_gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
