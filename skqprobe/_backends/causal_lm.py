"""Causal language models of transformers: loading them, and text to tokens and back."""

import warnings
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

from skqprobe._backends.file_state import file_state
from skqprobe._utils.sklearn_compat import StrOptions

MODEL_CONSTRAINTS: dict = {
    "model": [str, Path],
    "gguf_file": [str, None],
    "revision": [str, None],
    "device": [str, None],
    "model_dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
    "trust_remote_code": ["boolean"],
}
"""Constraints of the parameters that name a model."""


def load_causal_lm(settings):
    """Load a model and its tokenizer; the last two are kept for the whole process.

    Embedders, generators and their clones share them, so that none holds weights. A
    local model whose files have changed is loaded anew.

    Parameters
    ----------
    settings : object
        Has the attributes that `MODEL_CONSTRAINTS` names, among others.

    Returns
    -------
    lm : CausalLM

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    OSError
        If there is no such model.
    """
    chosen = {name: getattr(settings, name) for name in MODEL_CONSTRAINTS}
    state = file_state(chosen["model"])
    return _load(
        **chosen | {"model": str(chosen["model"])},
        files=None if state is None else tuple(state),
    )


@lru_cache(maxsize=2)
def _load(*, model, gguf_file, revision, device, model_dtype, trust_remote_code, files):
    """Load a model; `files` tells versions of a local one apart."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ImportError(
            "A causal language model needs torch and transformers: pip install "
            '"skqprobe[transformers]".'
        ) from None
    given = {"gguf_file": gguf_file, "revision": revision}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    options["trust_remote_code"] = trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
        network = AutoModelForCausalLM.from_pretrained(
            model, dtype=model_dtype, **options
        )
    except OSError as error:
        raise OSError(
            f"model={model!r} cannot be loaded"
            + (f" with {given}" if len(options) > 1 else "")
            + ". Give the folder of a causal language model (with `gguf_file` for one "
            "in GGUF), or its name on the model hub; unset HF_HUB_OFFLINE if it has "
            "yet to be downloaded."
        ) from error
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return CausalLM(network.to(device).eval(), tokenizer)


class CausalLM:
    """A causal language model with its tokenizer.

    Prompt and completion are tokenized apart and their tokens joined. So it is always
    known which tokens are the completion's, and a prompt has the same tokens before
    every completion, as it has when a model is sampled; no token spans the border.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        With a language modelling head.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.

    Attributes
    ----------
    end_ids : set of int
        Tokens that end a completion.
    """

    def __init__(self, network, tokenizer):
        self.network = network
        self.tokenizer = tokenizer
        # Some tokenizers (Llama 2's) put a blank before every text, and drop it when
        # they decode. A completion is no text of its own: behind a line break, it is
        # tokenized and decoded as it stands.
        line_break = self._encode("\n")
        puts_blank = self._encode("a") != self._encode("\na")[len(line_break) :]
        self._before = "\n" if puts_blank else ""
        self._ids_before = line_break if puts_blank else []
        ends = network.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.end_ids = {*ends, tokenizer.eos_token_id} - {None}

    def encode_prompt(self, prompt):
        """Make token ids of a prompt, with special tokens as the tokenizer puts them.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages, which go through the model's chat template up to
            where the model is to answer.

        Returns
        -------
        ids : list of int
        """
        if not isinstance(prompt, str):
            if not getattr(self.tokenizer, "chat_template", None):
                raise ValueError(
                    "A prompt is a list of chat messages, but the model's tokenizer "
                    "has no chat template. Give prompts as texts."
                )
            prompt = self.tokenizer.apply_chat_template(
                [dict(message) for message in prompt],
                tokenize=False,
                add_generation_prompt=True,
            )
            return self._encode(prompt)  # the template has put the special tokens
        ids = self._encode(prompt, special=True)
        end = self.tokenizer.eos_token_id
        if ids and ids[-1] == end and self._encode(prompt)[-1:] != [end]:
            ids.pop()  # put by the tokenizer: the text goes on
        return ids

    def encode_completion(self, completion):
        """Make token ids of a completion, without special tokens at its ends."""
        return self._encode(self._before + completion)[len(self._ids_before) :]

    def encode_pair(self, prompt, completion):
        """Make token ids of both; where neither has any, one token to begin with."""
        prompt_ids = self.encode_prompt(prompt)
        completion_ids = self.encode_completion(completion)
        return prompt_ids or ([] if completion_ids else self._start()), completion_ids

    def decode(self, ids):
        """Make a completion's text of its token ids, without special tokens."""
        text = self.tokenizer.decode(
            self._ids_before + ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return text[len(self._before) :]

    def fit_context(self, pairs, max_length=None):
        """Cut prompts from the left until they and their completions fit the context.

        A BOS token at the beginning stays. One warning tells how much was cut.

        Parameters
        ----------
        pairs : list of (list of int, list of int)
            Token ids of prompts and completions.
        max_length : int, default=None
            The most tokens of a prompt and a completion, if less than the model's.

        Returns
        -------
        pairs : list of (list of int, list of int)
            Prompts that are not empty keep one token at least.

        Raises
        ------
        ValueError
            If a completion alone is too long.
        """
        limit = self.context(max_length)
        fitted, cuts = [], []
        for prompt, completion in pairs:
            n_over = len(prompt) + len(completion) - limit
            if len(completion) + bool(prompt) > limit:
                raise ValueError(
                    f"A completion has {len(completion)} tokens, but the context "
                    f"(max_length) is {limit}, with the prompt. A completion is never "
                    "cut: shorten it, or use a model with a longer context."
                )
            if n_over > 0:
                cuts.append(n_over)
                kept = prompt[:1] if prompt[0] == self.tokenizer.bos_token_id else []
                prompt = kept + prompt[len(kept) + n_over :]
            fitted.append((prompt, completion))
        if cuts:
            warnings.warn(
                f"{len(cuts)} of {len(pairs)} prompts do not fit the context: there is "
                f"room for {limit} tokens of a prompt and its completion, or of a "
                f"prompt where max_tokens are still to come. {sum(cuts)} tokens at "
                "the beginnings of prompts are left out. Shorten the prompts, or use "
                "a model with a longer context.",
                UserWarning,
                stacklevel=2,
            )
        return fitted

    def context(self, max_length=None):
        """Give the most tokens the model takes; infinity where it does not say."""
        config = self.network.config.get_text_config()
        limits = [max_length, getattr(config, "max_position_embeddings", None)]
        return min(
            (limit for limit in limits if limit is not None), default=float("inf")
        )

    def layer_numbers(self, layers, name):
        """Bring layers into a list of numbers from 0 (the token embeddings) on.

        Parameters
        ----------
        layers : int or list of int
            Negative ones count from the last.
        name : str
            What the argument is called.
        """
        numbers = [layers] if isinstance(layers, Integral) else list(layers)
        n_layers = self.network.config.get_text_config().num_hidden_layers
        valid = range(-n_layers - 1, n_layers + 1)
        if not numbers or not all(number in valid for number in numbers):
            raise ValueError(
                f"{name}={layers!r}: the model has layers 0 (the token embeddings) to "
                f"{n_layers}, or -1 to {-n_layers - 1}; give one of them or a list."
            )
        return [int(number) % (n_layers + 1) for number in numbers]

    def _encode(self, text, special=False):
        return self.tokenizer(text, add_special_tokens=special, verbose=False).input_ids

    def _start(self):
        """Give the token that begins an empty text: BOS, or EOS where there is none."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        ids = [i for i in known if i is not None]
        if not ids:
            raise ValueError(
                "A text is empty, and the model has no token to begin one with; give "
                "a prompt."
            )
        return ids[:1]
