"""BaseGenerator: base class and validation of generators."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from numbers import Integral

from skqprobe._backends.refusal import PromptRefused
from skqprobe._backends.settings import output_settings
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.progress import progress_bar
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.embedders._inputs import check_prompt, find_surrogate, is_list


class BaseGenerator(BaseEstimator, ABC):
    """Base class of generators: from prompts to records of candidates.

    A backend is a subclass with the method `sample` and an ``__init__`` that has
    `progress` among its parameters. Like an embedder, a generator stores names and
    settings, never a model or a secret.

    Parameters
    ----------
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Attributes
    ----------
    inert_parameters : frozenset of str
        Names of the parameters that do not change the completions. `collect` resumes a
        file only if all other parameters are equal. A class attribute: a subclass
        extends that of its base, ``BaseGenerator.inert_parameters | {"device"}``.
    """

    _parameter_constraints: dict = {"progress": ["boolean", StrOptions({"auto"})]}

    inert_parameters: frozenset[str] = frozenset({"progress"})

    @abstractmethod
    def sample(self, prompt, k):
        """Sample candidates for one prompt.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.

        Returns
        -------
        record : dict
            Record with the keys "prompt" and "completions" (a list of k texts) and,
            optionally, "log_likelihoods", "n_tokens", "finish_reasons" and
            "hidden_states" (arrays or lists of length k).

        Raises
        ------
        PromptRefused
            If the model refuses the prompt for good.
        """

    def generate(self, prompts, k):
        """Sample candidates for each prompt.

        Parameters
        ----------
        prompts : list of (str, list of dict, or dict), or data frame
            Texts; chat messages with the keys "role" and "content"; or items: dicts, or
            rows of a data frame, with one of these under the key "prompt".
        k : int
            Number of completions per prompt.

        Returns
        -------
        records : list of dict
            Records, one per prompt, with at least the keys "prompt" and "completions".
            Embedders accept them as X.

        Raises
        ------
        ValueError
            If `prompts` is not a list of prompts, `k` is less than 1, or a parameter of
            the generator is invalid.
        PromptRefused
            If the model refuses a prompt for good. `collect` can leave it out.
        """
        return self._generate(prompts, k)

    def _generate(self, prompts, k, **options):
        """Sample candidates for each prompt, with options of `sample_each`."""
        prompts = check_prompts(prompts)
        self._check_settings(k)
        records = [None] * len(prompts)
        with progress_bar(
            self.progress, len(prompts), type(self).__name__, "prompt"
        ) as bar:
            for number, record in self.sample_each(prompts, k, **options):
                if isinstance(record, Exception):
                    raise name_prompt(record, number, prompts[number])
                records[number] = record
                bar.update()
        return records

    def sample_each(self, prompts, k):
        """Sample candidates for prompts one by one. Override it to sample concurrently.

        `generate` and `collect` validate the prompts and the parameters before.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.

        Yields
        ------
        number : int
            Index of the prompt in `prompts`. The prompts may come in any order.
        record : dict or Exception
            Record of the prompt; see `sample`. Or the exception that it raised, such as
            `PromptRefused`, so that the other prompts go on.
        """
        if inspect.iscoroutinefunction(self.sample):
            raise TypeError(
                f"{type(self).__name__}.sample must return a record, but it is an "
                "async function. Call asyncio.run in it, or override sample_each."
            )
        for number, prompt in enumerate(prompts):
            try:
                record = self.sample(prompt, k)
            except Exception as error:
                record = error  # the others go on
            yield number, record

    def _check_continues(self, prompts):
        """Raise an error if the completions of some prompts cannot be continued."""

    def _check_settings(self, k):
        """Validate the parameters and the number of completions."""
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k must be an integer of 1 or more; got {k!r}.")
        self._validate_params()

    def _settings(self):
        """Return the settings that determine the completions, besides the prompt."""
        return output_settings(self)


def check_prefix(prefix):
    """Raise unless a prefix of completions is a text."""
    if not isinstance(prefix, str):
        raise ValueError(f"prefix must be a text; got {type(prefix).__name__}.")
    if error := find_surrogate(prefix):
        raise ValueError(f"prefix is not valid Unicode: {error}.")


def list_items(prompts):
    """Return a list of prompts or items as it is, and a data frame as items."""
    if not hasattr(prompts, "columns"):
        return prompts
    columns = list(prompts.columns)
    if columns.count("prompt") != 1 or len(set(columns)) < len(columns):
        raise ValueError(
            "A data frame of prompts needs the column 'prompt', and no two columns of "
            f"one name; prompts has {columns}."
        )
    rows = zip(*(prompts[name].to_list() for name in columns), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def check_prompts(prompts, failed=None):
    """Validate a list of prompts or items.

    Parameters
    ----------
    prompts : list of (str, list of dict, or dict), or data frame
        Prompts, or items: dicts with a prompt under the key "prompt".
    failed : dict of int to Exception, default=None
        If given, the errors of the entries that are not prompts are added to it, by
        position, and not raised.

    Returns
    -------
    prompts : list of (str or list of dict)
        The prompts, also of the items. Entries in `failed` are unchanged.

    Raises
    ------
    ValueError
        If `prompts` is not a list; or if an entry is not a prompt, without `failed`.
    """
    prompts = list_items(prompts)
    if not is_list(prompts):
        raise ValueError(
            f"prompts must be a list of prompts; got {type(prompts).__name__}. Put a "
            "single prompt into a list."
        )
    checked = []
    for i, prompt in enumerate(prompts):
        try:
            prompt = _check_entry(prompt, f"prompts[{i}]")
        except ValueError as error:
            if failed is None:
                raise
            failed[i] = error
        checked.append(prompt)
    return checked


def _check_entry(prompt, name):
    """Validate a prompt or an item, and return the prompt."""
    if isinstance(prompt, Mapping):
        if "prompt" not in prompt:
            raise ValueError(
                f"{name} is a dict without the key 'prompt'; it has {list(prompt)}. "
                "(Put chat messages into a list, even a single one.)"
            )
        prompt, name = prompt["prompt"], f"{name}['prompt']"
    prompt = check_prompt(prompt, name)
    texts = prompt if isinstance(prompt, str) else [m["content"] for m in prompt]
    if error := find_surrogate(texts):
        raise ValueError(f"{name} is not valid Unicode: {error}.")
    return prompt


def name_prompt(error, i, prompt):
    """Add the position and the beginning of a prompt to its error.

    They replace those of a call for this prompt alone.
    """
    if isinstance(error, PromptRefused):
        alone = describe_failure(type(error)(""), 0, prompt)
        error = type(error)(error.reason.removeprefix(alone))
        return type(error)(describe_failure(error, i, prompt))
    alone = describe_failure(error, 0, prompt)
    if alone in getattr(error, "__notes__", ()):
        error.__notes__.remove(alone)
    error.add_note(describe_failure(error, i, prompt))
    return error


def describe_failure(error, i, prompt):
    """Return the position and the beginning of a prompt, and its error."""
    text = prompt
    with suppress(LookupError, TypeError):  # it may be no prompt
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    name = f"prompts[{i}] ({str(text)[:40]!r})"
    if isinstance(error, PromptRefused):
        return f"{name} was refused: {error.reason.rstrip('.')}"
    return f"{name} failed: {type(error).__name__}: {str(error).rstrip('.')}"
