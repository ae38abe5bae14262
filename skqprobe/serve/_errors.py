"""Errors of a request, which are answers to the client."""

import json
from contextlib import suppress


class RequestError(Exception):
    """The client gets an error in the form of OpenAI.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        Description of the error and of what to do, without secrets.
    kind : str, default="invalid_request_error"
        Type of the error.
    param : str, default=None
        Part of the request that is wrong.
    headers : dict of str to str, default=None
        Headers of the answer, besides the content type.
    """

    def __init__(
        self, status, message, kind="invalid_request_error", param=None, headers=None
    ):
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": kind, "param": param, "code": None}
        self.content = json.dumps({"error": error}).encode()
        self.headers = {"content-type": "application/json"} | (headers or {})

    def as_object(self):
        """Return the error as an object, for a stream."""
        with suppress(ValueError, RecursionError):
            content = json.loads(self.content)
            if isinstance(content, dict) and "error" in content:
                return content
        return {"error": {"message": str(self), "type": "upstream_error"}}


class UpstreamError(RequestError):
    """The upstream has no usable answer.

    Parameters
    ----------
    status : int
        HTTP status: that of the upstream, or 502 or 504 if there is none.
    message : str
        Description of the error, without secrets.
    content : bytes, default=None
        Body of the answer of the upstream, which the client gets unchanged.
    headers : dict of str to str, default=None
        Headers of the answer of the upstream that the client gets.
    param : str, default=""
        Part of the request to which the upstream objects, if it names one.
    """

    def __init__(self, status, message, content=None, headers=None, param=""):
        super().__init__(status, message, "upstream_error", headers=headers)
        self.said, self.param = message, param
        if content is not None:
            self.content = content
