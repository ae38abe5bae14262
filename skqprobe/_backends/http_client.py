"""HTTP client that bounds the time and size of answers, and stays at one server."""

import threading
import time
import zlib
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

MAX_REDIRECTS = 5


class APIError(RuntimeError):
    """A request failed after all retries.

    Parameters
    ----------
    message : str
        Description of the error and of what to do, without secrets.
    status : int, default=None
        HTTP status. None if there was no answer, or no usable one.
    said : str, default=""
        Full message of the server.
    param : str, default=""
        Part of the request to which the server objects, if it names one.

    Attributes
    ----------
    failures : dict of int to Exception
        Errors of the items, by index, if all items of a call failed, each by itself.
    """

    failures: Mapping[int, Exception] = MappingProxyType({})

    def __init__(self, message, status=None, said="", param=""):
        super().__init__(message)
        self.status, self.said, self.param = status, said, param


class NoConnection(APIError):  # noqa: N818
    """The server cannot be reached."""


class AnswerError(APIError, ValueError):
    """An answer does not have the form that is needed."""


def make_http_client(openai, timeout, max_bytes):
    """Make an HTTP client for the official client.

    In httpx, the timeout starts again at each byte, the size of an answer has no limit,
    and redirects lead to any server.

    Parameters
    ----------
    openai : module
        The package openai.
    timeout : float
        Seconds from the start of a request to the last byte of its answer.
    max_bytes : int
        Maximum size of an answer, after decompression.

    Returns
    -------
    client : httpx.Client
        It follows redirects to the same server only. If an answer is too large, cannot
        be decompressed, or is incomplete at the deadline, its response has the
        extension "failure", an error. (The official client would repeat the request if
        it were raised, and the server would have to make the answer again.)
    """
    # Recent versions of openai use httpx2 in place of httpx.
    httpx = import_module(openai.DefaultHttpxClient.__base__.__module__.split(".")[0])
    running = threading.local()  # state of the request of each thread

    def seconds_left():
        left = running.deadline - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout(f"no complete answer within {timeout} seconds")
        return left

    def bound(stream):
        """Bound the operations of a new connection by the deadline."""
        read, write = stream.read, stream.write

        def bounded_read(n_bytes, timeout=None):
            content = read(n_bytes, timeout=seconds_left())
            running.has_begun = True
            return content

        stream.read = bounded_read
        stream.write = lambda content, timeout=None: write(content, seconds_left())

    def trace(event, info):
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            bound(info["return_value"])
        elif event.endswith("receive_response_headers.started"):
            running.has_begun = False  # what came before is of a proxy

    class Client(openai.DefaultHttpxClient):  # type: ignore[name-defined]
        Response = httpx.Response

        def send(self, request, **options):
            running.deadline, running.has_begun = time.monotonic() + timeout, False
            failure: APIError
            try:
                options |= {"stream": True, "follow_redirects": False}
                return self._send(request, options)
            except AnswerError as error:
                failure = error
            except httpx.TimeoutException:
                if not running.has_begun:
                    raise
                failure = APIError(
                    f"no complete answer within timeout={timeout} seconds, although it "
                    "has begun. Raise timeout, or reduce batch_size, k or max_tokens."
                )
            return httpx.Response(200, request=request, extensions={"failure": failure})

        def _send(self, request, options):
            for n_left in reversed(range(MAX_REDIRECTS + 1)):
                request.extensions["trace"] = trace
                response = super().send(request, **options)
                if not (n_left and same_server(request, response.next_request)):
                    break
                response.close()
                request = response.next_request
            try:
                content = _read(response, max_bytes, seconds_left)
            finally:
                response.close()
            changed = {"content-encoding", "content-length", "transfer-encoding"}
            kept = [h for h in response.headers.multi_items() if h[0] not in changed]
            if response.status_code == 500 and b"too large" in content:
                kept.append(("x-should-retry", "false"))  # llama.cpp, of long texts
            return httpx.Response(
                response.status_code, headers=kept, content=content, request=request
            )

    # The only encoding that _read needs to decode.
    return Client(timeout=timeout, headers={"Accept-Encoding": "gzip"})


def same_server(request, redirected):
    """Return whether a redirect repeats the request on the same server."""
    if redirected is None or redirected.method != request.method:
        return False  # all but 307 and 308 change POST to GET
    url, target = request.url, redirected.url
    return (url.scheme, url.host, url.port) == (target.scheme, target.host, target.port)


def _read(response, max_bytes, seconds_left):
    """Return the content of an answer, decompressed step by step."""
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise AnswerError(f"the answer has the content encoding {encoding!r}.")
    decoder = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    content = bytearray()
    try:
        for chunk in response.iter_raw():
            seconds_left()
            if decoder is not None:
                chunk = decoder.decompress(chunk, max_bytes + 1 - len(content))
            content += chunk
            if len(content) > max_bytes:
                raise AnswerError(
                    f"the answer has more than max_answer_bytes={max_bytes} bytes. "
                    "Raise this limit, or reduce batch_size, k or max_tokens."
                )
            if decoder is not None and decoder.unused_data:
                raise zlib.error("more than one part")
        if decoder is not None and content and not decoder.eof:
            raise zlib.error("incomplete")
    except zlib.error as error:
        raise AnswerError(f"the answer is not valid gzip: {error}.") from None
    return bytes(content)
