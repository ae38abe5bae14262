"""Draws: the candidates of one request, from one or several requests upstream."""

import asyncio
from typing import Any, NamedTuple

from skqprobe._backends.answers import read_completions
from skqprobe._backends.http_client import APIError
from skqprobe.generators._openai import is_about_n
from skqprobe.serve._errors import UpstreamError

TRANSIENT = {408, 500, 502, 503}
"""Status of errors after which all draws are repeated, if none succeeded."""


class Candidate(NamedTuple):
    """A candidate: the choice as the upstream sent it, and what it says.

    `answer` has the other fields of the upstream's answer; `content` is that of
    `read_completions`.
    """

    answer: dict
    choice: dict
    content: dict


class Drawer:
    """Draw candidates upstream, with the number per request that it allows.

    Parameters
    ----------
    upstream : Upstream
        The client.
    settings : SimpleNamespace
        Settings of the server.
    """

    def __init__(self, upstream, settings):
        self.upstream, self._settings = upstream, settings
        self._limits = {}

    async def draw(self, path, body, headers, k, deadline):
        """Draw k candidates, or those that come until a deadline.

        Parameters
        ----------
        path : str
            "/chat/completions" or "/completions".
        body : dict
            Content of the request, without `n`.
        headers : list of (str, bytes)
            Headers of the request.
        k : int
            Number of candidates.
        deadline : float
            Time of the event loop.

        Returns
        -------
        draw : Draw
            The candidates, at least one.

        Raises
        ------
        UpstreamError
            If no candidate came.
        """
        draw = Draw(self, path, body, headers)
        try:
            async with asyncio.timeout_at(deadline):
                for attempt in range(self._settings.max_retries + 1):
                    if attempt:
                        await asyncio.sleep(0.1 * 2**attempt)
                    await draw.fill(k, 0)
                    if draw.found or not draw.is_transient():
                        break
        except TimeoutError:
            draw.errors.append(UpstreamError(504, "no answer came in time"))
        if not draw.found:
            raise draw.errors[-1]
        return draw

    def limit(self, kind):
        """Return the number of completions that the upstream gives per request."""
        return self._limits.get(kind, self._settings.n_per_request or 2**31)

    def lower(self, kind, limit):
        """Lower the limit of a kind of requests."""
        if limit < self.limit(kind):
            if len(self._limits) >= 1000:  # names are those of clients
                self._limits.clear()
            self._limits[kind] = limit


class Draw:
    """Candidates of one request, as they come.

    Attributes
    ----------
    found : dict of int to Candidate
        Candidates by their number, which is below k.
    errors : list of UpstreamError
        Errors of the requests.
    usage : dict
        Sum of the usage of all answers.
    """

    def __init__(self, drawer, path, body, headers):
        self._drawer, self._path, self._body = drawer, path, body
        self._headers = headers
        # Some servers, such as vLLM, give one completion at temperature 0 only.
        self._kind = body.get("model"), body.get("temperature") == 0
        self._limit = drawer.limit(self._kind)
        self.found: dict[int, Candidate] = {}
        self.errors: list[UpstreamError] = []
        self.usage: dict[str, Any] = {}

    @property
    def candidates(self):
        """The candidates, by number."""
        return [self.found[i] for i in sorted(self.found)]

    def is_transient(self):
        """Return whether all errors may go away."""
        return all(error.status in TRANSIENT for error in self.errors)

    async def fill(self, n, start):
        """Draw candidates number `start` to `start + n`, concurrently."""
        starts = range(start, start + n, self._limit)
        sizes = [min(self._limit, start + n - first) for first in starts]
        if len(sizes) == 1:
            return await self._request(sizes[0], start)
        async with asyncio.TaskGroup() as group:
            for size, first in zip(sizes, starts, strict=True):
                group.create_task(self._request(size, first))

    async def _request(self, n, start):
        """Draw n candidates in one request; in several if n is refused or ignored."""
        body = self._body | ({"n": n} if n > 1 else {})
        if start and type(body.get("seed")) is int:
            body["seed"] += start  # the same seed would give the same candidates
        try:
            answer = await self._drawer.upstream.ask(self._path, body, self._headers)
            n_drawn = self._add(answer, n, start)
        except UpstreamError as error:
            if n == 1 or not is_about_n(error):
                self.errors.append(error)
                return
            n_drawn = 0
            self._limit = min(self._limit, n // 2)
        else:
            if n_drawn < n:
                self._limit = min(self._limit, n_drawn)
            # An answer proves that a refusal was about n, and not about all requests.
            self._drawer.lower(self._kind, self._limit)
        if n_drawn < n:
            await self.fill(n - n_drawn, start + n_drawn)

    def _add(self, answer, n, start):
        """Add the candidates of an answer, and return their number."""
        choices = answer.pop("choices", None)
        choices = choices[:n] if isinstance(choices, list) else []
        add_usage(self.usage, answer.get("usage"))
        as_chat = self._path == "/chat/completions"
        for i, choice in enumerate(choices):
            try:
                (content,) = read_completions({"choices": [choice]}, as_chat)
            except APIError as error:
                self.errors.append(UpstreamError(502, str(error)))
            else:
                self.found[start + i] = Candidate(answer, choice, content)
        if not self.found.keys() & range(start, start + n):
            raise UpstreamError(502, "the upstream returned no completion")
        return len(choices)


_LARGEST = 1e15
"""Bound of the numbers in "usage", whose sums are written as JSON."""


def add_usage(total, usage):
    """Add the numbers in an object to those in another one, in place."""
    for name, value in usage.items() if isinstance(usage, dict) else ():
        if isinstance(value, dict):
            if isinstance(total.setdefault(name, {}), dict):
                add_usage(total[name], value)
        elif type(value) in (int, float) and abs(value) < _LARGEST:
            before = total.get(name)
            total[name] = value + (before if type(before) in (int, float) else 0)
