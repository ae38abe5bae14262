"""OpenAIGenerator: completions from OpenAI or any server that speaks its language."""

import json
import math
import zlib
from numbers import Integral, Real

import numpy as np

from skqprobe._backends.openai_client import (
    CONSTRAINTS,
    INERT,
    APIClient,
    APIError,
    run_concurrently,
)
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.generators._base import BaseGenerator


class OpenAIGenerator(BaseGenerator):
    """Draw candidates from OpenAI, or from any server that has the same interface.

    Such are llama.cpp, vLLM, Ollama and most paid services. Chat messages go to their
    chat endpoint, texts to the one that continues a text, which not all of them have.

    A server may have sampling settings of its own besides those here, and candidates
    are then not drawn from the model's distribution: llama.cpp, for one, begins with
    ``--top-k 40 --min-p 0.05``, and ``--top-k 0 --min-p 0`` turns them off.

    Parameters
    ----------
    model : str
        Name of the model, as the server has it.
    base_url : str, default=None
        Where the server is, such as "http://localhost:8080/v1". None reads the
        environment variable OPENAI_BASE_URL and, without it, asks OpenAI.
    api_key_env : str, default="OPENAI_API_KEY"
        Name of the environment variable that holds the API key. It is read whenever
        candidates are drawn, and kept nowhere. It is sent to `base_url`: name another
        variable for a server that must not see your key. A server of your own may need
        none; the variable need not be set then.
    chat : bool, default=None
        Whether prompts go to the chat endpoint. None decides by the form of each
        prompt; True makes a text the one message of a user; False refuses messages.
    temperature : float, default=1.0
        Temperature of the model's sampling, 0 or more. 1 draws from the model as it is;
        at 0 all candidates are alike. Not the temperature of a policy.
    top_p : float, default=1.0
        Draw each token from the likeliest ones that have this probability together, in
        (0, 1]. 1 draws from all.
    max_tokens : int, default=256
        The most tokens of a completion.
    stop : str or list of str, default=None
        A completion ends before the first of these texts.
    seed : int, default=None
        Makes draws repeatable, as far as the server can (concurrent requests may change
        the rounding). Each request gets a seed of its own, which follows from `seed`,
        the prompt and how many completions it has; so the same prompt gets the same
        candidates wherever it stands. None draws anew each time.
    log_likelihoods : bool, default=False
        Whether to ask for the log-likelihood of each completion.
    max_retries : int, default=5
        How often a request is tried again after HTTP 408, 409, 429 and 5xx, a time-out
        or a broken connection. The time between is what the server asks for, up to two
        minutes, or else grows up to 8 seconds.
    timeout : float, default=60.0
        After how many seconds without an answer a request has failed. A server answers
        when all completions of a request are ready.
    concurrency : int, default=4
        How many prompts are under way at a time.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds.

    See Also
    --------
    collect : Draw candidates, score them, and keep them on disk as they come.
    skqprobe.embedders.OpenAIEmbedder : Embeddings from the same servers.

    Examples
    --------
    >>> from skqprobe.generators import OpenAIGenerator
    >>> generator = OpenAIGenerator("local", base_url="http://localhost:8080/v1")
    >>> generator.generate(["1 + 1 ="], k=2)  # doctest: +SKIP
    [{'prompt': '1 + 1 =', 'completions': [' 2', ' 11'], ...}]
    """

    _parameter_constraints: dict = {
        **BaseGenerator._parameter_constraints,
        **CONSTRAINTS,
        "chat": ["boolean", None],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "top_p": [Interval(Real, 0, 1, closed="right")],
        "max_tokens": [Interval(Integral, 1, None, closed="left")],
        "stop": [str, list, None],
        "seed": [Interval(Integral, 0, None, closed="left"), None],
        "log_likelihoods": ["boolean"],
    }

    inert_parameters = BaseGenerator.inert_parameters | INERT

    def __init__(
        self,
        model,
        *,
        base_url=None,
        api_key_env="OPENAI_API_KEY",
        chat=None,
        temperature=1.0,
        top_p=1.0,
        max_tokens=256,
        stop=None,
        seed=None,
        log_likelihoods=False,
        max_retries=5,
        timeout=60.0,
        concurrency=4,
        progress="auto",
    ):
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.chat = chat
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.stop = stop
        self.seed = seed
        self.log_likelihoods = log_likelihoods
        self.max_retries = max_retries
        self.timeout = timeout
        self.concurrency = concurrency
        self.progress = progress

    def sample(self, prompt, k):
        """Draw candidates for one prompt.

        A server that gives less than k completions at a time is asked again.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            How many completions to draw.

        Returns
        -------
        record : dict
            With the keys

            - "prompt";
            - "completions" : list of k texts. One may be empty.
            - "finish_reasons" : list of k texts, such as "stop" and "length".
            - "log_likelihoods" : list of k floats. If asked for: the sums of the
              log-probabilities of the tokens, as the server gives them: llama.cpp's and
              vLLM's are of the model as it is, whatever `temperature` and `top_p` are;
              llama.cpp counts the token that ends a completion, OpenAI does not.
            - "n_tokens" : list of k ints. Where it is known: with "log_likelihoods",
              how many tokens these are of, else if the server gave the completions one
              at a time, how many it counted.

        Raises
        ------
        RuntimeError
            If a request fails for good.
        ValueError
            If an answer has no completions, or no log-probabilities though asked for.
        """
        return self.generate([prompt], k)[0]

    def sample_each(self, prompts, k):
        """Draw candidates for prompts, `concurrency` of them at a time.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
        k : int
            How many completions to draw for each.

        Yields
        ------
        number : int
            Which of the prompts it is. They come as they are done.
        record : dict
            See `sample`.

        Raises
        ------
        RuntimeError
            If a request fails for good. `generate` loses the finished records then;
            `collect` keeps them on disk.
        ValueError
            If an answer has no completions, or no log-probabilities though asked for.
        """
        if self.chat is False and not all(isinstance(p, str) for p in prompts):
            raise ValueError(
                "chat=False sends texts alone, but among prompts there are chat "
                "messages. Leave chat out to have both."
            )
        if not prompts:  # no key is needed
            return
        n_done = 0
        with APIClient(self) as client:
            draws = _Draws(client, self)
            try:
                for number, record in run_concurrently(
                    lambda prompt: draws.sample(prompt, k), prompts, self.concurrency
                ):
                    yield number, record
                    n_done += 1
            except (APIError, ValueError) as error:
                error.args = (
                    f"{type(self).__name__}: {error} {n_done} of {len(prompts)} "
                    "prompts were done; skqprobe.generators.collect would keep them.",
                )
                raise


