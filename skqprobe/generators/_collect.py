"""collect: sample candidates, score each, and write them to disk."""

from numbers import Integral

from skqprobe._utils.progress import progress_bar
from skqprobe.generators._base import BaseGenerator, check_prompts, list_items
from skqprobe.generators._collection import Collection
from skqprobe.generators._record_file import RecordFile, Records
from skqprobe.generators._record_json import to_json
from skqprobe.generators._rewards import Workers


def collect(
    prompts,
    generator,
    reward,
    k,
    *,
    n_rewards=None,
    embedder=None,
    path=None,
    reward_version=None,
    rescore=False,
    reward_concurrency=8,
    on_error="raise",
    progress="auto",
):
    """Sample candidates for prompts and score each of them.

    With `path`, the candidates of a prompt are written to a file before they are
    scored, and each reward when it is computed. If `collect` is called again, it reads
    the file, computes the rewards that are missing or failed, and continues with the
    remaining prompts. The process may be killed at any moment: it loses only the
    prompts and rewards in progress.

    Parameters
    ----------
    prompts : list of (str, list of dict, or dict), or data frame
        Texts; chat messages with the keys "role" and "content"; or items: dicts, or
        rows of a data frame, with one of these under the key "prompt", and anything
        else that `reward` reads. With `path`, items must have types that JSON supports.
    generator : BaseGenerator
        Generator of the candidates.
    reward : callable
        Function ``reward(item, completion)`` that returns a finite number, or several:
        a dict of named rewards, such as ``{"right": 1.0, "short": -0.3}``, or a
        sequence. All completions need the same objectives. The item is the entry of
        `prompts`, unchanged. The function may be asynchronous.
    k : int
        Number of completions per prompt.
    n_rewards : int, default=None
        Number of completions per prompt that are rewarded, at most `k`. They are
        selected when the completions are drawn, and recorded as "asked". The others
        are not rewarded, also not by later calls. None rewards all.
    embedder : transformer, default=None
        Embedder of a list of records, or pipeline of one, with which `n_rewards`
        completions that differ are selected, see :func:`select_candidates`. If None,
        they are drawn at random.
    path : str or Path, default=None
        JSONL file of the records, created if it does not exist and read by
        :func:`load_records`. It is locked while it is used. Between two calls, prompts
        may be appended to `prompts`.
    reward_version : str or int, default=None
        Version of `reward`, which is recorded in the file. Change it with the function:
        rewards of two versions are never mixed.
    rescore : bool, default=False
        Whether to compute all rewards in the file again. If it is interrupted, the next
        call continues with ``rescore=False``.
    reward_concurrency : int, default=8
        Number of rewards that are computed at the same time, in threads. 1 calls
        `reward` in the current thread, which functions that use signals or that are not
        thread-safe need.
    on_error : {"raise", "skip"}, default="raise"
        Result if the generator fails for a prompt. If "raise", an error is raised; if
        the model refuses the prompt for good (`PromptRefused`), only after the other
        prompts are finished, if there is a `path` to keep them. If "skip", the prompt
        is left out, with a warning, and so is an entry that is not a prompt. Other
        calls with "skip" and this `path` do not ask for a refused prompt again.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Returns
    -------
    records : list of dict
        Records, one per prompt that was not left out: the record of `generator`
        ("prompt", "completions" and optional keys), and

        - "rewards" : list of k floats, or of k dicts or lists of floats if `reward`
          returns these. A reward that failed is None, not 0.0, and so is one that was
          not asked for.
        - "errors" : dict of int to str. The error of each completion whose reward
          failed. Present only if there are any.
        - "asked" : list of int. Indices of the completions selected to be rewarded.
          Present only with `n_rewards`.
        - "asked_probability" : float. Probability with which each completion was
          selected. Present only if they were drawn at random.
        - "item" : dict. The item, if the entry of `prompts` is one.
        - "generator" : dict. The class and settings of the generator, and a digest of
          the files of a local model.

        With `path`, the records are those of the file: arrays of one dimension are
        lists. Arrays of more dimensions, such as "hidden_states", stay arrays. In the
        file they are base64, about 1.3 times their size in memory.

    Raises
    ------
    ValueError
        If an argument is invalid; if the file has other prompts or items, another `k`,
        another `n_rewards`, another `reward_version` or another generator (its class,
        settings or model files); or if a line of it was changed or not written by
        `collect`. The file is not changed then. Also if the generator returns an
        invalid record, which is not written.
    PromptRefused
        If the model refuses prompts, and `on_error` is "raise".
    RuntimeError
        If another process or thread is writing to the file.
    Exception
        Any other error of `generator`. Finished prompts are in the file.

    Warns
    -----
    RuntimeWarning
        If rewards failed: `reward` raised any exception other than KeyboardInterrupt,
        or did not return finite numbers for the same objectives; if prompts were left
        out; or if some of the new completions were cut off at the maximum number of
        tokens or by a filter. One warning of each kind per call, with the number.

    See Also
    --------
    load_records : Read the file of the records.
    select_candidates : Select candidates that differ.
    BestOfK : Sample candidates and choose one with a fitted probe.
    skqprobe.embedders.flatten_records : Convert records to rows, groups and rewards.

    Examples
    --------
    >>> import random
    >>> from skqprobe.generators import BaseGenerator, collect
    >>> class Guess(BaseGenerator):
    ...     def __init__(self, progress="auto"):
    ...         self.progress = progress
    ...
    ...     def sample(self, prompt, k):
    ...         draw = random.Random(prompt)
    ...         texts = [str(draw.randint(2, 5)) for _ in range(k)]
    ...         return {"prompt": prompt, "completions": texts}
    >>> items = [{"prompt": "1 + 1 =", "sum": 2}, {"prompt": "2 + 3 =", "sum": 5}]
    >>> def is_right(item, completion):
    ...     return int(completion) == item["sum"]
    >>> records = collect(items, Guess(), is_right, k=4)
    >>> for record in records:
    ...     print(record["completions"], record["rewards"])
    ['3', '2', '2', '5'] [0.0, 1.0, 1.0, 0.0]
    ['5', '5', '2', '4'] [1.0, 1.0, 0.0, 0.0]
    """
    _check_arguments(generator, reward, reward_version, reward_concurrency, on_error)
    _check_selection(n_rewards, embedder, k)
    failed: dict[int, Exception] = {}
    texts = check_prompts(prompts, failed if on_error == "skip" else None)
    items = list(list_items(prompts))
    generator._check_settings(k)
    if path is not None:
        _check_items(items, texts)
    with Records() if path is None else RecordFile(path) as store:
        selection = n_rewards, embedder
        run = Collection(items, texts, generator, reward, k, selection, store, failed)
        run.resume(reward_version, rescore)
        with (
            Workers(run.score, reward_concurrency) as workers,
            progress_bar(progress, run.n_open(), "collect", "prompt") as bar,
        ):
            run.complete(workers, bar, skip=on_error == "skip")
    return run.result(skip=on_error == "skip")


