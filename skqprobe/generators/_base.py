"""BaseGenerator: what draws candidates from a live language model."""

from abc import ABC, abstractmethod
from numbers import Integral

from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.progress import progress_bar
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.embedders._inputs import check_prompt


class BaseGenerator(BaseEstimator, ABC):
    """Base class of generators: prompts in, records of candidates out.

    A backend is a subclass with one method, `sample`, and an ``__init__`` that has
    `progress` among its parameters. Like an embedder, a generator holds names and
    settings, never a model or a secret.

    Parameters
    ----------
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds.
    """

    _parameter_constraints: dict = {"progress": ["boolean", StrOptions({"auto"})]}

    # Parameters that change no completion, so that `collect` may go on with others.
    inert_parameters: frozenset[str] = frozenset({"progress"})

    @abstractmethod
    def sample(self, prompt, k):
        """Draw candidates for one prompt.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            How many completions to draw.

        Returns
        -------
        record : dict
            With the keys "prompt" and "completions" (a list of k texts), and what else
            the backend knows of each completion: "log_likelihoods", "n_tokens",
            "finish_reasons", "hidden_states" (arrays or lists of length k).
        """

    def generate(self, prompts, k):
        """Draw candidates for each prompt.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
        k : int
            How many completions to draw for each.

        Returns
        -------
        records : list of dict
            One a prompt, with the keys "prompt" and "completions" at least: what
            embedders take.
        """
        if isinstance(prompts, (str, bytes)) or not hasattr(prompts, "__len__"):
            raise ValueError(
                f"prompts must be a list of prompts; got one {type(prompts).__name__}. "
                "Put it into a list."
            )
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k must be an integer of 1 or more; got {k!r}.")
        self._validate_params()
        prompts = [
            check_prompt(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)
        ]
        records = [None] * len(prompts)
        with progress_bar(
            self.progress, len(prompts), type(self).__name__, "prompt"
        ) as bar:
            for number, record in self.sample_each(prompts, k):
                records[number] = record
                bar.update()
        return records

    def sample_each(self, prompts, k):
        """Draw candidates for prompts one by one; to be overridden for many at once.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            The prompts.
        k : int
            How many completions to draw for each.

        Yields
        ------
        number : int
            Which of the prompts it is. They may come in any order.
        record : dict
            See `sample`.
        """
        for number, prompt in enumerate(prompts):
            yield number, self.sample(prompt, k)
