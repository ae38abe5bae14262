"""The server: from a request to the candidates, the choice and the answer."""

import asyncio
import json
import logging
import re
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from sklearn.utils import check_random_state

from skqprobe.generators._record_file import is_finite
from skqprobe.serve._answer import ask_log_probs, make_answer, pick
from skqprobe.serve._choose import Chooser
from skqprobe.serve._control import HEADER, read_control
from skqprobe.serve._draw import Drawer
from skqprobe.serve._errors import RequestError
from skqprobe.serve._gate import path_of, send_error
from skqprobe.serve._log import AnswerLog
from skqprobe.serve._metrics import Metrics
from skqprobe.serve._record import NUMBERS, alternatives_needed, make_record
from skqprobe.serve._respond import PassedOn, Refusal, Response
from skqprobe.serve._upstream import Upstream

SHARE_OF_DRAWS = 0.9
"""Part of the time limit after which the choice begins with what has come."""

LOGGER = logging.getLogger("skqprobe.serve")


class Server:
    """Handlers of requests, and what they share.

    Parameters
    ----------
    pipeline : estimator
        Fitted pipeline.
    settings : SimpleNamespace
        Result of `check_settings`.
    """

    def __init__(self, pipeline, settings):
        self.settings, self.metrics = settings, Metrics()
        keys = settings.embeddings or []
        keys = [keys] if isinstance(keys, str) else keys
        if settings.embeddings == [] or any(key not in NUMBERS for key in keys):
            raise ValueError(
                f"embeddings must be some of {', '.join(NUMBERS)}; got "
                f"{settings.embeddings!r}."
            )
        self._n_alternatives = settings.top_logprobs or alternatives_needed(keys)
        self._chooser = Chooser(
            pipeline,
            settings.embeddings,
            settings.batch_wait,
            self.metrics.batches.observe,
        )
        self._rng = check_random_state(settings.random_state)
        self.upstream = Upstream(settings)
        self._drawer = Drawer(self.upstream, settings)
        self._log = None
        if settings.log is not None:
            if (
                settings.log_content == "embeddings"
                and not self._chooser.has_embeddings
            ):
                raise ValueError(
                    "log_content='embeddings' needs a pipeline that begins with an "
                    "embedder, or embeddings."
                )
            self._log = AnswerLog(settings.log, settings.log_content)
            self._log_thread = ThreadPoolExecutor(1, "skqprobe-log")

    @asynccontextmanager
    async def lifespan(self, app):
        """Close connections and the log at the end."""
        yield
        await self.upstream.close()
        if self._log is not None:
            self._log_thread.shutdown()
            self._log.close()

    async def complete(self, request, path):
        """Answer a request for completions."""
        try:
            body = await self._read_body(request)
            control = read_control(body, request.headers, self.settings)
        except RequestError as error:
            return Refusal(error)
        headers = self.upstream.headers_for(request.headers)
        if control.k == 1 or not self._chooses(control, body, path):
            content = json.dumps(body).encode()
            request = "POST", path, headers, content
            return PassedOn(self.upstream, request, _NO_CHOICE)
        stream = None
        if body.pop("stream", None):
            options = body.pop("stream_options", None)
            usage = isinstance(options, dict) and bool(options.get("include_usage"))
            stream = {"include_usage": usage}

        def work():
            return self._answer(path, body, headers, control)

        return Response(work, stream, self.settings.keep_alive)

    async def pass_on(self, scope, receive, send):
        """Pass a request on: the ASGI application of all other paths."""
        from starlette.requests import Request

        request = Request(scope, receive)
        path = path_of(scope)
        try:
            if scope["method"] not in _METHODS:
                raise RequestError(405, "this method is not passed on.")
            if _OUTSIDE.search(path):
                raise RequestError(404, "there is no such path.")
            content = await self._read_content(request)
        except RequestError as error:
            return await send_error(error, send)
        headers = self.upstream.headers_for(request.headers)
        query = request.query_params.multi_items()
        passed = scope["method"], path, headers, content, query
        await PassedOn(self.upstream, passed)(scope, receive, send)

    async def feedback(self, request):
        """Write the reward of an answer to the log."""
        from starlette.responses import JSONResponse

        try:
            if self._log is None:
                raise RequestError(404, "this server keeps no log (--log FILE).")
            body = await self._read_body(request)
            answer_id, reward = body.get("id"), body.get("reward")
            index = body.get("index", 0)
            if not isinstance(answer_id, str) or type(index) is not int or index < 0:
                raise RequestError(400, "id must be a text, and index an integer.")
            if not _is_reward(reward):
                raise RequestError(
                    400, "reward must be a finite number, or an object of them."
                )
            await self._write("reward", self._log.add_reward, answer_id, index, reward)
        except LookupError:
            error = RequestError(404, "there is no such answer in the log.", param="id")
            return Refusal(error)
        except (OSError, RuntimeError):
            return Refusal(RequestError(503, "the log cannot be written."))
        except RequestError as error:
            return Refusal(error)
        return JSONResponse({"object": "feedback", "id": answer_id})

    async def health(self, request):
        """Answer that the server runs."""
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def show_metrics(self, request):
        """Return the metrics."""
        from starlette.responses import Response

        content, content_type = self.metrics.text()
        return Response(content, media_type=content_type)

    def _chooses(self, control, body, path):
        """Return whether a choice is made for a request."""
        if path == "/completions" and not isinstance(body.get("prompt"), str):
            return False  # several prompts, or tokens
        return (
            control.is_explicit
            or control.model == self.settings.model
            or self.settings.model is None
        )

    async def _answer(self, path, body, headers, control):
        """Draw, choose and answer; return the answer and its headers."""
        loop, timeout = asyncio.get_running_loop(), self.settings.timeout
        end = loop.time() + timeout
        as_chat = path == "/chat/completions"
        n = body.pop("n", None) or 1
        asked, n_asked = ask_log_probs(body, as_chat, self._n_alternatives)
        asked = {k: v for k, v in asked.items() if k not in ("best_of", "stream")}
        self._chooser.n_drawing += 1
        try:
            draw = await self._drawer.draw(
                path, asked, headers, control.k, end - (1 - SHARE_OF_DRAWS) * timeout
            )
        finally:
            self._chooser.n_drawing -= 1
        candidates = draw.candidates
        n_failed = control.k - len(candidates)
        self.metrics.candidates.labels("drawn").inc(len(candidates))
        self.metrics.candidates.labels("failed").inc(n_failed)
        prompt = body.get("messages" if as_chat else "prompt")
        record, values = await self._values(prompt, candidates, end)
        picked, proba = list(range(min(n, len(candidates)))), None
        if values is not None:
            proba = values.at(control.temperature)
            picked = pick(candidates, values.values, proba, n, self._rng)
        report = self._report(control, candidates, values, proba, picked)
        answer = make_answer(
            [candidates[i] for i in picked],
            draw.usage,
            as_chat,
            control.name,
            n_asked,
            report if control.has_report else None,
        )
        if self._log is not None and values is not None:
            with suppress(OSError, RuntimeError, ValueError):
                await self._write(
                    "answer", self._log.add, answer["id"], record, values, proba, picked
                )
        return answer, _as_headers(report)

    async def _values(self, prompt, candidates, end):
        """Return the record of the candidates and its values; None if that fails."""
        record = None
        try:
            async with asyncio.timeout_at(end):
                record = make_record(prompt, candidates, self._n_alternatives > 0)
                return record, await self._chooser.values(record)
        except Exception as error:  # of the pipeline, which may raise any
            # Not its message, which may contain the prompt.
            place = traceback.extract_tb(error.__traceback__)[-1]
            name, file, line = type(error).__name__, place.filename, place.lineno
            LOGGER.error("The pipeline failed: %s in %s, line %s.", name, file, line)
            LOGGER.debug("The pipeline failed.", exc_info=error)
        if self.settings.on_error == "error":
            raise RequestError(502, "the choice failed.", "choice_error")
        return record, None

    def _report(self, control, candidates, values, proba, picked):
        """Return what is to be known of a choice."""
        rule = "first" if values is None else "pipeline"
        self.metrics.choices.labels(rule).inc()
        report = {
            "choice": rule,
            "k": control.k,
            "drawn": len(candidates),
            "failed": control.k - len(candidates),
        }
        best = picked[0]
        if values is not None:
            report["score"] = float(values.values[best])
            report["probability"] = float(proba[best])
            if values.rewards is not None:
                report["predicted_reward"] = float(values.rewards[best])
        if control.return_candidates:
            report["candidates"] = [
                {k: v for k, v in c.choice.items() if k not in ("index", "logprobs")}
                for c in candidates
            ]
            report["chosen"] = best
            for i, shown in enumerate(report["candidates"] if values else ()):
                shown["score"] = float(values.values[i])
                shown["probability"] = float(proba[i])
        return report

    async def _write(self, kind, function, *arguments):
        """Write to the log in its thread, and count what is lost."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._log_thread, function, *arguments)
        except (OSError, RuntimeError, ValueError) as error:
            self.metrics.logged.labels("lost").inc()
            LOGGER.error("The log cannot be written: %s", type(error).__name__)
            raise
        self.metrics.logged.labels(kind).inc()

    async def _read_body(self, request):
        """Return the JSON object in a request."""
        content = await self._read_content(request)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise RequestError(400, "the request must be a JSON object.")
        return body

    async def _read_content(self, request):
        """Return the content of a request, up to the largest size."""
        from starlette.requests import ClientDisconnect

        content, limit = bytearray(), self.settings.max_body_bytes
        try:
            async with asyncio.timeout(self.settings.timeout):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > limit:
                        message = f"the request has more than {limit} bytes."
                        raise RequestError(413, message)
        except TimeoutError:
            raise RequestError(408, "the request did not come in time.") from None
        except ClientDisconnect:
            raise RequestError(499, "the client is gone.") from None
        return bytes(content)


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
"""Methods that are passed on; TRACE would return the key of this server."""

_OUTSIDE = re.compile(r"(^|[/\\])\.\.?([;/\\]|$)")
"""Parts of paths that lead out of "/v1", as any server may read them."""

_NO_CHOICE = ((HEADER.encode() + b"choice", b"none"),)
"""Headers of an answer that was passed on, although it could be chosen."""


def _as_headers(report):
    """Return a report as headers."""
    names = "choice", "drawn", "failed", "score", "predicted_reward"
    return {
        HEADER + name.replace("_", "-"): f"{v:.6g}" if isinstance(v, float) else str(v)
        for name in names
        if (v := report.get(name)) is not None
    }


def _is_reward(reward):
    """Return whether a value is a number, or an object or list of numbers."""
    with suppress(TypeError, OverflowError):
        return is_finite(reward)
    return False