def _check_arguments(generator, reward, reward_version, reward_concurrency, on_error):
    if not isinstance(generator, BaseGenerator):
        raise ValueError(
            "generator must be a generator, such as TransformersGenerator or a "
            f"subclass of BaseGenerator; got {type(generator).__name__}."
        )
    if not callable(reward):
        raise ValueError(
            "reward must be a function of (item, completion) that returns a number; "
            f"got {type(reward).__name__}."
        )
    if not isinstance(reward_version, (str, int, type(None))):
        raise ValueError(
            f"reward_version must be a str, an int or None; got {reward_version!r}."
        )
    n = reward_concurrency
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(
            f"reward_concurrency must be an integer of 1 or more; got {n!r}."
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'; got {on_error!r}.")


def _check_selection(n_rewards, embedder, k):
    is_count = isinstance(n_rewards, Integral) and not isinstance(n_rewards, bool)
    if n_rewards is not None and not (is_count and 1 <= n_rewards <= k):
        raise ValueError(
            f"n_rewards must be None or an integer from 1 to k={k}; got {n_rewards!r}."
        )
    if embedder is not None and not hasattr(embedder, "transform"):
        raise ValueError(
            "embedder must be a transformer of records, such as an embedder of "
            f"skqprobe.embedders; got {type(embedder).__name__}."
        )
    if embedder is not None and n_rewards is None:
        raise ValueError("embedder has no effect without n_rewards; give both.")


def _check_items(items, texts):
    for i, entry in enumerate(zip(items, texts, strict=True)):
        try:
            to_json(entry)
        except ValueError as error:
            raise ValueError(
                f"prompts[{i}] cannot be written to path: {error}. Use types that JSON "
                "supports, or set path=None."
            ) from None
