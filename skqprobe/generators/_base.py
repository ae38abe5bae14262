"""BaseGenerator: base class and validation of generators."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral

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
        """

    def generate(self, prompts, k):
        """Sample candidates for each prompt.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
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
        """
        prompts = check_prompts(prompts)
        self._check_settings(k)
        records = [None] * len(prompts)
        with progress_bar(
            self.progress, len(prompts), type(self).__name__, "prompt"
        ) as bar:
            for number, record in self.sample_each(prompts, k):
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
        record : dict
            Record of the prompt; see `sample`.
        """
        for number, prompt in enumerate(prompts):
            yield number, self.sample(prompt, k)

    def _check_settings(self, k):
        """Validate the parameters and the number of completions."""
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k must be an integer of 1 or more; got {k!r}.")
        self._validate_params()

    def _settings(self):
        """Return the settings that determine the completions, besides the prompt."""
        return output_settings(self)


def check_prompts(prompts, allow_items=False):
    """Validate a list of prompts.

    Parameters
    ----------
    prompts : list of (str, list of dict, or dict)
        Prompts, or items: dicts with a prompt under the key "prompt".
    allow_items : bool, default=False
        Whether `prompts` may contain items.

    Returns
    -------
    prompts : list of (str or list of dict)
        The prompts, also of the items.

    Raises
    ------
    ValueError
        If `prompts` is not a list, or an entry is not a prompt.
    """
    if not is_list(prompts):
        raise ValueError(
            f"prompts must be a list of prompts; got {type(prompts).__name__}. Put a "
            "single prompt into a list."
        )
    checked = []
    for i, prompt in enumerate(prompts):
        name = f"prompts[{i}]"
        if allow_items and isinstance(prompt, Mapping):
            if "prompt" not in prompt:
                raise ValueError(
                    f"{name} is a dict without the key 'prompt'; it has "
                    f"{list(prompt)}. (Put chat messages into a list, even a single "
                    "one.)"
                )
            prompt, name = prompt["prompt"], f"{name}['prompt']"
        prompt = check_prompt(prompt, name)
        texts = prompt if isinstance(prompt, str) else [m["content"] for m in prompt]
        if error := find_surrogate(texts):
            raise ValueError(f"{name} is not valid Unicode: {error}.")
        checked.append(prompt)
    return checked