class _Draws:
    """Draws from one server, which learns how many completions a request may ask for.

    Parameters
    ----------
    client : APIClient
        Asks the server.
    generator : OpenAIGenerator
        Has the settings.
    """

    def __init__(self, client, generator):
        self.client = client
        self.generator = generator
        self.most_at_once = math.inf

    def sample(self, prompt, k):
        """Draw k completions of a prompt, in as few requests as the server allows."""
        as_chat = self.generator.chat or not isinstance(prompt, str)
        completions: list[dict] = []
        while len(completions) < k:
            n = min(k - len(completions), self.most_at_once)
            body = self._body(prompt, n, len(completions), as_chat)
            try:
                answer = self.client.ask(
                    "/chat/completions" if as_chat else "/completions", body
                )
            except APIError as error:
                # Servers have a limit (llama.cpp's is its slots), and do not tell it
                # in any common way.
                if n == 1 or error.status not in (400, 422):
                    raise
                self.most_at_once = min(self.most_at_once, max(1, n // 2))
            else:
                completions += _read_completions(answer, n, as_chat)
        return self._record(prompt, completions)

    def _body(self, prompt, n, n_before, as_chat):
        """Make a request for n completions of a prompt that has n_before already."""
        settings = self.generator
        body = {
            "model": settings.model,
            "temperature": float(settings.temperature),
            "top_p": float(settings.top_p),
        }
        if n > 1:
            body["n"] = n
        if settings.stop is not None:
            body["stop"] = settings.stop
        if settings.seed is not None:
            # Not of the prompt's position: collect asks for a few prompts at a time.
            prompt_number = zlib.crc32(json.dumps(prompt, sort_keys=True).encode())
            state = np.random.SeedSequence([settings.seed, prompt_number, n_before])
            body["seed"] = int(state.generate_state(1)[0] >> 1)  # 31 bits fit anywhere
        if not as_chat:
            body |= {"prompt": prompt, "max_tokens": int(settings.max_tokens)}
            return body | ({"logprobs": 1} if settings.log_likelihoods else {})
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        # OpenAI's newer models refuse the old name, most other servers know no other.
        limit = (
            "max_completion_tokens" if self.client.base_url is None else "max_tokens"
        )
        body |= {"messages": prompt, limit: int(settings.max_tokens)}
        # To llama.cpp 0 alternatives mean no log-probabilities, and none given mean 20.
        asked = {"logprobs": True, "top_logprobs": 1}
        return body | (asked if settings.log_likelihoods else {})

    def _record(self, prompt, completions):
        record = {
            "prompt": prompt,
            "completions": [c["text"] for c in completions],
            "finish_reasons": [c["finish_reason"] for c in completions],
        }
        if self.generator.log_likelihoods:
            record["log_likelihoods"] = [_sum(c) for c in completions]
            record["n_tokens"] = [len(c["log_probs"] or []) for c in completions]
        elif all(c["n_tokens"] is not None for c in completions):
            record["n_tokens"] = [c["n_tokens"] for c in completions]
        return record


def _read_completions(answer, n, as_chat):
    """Bring an answer's completions, n at most, into dicts."""
    choices = answer.get("choices")
    choices = [c for c in choices if isinstance(c, dict)] if choices else []
    if not choices:
        raise ValueError("the server gave an answer without completions.")
    usage = answer.get("usage") or {}
    return [_read_completion(choice, usage, n, as_chat) for choice in choices[:n]]


def _read_completion(choice, usage, n, as_chat):
    text = (
        (choice.get("message") or {}).get("content") if as_chat else choice.get("text")
    )
    return {
        "text": text or "",  # None stands for empty, as of a model that only thought
        "finish_reason": choice.get("finish_reason"),
        "log_probs": _log_probs(choice.get("logprobs") or {}),
        # Of several it would be the sum, and llama.cpp's is of the first alone.
        "n_tokens": usage.get("completion_tokens") if n == 1 else None,
    }


def _log_probs(logprobs):
    """Find the tokens' log-probabilities, in either of their two forms, or None."""
    if logprobs.get("content") is not None:  # chat, and llama.cpp always
        return [token["logprob"] for token in logprobs["content"]]
    return logprobs.get("token_logprobs")


def _sum(completion):
    if completion["log_probs"] is None and completion["text"]:
        raise ValueError(
            "log_likelihoods=True, but the server gave no log-probabilities. It may "
            "not have them for this model: leave log_likelihoods out."
        )
    return math.fsum(completion["log_probs"] or [])
