"""OpenAIGenerator: completions from OpenAI or a compatible server."""

import json
import math
import re
import zlib
from collections import Counter
from functools import partial
from numbers import Integral, Real

import numpy as np

from skqprobe._backends.answers import read_completions
from skqprobe._backends.concurrent_requests import ask_each
from skqprobe._backends.http_client import APIError
from skqprobe._backends.openai_client import (
    CONSTRAINTS,
    INERT,
    ServerModel,
    failure_of_item,
)
from skqprobe._backends.refusal import PromptRefused
from skqprobe._backends.token_features import TOKEN_FEATURES, describe_likeliest
from skqprobe._utils.sklearn_compat import Interval
from skqprobe._utils.warn import warn_user
from skqprobe.generators._base import BaseGenerator, check_prefix


class OpenAIGenerator(ServerModel, BaseGenerator):
    """Sample candidates from OpenAI, or from a server that has the same interface.

    Compatible servers are llama.cpp, vLLM, Ollama and most paid services. Chat messages
    are sent to their chat endpoint, and texts to their completions endpoint, which not
    all of them have. Read more in :doc:`/guide/generators`.

    Parameters
    ----------
    model : str
        Name of the model on the server.
    base_url : str, default=None
        Address of the server, such as "http://localhost:8080/v1". If None, the value of
        the environment variable OPENAI_BASE_URL or, if it is not set, OpenAI. A query,
        such as "?api-version=1", is part of each request. Redirects to another host or
        port are refused.
    api_key_env : str, default="OPENAI_API_KEY"
        Name of the environment variable with the API key. The key is read at every call
        and never stored. It is sent to `base_url`: name another variable for a server
        that must not receive your key. For a server that needs no key, the variable
        need not be set.
    chat : bool, default=None
        Whether to send prompts to the chat endpoint. If None, only chat messages are
        sent there. If True, a text is sent as the message of a user. If False, chat
        messages are an error.
    temperature : float or None, default=1.0
        Temperature of the model's sampling, in [0, inf): its logits are divided by it.
        At 0, the most likely token is taken each time, so all completions of a prompt
        are equal. It is not the temperature of a policy. If None, it is not sent: some
        models refuse it.
    top_p : float or None, default=1.0
        Probability of the set of tokens to sample from, in (0, 1]: each token is drawn
        from the smallest set of most likely tokens that has this probability. 1 samples
        from all tokens. If None, it is not sent: some models refuse it.
    max_tokens : int, default=256
        Maximum number of tokens of a completion.
    stop : str or list of str, default=None
        Text or texts before which a completion ends.
    seed : int, default=None
        Seed of the sampling. Completions depend on the seed and the prompt, and not on
        the other prompts. If None, each call samples new completions.
    log_likelihoods : bool, default=False
        Whether to return the log-likelihood of each completion.
    top_logprobs : int, default=None
        Number of the likeliest tokens, in place of each token, from whose
        log-probabilities "likelihood_features" are computed, at least 2. Servers have a
        limit, such as 20. If None, there are no such features.
    max_retries : int, default=5
        Maximum number of retries of a request after HTTP 408, 409, 429 or 5xx, a
        timeout or a broken connection. The delay is the one that the server asks for,
        up to two minutes, or else grows up to 8 seconds.
    timeout : float, default=60.0
        Seconds after which a request without a complete answer has failed. Each retry
        has as much time. An answer that has begun by then is not requested again.
    max_answer_bytes : int, default=33554432
        Maximum size of an answer, in bytes after decompression. A larger one is an
        error. The default is 32 MiB.
    concurrency : int, default=4
        Number of concurrent requests.
    extra_body : dict, default=None
        Further fields of each request, which replace those of the same name.
    extra_query : dict, default=None
        Parameters to add to the query of the URL.
    default_headers : dict of str to str, default=None
        Headers to add to each request. They are not part of the settings that `collect`
        and a cache compare. A pickle, and the text of a pipeline, contain them.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    See Also
    --------
    collect : Sample candidates, score them, and write them to disk.
    skqprobe.embedders.OpenAIEmbedder : Embeddings from the same servers.

    Notes
    -----
    A server may have other sampling settings than those above. Then candidates are not
    sampled from the distribution of the model. llama.cpp, for example, starts with
    ``--top-k 40 --min-p 0.05``; ``--top-k 0 --min-p 0`` turns them off.

    A server answers when all completions of a request are ready: raise `timeout` if
    completions are long. Requests for one prompt are sent one after the other, so
    `concurrency` is the number of prompts in progress.

    Each request has its own seed, computed from `seed`, the prompt and the number of
    completions that the prompt has already. Results are repeatable as far as the server
    allows: concurrent requests may change its rounding.

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
        "temperature": [Interval(Real, 0, None, closed="left"), None],
        "top_p": [Interval(Real, 0, 1, closed="right"), None],
        "max_tokens": [Interval(Integral, 1, None, closed="left")],
        "stop": [str, list, None],
        "seed": [Interval(Integral, 0, None, closed="left"), None],
        "log_likelihoods": ["boolean"],
        "top_logprobs": [Interval(Integral, 2, None, closed="left"), None],
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
        top_logprobs=None,
        max_retries=5,
        timeout=60.0,
        max_answer_bytes=2**25,
        concurrency=4,
        extra_body=None,
        extra_query=None,
        default_headers=None,
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
        self.top_logprobs = top_logprobs
        self.max_retries = max_retries
        self.timeout = timeout
        self.max_answer_bytes = max_answer_bytes
        self.concurrency = concurrency
        self.extra_body = extra_body
        self.extra_query = extra_query
        self.default_headers = default_headers
        self.progress = progress

    def sample(self, prompt, k, prefix=""):
        """Sample candidates for one prompt.

        If the server returns less than k completions at a time, it is asked again.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.
        prefix : str, default=""
            Beginning of all completions, which the model continues.

        Returns
        -------
        record : dict
            Record with the keys

            - "prompt";
            - "completions" : list of k texts, which may be empty. They begin with the
              prefix; all other values are of the text after it.
            - "finish_reasons" : list of k texts, such as "stop" and "length".
            - "log_likelihoods" : list of k floats, with ``log_likelihoods=True``: the
              sums of the log-probabilities of the tokens, as the server returns them.
              Those of llama.cpp and vLLM are of the unchanged model, whatever
              `temperature` and `top_p` are. llama.cpp includes the token that ends a
              completion, OpenAI does not. None if the server did not return all of
              them.
            - "n_tokens" : list of k ints, if known. With "log_likelihoods", the number
              of tokens in these. Otherwise, the number that the server reports if it
              returns the completions one at a time.
            - "likelihood_features" : ndarray of shape (k, 8), with `top_logprobs`:
              sum, mean and minimum of the log-probabilities of the tokens, mean
              entropy, number of tokens, maximum entropy, mean entropy of the last tenth
              of the tokens, and mean margin, as
              :class:`~skqprobe.embedders.LikelihoodEmbedder` defines them. All tokens
              that the server does not list count as one, so the entropies are lower
              bounds. NaN if the server did not return all of them.
            - "tool_calls" : list of length k, if there are any: the calls of tools as
              the server sent them, or None. The completion has them in a form that does
              not depend on their ids.
            - "refusals" : list of length k, if there are any: the text that the model
              returned as a refusal, and not as the completion, or None.

        Raises
        ------
        PromptRefused
            If the server refuses the prompt, such as by a filter of contents.
        RuntimeError
            If a request fails after all retries.
        ValueError
            If an answer has no completions, or no log-probabilities although they were
            requested; or if a prompt with a prefix is for the chat endpoint.
        """
        return self._generate([prompt], k, prefix=prefix)[0]

    def sample_each(self, prompts, k, prefix=""):
        """Sample candidates for prompts, `concurrency` of them at a time.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.
        prefix : str, default=""
            Beginning of all completions, which the model continues.

        Yields
        ------
        number : int
            Index of the prompt in `prompts`. The prompts are yielded as they finish.
        record : dict or Exception
            Record of the prompt; see `sample`. Or an error, if the server refuses the
            prompt, or fails for this prompt, but not for others.

        Raises
        ------
        RuntimeError
            If the server cannot be reached, refuses the key, or fails for all prompts;
            or if it fails for 20 prompts in a row, or refuses the last ones, and the
            prompt "Hi", too. `generate` then loses the finished records. `collect`
            keeps them on disk.
        ValueError
            As for RuntimeError, if the answers have no completions. If a prompt with a
            prefix is for the chat endpoint.

        Warns
        -----
        RuntimeWarning
            If completions have no text, or unknown log-likelihoods. One warning of each
            kind per call, with the number.
        """
        if self.chat is False and not all(isinstance(p, str) for p in prompts):
            raise ValueError(
                "chat=False allows texts only, but some prompts are chat messages. "
                "Leave chat out to send both."
            )

        check_prefix(prefix)
        if prefix:
            self._check_continues(prompts)

        def describe(done):
            return (
                f"{len(done)} of {len(prompts)} prompts were done; "
                "skqprobe.generators.collect would keep them."
            )

        draws = _Draws(self, k, prefix)
        instead: Counter[str] = Counter()
        n_unknown = n_nan = 0
        for number, result in ask_each(
            self, draws.sample, prompts, describe, draws.check
        ):
            if not isinstance(result, Exception):
                result, fields = result
                instead.update(fields)
                n_unknown += result.get("log_likelihoods", []).count(None)
                n_nan += np.isnan(result.get("likelihood_features", [[]])).any(1).sum()
            yield number, result
        for n, unknown in (
            (n_unknown, "log-likelihoods are None: the server returned no"),
            (n_nan, "rows of likelihood_features are NaN: the server returned no"),
        ):
            if n:
                warn_user(
                    f"{n} {unknown} log-probability of some tokens of these "
                    "completions.",
                    RuntimeWarning,
                )
        if instead:
            listed = ", ".join(f"{name} ({n})" for name, n in instead.most_common())
            warn_user(
                f"{instead.total()} completions have no text, and are ''. The fields "
                f"that the model filled instead: {listed}. If it is reasoning, raise "
                "max_tokens.",
                RuntimeWarning,
            )

    def _check_continues(self, prompts):
        if self.chat or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(
                "prefix needs texts as prompts, and not chat=True: a chat endpoint "
                "answers messages and cannot continue a text. Put the messages into a "
                "text by the model's chat template, or use TransformersGenerator."
            )


class _Draws:
    """Draws from one server, with its limit of completions per request.

    Parameters
    ----------
    generator : OpenAIGenerator
        Settings of the draws.
    k : int
        Number of completions per prompt.
    prefix : str
        Beginning of all completions.
    """

    def __init__(self, generator, k, prefix):
        self.generator = generator
        self.k = k
        self.prefix = prefix
        self.most_at_once = math.inf

    def sample(self, client, prompt):
        """Sample the completions of a prompt in as few requests as possible.

        Returns
        -------
        record : dict
            The record of the prompt.
        instead : list of str
            For each completion without text, the field that the model filled instead.

        Or, in place of both, the error of this prompt.
        """
        try:
            if not self.prefix:
                return self._sample(client, prompt)
            record, instead = self._sample(client, prompt + self.prefix)
        except APIError as error:
            return failure_of_item(error)
        record["prompt"] = prompt
        record["completions"] = [self.prefix + text for text in record["completions"]]
        return record, instead

    def check(self, client, prompt):
        """Raise an error unless the server accepts a prompt that no filter stops."""
        chat = [{"role": "user", "content": "Hi"}]
        try:
            self._sample(client, "Hi" if isinstance(prompt, str) else chat)
        except (APIError, PromptRefused) as error:
            raise APIError(f"even the prompt 'Hi' fails: {error}") from None

    def _sample(self, client, prompt):
        as_chat = self.generator.chat or not isinstance(prompt, str)
        path = "/chat/completions" if as_chat else "/completions"
        read = partial(read_completions, as_chat=as_chat)
        completions: list[dict] = []
        while len(completions) < self.k:
            n = min(self.k - len(completions), self.most_at_once)
            body = self._body(prompt, n, len(completions), as_chat)
            try:
                drawn = client.ask(path, body, read)[:n]
            except APIError as error:
                # Servers have a limit, such as the number of slots of llama.cpp, and no
                # common way to report it.
                if n == 1 or not is_about_n(error):
                    raise
                self.most_at_once = min(self.most_at_once, max(1, n // 2))
            else:
                # For several it is the sum, and in llama.cpp the number of the first.
                unknown = {} if n == 1 else {"n_tokens": None}
                completions += [completion | unknown for completion in drawn]
        instead = [c["instead"] for c in completions if c["instead"]]
        return self._record(prompt, completions), instead

    def _body(self, prompt, n, n_before, as_chat):
        """Make a request for n completions of a prompt that has n_before already."""
        settings = self.generator
        body = {"model": settings.model, "max_tokens": int(settings.max_tokens)}
        for name in "temperature", "top_p":
            if getattr(settings, name) is not None:
                body[name] = float(getattr(settings, name))
        if n > 1:
            body["n"] = n
        if settings.stop is not None:
            body["stop"] = settings.stop
        if settings.seed is not None:
            # Independent of the position: collect passes the remaining prompts only.
            prompt_number = zlib.crc32(json.dumps(prompt, sort_keys=True).encode())
            state = np.random.SeedSequence([settings.seed, prompt_number, n_before])
            body["seed"] = int(state.generate_state(1)[0] >> 1)  # 31 bits fit anywhere
        n_top = settings.top_logprobs or int(settings.log_likelihoods)
        if not as_chat:
            body["prompt"] = prompt
            return body | ({"logprobs": int(n_top)} if n_top else {})
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        # With top_logprobs=0, llama.cpp returns no log-probabilities; without it, 20
        # alternatives.
        asked = {"logprobs": True, "top_logprobs": int(n_top)}
        body["messages"] = prompt
        return body | (asked if n_top else {})

    def _record(self, prompt, completions):
        # Some servers return nothing for the tokens of a part of a character.
        has_text = any(c["text"].strip("\ufffd") for c in completions)
        record = {
            "prompt": prompt,
            "completions": [c["text"] for c in completions],
            "finish_reasons": [c["finish_reason"] for c in completions],
        }
        for key, name in {"tool_calls": "tool_calls", "refusal": "refusals"}.items():
            if any(c[key] for c in completions):
                record[name] = [c[key] for c in completions]
        if self.generator.top_logprobs is not None:
            features = np.array([_describe(c) for c in completions])
            if np.isnan(features).all() and has_text:
                raise PromptRefused(
                    f"top_logprobs={self.generator.top_logprobs}, but the server "
                    "returned no list of the likeliest tokens. It may not support it "
                    "for this model: leave top_logprobs out."
                )
            record["likelihood_features"] = features
        if self.generator.log_likelihoods:
            log_probs = [known_log_probs(c) for c in completions]
            if log_probs.count(None) == len(log_probs) and has_text:
                raise PromptRefused(
                    "log_likelihoods=True, but the server returned no "
                    "log-probabilities. It may not support them for this model: leave "
                    "log_likelihoods out."
                )
            record["log_likelihoods"] = [
                None if p is None else math.fsum(p) for p in log_probs
            ]
            record["n_tokens"] = [None if p is None else len(p) for p in log_probs]
        elif all(c["n_tokens"] is not None for c in completions):
            record["n_tokens"] = [c["n_tokens"] for c in completions]
        return record


def _describe(completion):
    """Return the features of the likelihood; NaN if some are unknown."""
    log_probs, likeliest = known_log_probs(completion), completion["likeliest"]
    if log_probs == []:
        likeliest = []
    if log_probs is None or likeliest is None or len(log_probs) != len(likeliest):
        return [math.nan] * len(TOKEN_FEATURES)
    return [*describe_likeliest(log_probs, likeliest).values()]


def known_log_probs(completion):
    """Return log-probabilities; None if some are unknown."""
    said = completion["text"] or completion["instead"]
    return completion["log_probs"] or (None if said else [])


def is_about_n(error):
    """Return whether a server refuses the number of completions per request."""
    named = error.param == "n" or _ABOUT_N.search(error.said)
    return error.status in (400, 422) and bool(named)


_ABOUT_N = re.compile(
    r"\bn\b|n_cmpl|slots?\b|candidate|(?<!tool_)choices?\b"
    r"|(number of|multiple) completion",
    re.IGNORECASE,
)
