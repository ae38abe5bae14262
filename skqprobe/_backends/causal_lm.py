"""Causal language models of transformers: loading and tokenization."""

from numbers import Integral
from pathlib import Path
from typing import Any

from skqprobe._backends.model_cache import load_model
from skqprobe._utils.optional import import_optional
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe._utils.warn import warn_user

MODEL_CONSTRAINTS: dict = {
    "model": [str, Path],
    "gguf_file": [str, None],
    "revision": [str, None],
    "device": [str, None],
    "model_dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
    "trust_remote_code": ["boolean"],
}
"""Constraints of the parameters that identify a model."""


def import_backend(module):
    """Import torch or transformers.

    Parameters
    ----------
    module : {"torch", "transformers"}
        Name of the module.

    Returns
    -------
    module : module
    """
    return import_optional(
        module, needed_by="A causal language model", extra="transformers"
    )


def load_causal_lm(settings):
    """Load a model and its tokenizer, or return them if they are loaded.

    Parameters
    ----------
    settings : object
        Has the attributes that `MODEL_CONSTRAINTS` lists, among others.

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
    return load_model(
        _load, **{name: getattr(settings, name) for name in MODEL_CONSTRAINTS}
    )


def _load(*, model, gguf_file, revision, device, model_dtype, trust_remote_code):
    torch, transformers = map(import_backend, ("torch", "transformers"))
    given = {"gguf_file": gguf_file, "revision": revision}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    options["trust_remote_code"] = trust_remote_code
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, **options)
        network = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=model_dtype, **options
        )
    except OSError as error:
        raise OSError(
            f"model={model!r} cannot be loaded"
            + (f" with {given}" if len(options) > 1 else "")
            + ". Give the folder of a causal language model (with `gguf_file` for a "
            "model in GGUF), or its name on the model hub. If it is not downloaded "
            "yet, unset HF_HUB_OFFLINE."
        ) from error
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return CausalLM(network.to(device).eval(), tokenizer)


class CausalLM:
    """A causal language model with its tokenizer.

    Prompt and completion are tokenized separately and their tokens are concatenated.
    So it is always known which tokens belong to the completion, and a prompt has the
    same tokens before every completion, as it has when the model is sampled. No token
    crosses the border.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        Model with a language modeling head.
    tokenizer : transformers.PreTrainedTokenizerBase
        Tokenizer of the model.

    Attributes
    ----------
    end_ids : set of int
        Tokens that end a completion.
    """

    def __init__(self, network, tokenizer):
        self.network = network
        self.tokenizer = tokenizer
        # Some tokenizers (such as that of Llama 2) add a space before every text, and
        # remove it when they decode. A completion is the continuation of a text, so it
        # must get no space: it is tokenized and decoded after a line break.
        line_break = self._encode("\n")
        adds_space = self._encode("a") != self._encode("\na")[len(line_break) :]
        self._before = "\n" if adds_space else ""
        self._ids_before = line_break if adds_space else []
        ends = network.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.end_ids = {*ends, tokenizer.eos_token_id} - {None}

    def encode_pairs(self, pairs, max_length=None, begin=False):
        """Tokenize prompts and completions, and cut prompts on the left until they fit.

        A BOS token at the beginning is kept. One warning says how much was cut.

        Parameters
        ----------
        pairs : list of (str or list of dict, str)
            Prompts and completions. The model's chat template is applied to chat
            messages, up to the beginning of the model's reply or, if the last message
            is the assistant's, to the end of this message, which is continued.
        max_length : int, default=None
            Maximum number of tokens of a prompt and its completion, if less than the
            context of the model.
        begin : bool, default=False
            Whether a prompt without a token gets a start token before a completion,
            too, as when the model writes it.

        Returns
        -------
        encoded : list of ((list of int, list of int) or ValueError)
            Token ids, or the reason why a pair cannot be encoded: a completion that is
            too long, or a chat without what the template needs. If a pair has no token,
            its prompt gets a start token.

        Warns
        -----
        UserWarning
            If prompts were cut.
        """
        limit = self.context(max_length)
        encoded: list[Any] = []
        cuts = []
        for pair in pairs:
            try:
                prompt, completion = self._encode_pair(pair, begin)
                n_over = len(prompt) + len(completion) - limit
                if len(completion) + bool(prompt) > limit:
                    raise ValueError(
                        f"A completion has {len(completion)} tokens, but the context "
                        f"(max_length) is {limit}, with the prompt, and without "
                        "max_tokens if these are still to be sampled. Completions and "
                        "prefixes are never cut: shorten it, or use a model with a "
                        "longer context."
                    )
            except ValueError as error:
                encoded.append(error)
                continue
            if n_over > 0:
                cuts.append(n_over)
                kept = prompt[:1] if prompt[0] == self.tokenizer.bos_token_id else []
                prompt = kept + prompt[len(kept) + n_over :]
            encoded.append((prompt, completion))
        if cuts:
            warn_user(
                f"{len(cuts)} of {len(pairs)} prompts do not fit the context: there is "
                f"space for {limit} tokens of a prompt and its completion, or of a "
                f"prompt if max_tokens are still to be sampled. {sum(cuts)} tokens at "
                "the beginnings of prompts were left out. Shorten the prompts, or use "
                "a model with a longer context.",
            )
        return encoded

    def decode(self, ids):
        """Return the text of a completion's token ids, with all special tokens."""
        text = self.tokenizer.decode(
            self._ids_before + ids,
            clean_up_tokenization_spaces=False,
            spaces_between_special_tokens=False,
        )
        return text[len(self._before) :]

    def cut(self, text, every):
        """Return a dict of the prefixes of 1, 2, ... times `every` tokens and the text.

        A prefix that ends inside a character gets the tokens of the whole character.
        """
        ids, prefixes = self.encode_completion(text), {}
        for end in range(every, len(ids), every):
            longer = (self.decode(ids[:n]) for n in range(end, len(ids) + 1))
            prefix = next((each for each in longer if text.startswith(each)), None)
            if prefix is None:  # the tokenizer has no token for a character
                break
            prefixes[end] = prefix
        n_blocks = max(-(-len(ids) // every), 1)
        return prefixes | {n_blocks * every: text}

    def start(self):
        """Return the token that begins a text without a prompt: BOS or, if none, EOS.

        Returns
        -------
        ids : list of int
            One token.

        Raises
        ------
        ValueError
            If the model has no such token.
        """
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        ids = [i for i in known if i is not None]
        if not ids:
            raise ValueError(
                "A text has no prompt, and the model has no token to begin one with. "
                "Give a prompt, and leave out features of a completion without one."
            )
        return ids[:1]

    def final_norm(self):
        """Return the module that normalizes the states of the last layer.

        Raises
        ------
        ValueError
            If the model has none.
        """
        norms = [
            module
            for name, module in self.network.base_model.named_modules()
            if "norm" in type(module).__name__.lower()
            and not any(part.isdigit() for part in name.split("."))  # not in a layer
        ]
        if not norms:
            raise ValueError(
                f"final_norm=True, but {type(self.network).__name__} has no "
                "normalization after its last layer. Set final_norm=False."
            )
        return norms[-1]

    def encode_completion(self, text):
        """Return the token ids of a text that continues another one."""
        return self._encode(self._before + text)[len(self._ids_before) :]

    def _encode_pair(self, pair, begin):
        prompt, completion = pair
        after = self.encode_completion(completion)
        if isinstance(prompt, str):
            before = self._encode(prompt, special=True)
            bos, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
            if before[-1:] == [end] and self._encode(prompt)[-1:] != [end]:
                before.pop()  # added by the tokenizer, but the text continues
            if before[:2] == [bos, bos] and self._encode(prompt)[:2] != [bos, bos]:
                del before[0]  # the text begins with a BOS token
            if not prompt and before == after[:1] == [bos]:
                del after[0]
        else:  # the template adds the special tokens
            before = self._encode(self._apply_template(prompt))
        return before or ([] if after and not begin else self.start()), after

    def _apply_template(self, messages):
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(
                "A prompt is a list of chat messages, but the model's tokenizer has no "
                "chat template. Give prompts as texts."
            )
        messages = [dict(message) for message in messages]
        goes_on = messages[-1]["role"] == "assistant"
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
            )
        except Exception as error:  # a template may raise any exception
            roles = ", ".join(str(message["role"]) for message in messages)
            raise ValueError(
                f"The model's chat template cannot be applied to messages of the roles "
                f"{roles}: {type(error).__name__}: {error}"
            ) from error

    def context(self, max_length=None):
        """Return the maximum number of tokens; infinity if the model has no limit."""
        config = self.network.config.get_text_config()
        limits = [max_length, getattr(config, "max_position_embeddings", None)]
        return min(
            (limit for limit in limits if limit is not None), default=float("inf")
        )

    def layer_numbers(self, layers, name):
        """Return layers as a list of numbers from 0 (the token embeddings) on.

        Parameters
        ----------
        layers : int or list of int
            Numbers of layers; negative numbers count from the last layer.
        name : str
            Name of the argument, for the error message.

        Returns
        -------
        numbers : list of int

        Raises
        ------
        ValueError
            If the model has no such layer, or `layers` is empty.
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
