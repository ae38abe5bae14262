"""load_records: read what collect wrote."""

from itertools import pairwise

import numpy as np
from sklearn.utils import Bunch

from skqprobe._arrays.named_rewards import stack_rewards
from skqprobe.generators._record_file import RecordFile, asked_for, finish


def load_records(path):
    r"""Read a file of `collect`, with rows for `fit`.

    The file may be incomplete, and another process may be writing to it. It is not
    changed. Records that other programs wrote as JSONL are read, too: one object per
    line with the keys "prompt", "completions" and "rewards". Their prompts may have
    different numbers of completions.

    Parameters
    ----------
    path : str or Path
        JSONL file of the records.

    Returns
    -------
    data : Bunch
        Result with the attributes

        - "records" : list of dict. Records in the order of the prompts, as `collect`
          returns them, with "rewards" and all other lists of numbers as arrays. A
          missing number is NaN.
        - "texts" : ndarray of object, of shape (n_rows, 2). Prompt and completion of
          each row. Embedders accept them as X, and a mask selects rows of them.
        - "y" : ndarray of shape (n_rows,), or (n_rows, n_objectives) if `reward`
          returned several numbers. Rewards of the completions, NaN for those that
          failed or were not computed. It has the names of the rewards, which `fit`
          stores as `objective_names_`, and so have rows of it.
        - "groups" : ndarray of int, of shape (n_rows,). Index of the prompt of each
          row in the `prompts` of `collect`.
        - "asked" : ndarray of bool, of shape (n_rows,). Whether the reward of each row
          was asked for: all, or those selected by `n_rewards` of `collect`. Passed as
          `sample_weight`, it leaves the others out of a fit.
        - "refused" : dict of int to str. Reasons of the prompts that the model refused,
          by their index in `prompts`.
        - "objective_names" : list of str or None. Names of the rewards, if `reward`
          returned a dict.
        - "reward_version" : str, int or None. Version of the rewards.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line was changed, or not written by `collect`.

    See Also
    --------
    collect : Write the file.
    stack_embeddings : Make candidate sets from arrays in records.

    Examples
    --------
    >>> import json
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from skqprobe.generators import load_records
    >>> lines = [
    ...     {"prompt": "1 + 1 =", "completions": [" 2", " 3"], "rewards": [1, 0]},
    ...     {"prompt": "2 + 2 =", "completions": [" 4"], "rewards": [None]},
    ... ]
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "records.jsonl"
    ...     _ = path.write_text("\n".join(map(json.dumps, lines)))
    ...     data = load_records(path)
    >>> data.y, data.groups
    (array([ 1.,  0., nan]), array([0, 0, 1]))
    >>> data.texts[np.isfinite(data.y)]
    array([['1 + 1 =', ' 2'],
           ['1 + 1 =', ' 3']], dtype=object)
    """
    file = RecordFile(path)
    if not file.path.exists():
        raise FileNotFoundError(f"There is no file {file.path}.")
    file.read()
    positions = sorted(file.records)
    found = [finish(file.records[i]) for i in positions]
    sizes = [len(record["completions"]) for record in found]
    try:
        y = stack_rewards([reward for record in found for reward in record["rewards"]])
    except (TypeError, ValueError) as error:
        raise ValueError(f"The rewards in {file.path} differ: {error}.") from None
    rewards = [y[start:end] for start, end in pairwise(np.cumsum([0, *sizes]))]
    records = [_with_arrays(*each) for each in zip(found, rewards, strict=True)]
    pairs = [(r["prompt"], text) for r in records for text in r["completions"]]
    texts = np.empty((len(pairs), 2), dtype=object)
    if pairs:  # a list without entries has no second dimension
        texts[:] = pairs
    asked = [np.isin(range(k), asked_for(r)) for k, r in zip(sizes, found, strict=True)]
    return Bunch(
        records=records,
        texts=texts,
        y=y,
        groups=np.repeat(np.array(positions, dtype=np.intp), sizes),
        asked=np.concatenate([np.empty(0, dtype=bool), *asked]),
        refused={i: entry["refused"] for i, entry in sorted(file.refused.items())},
        objective_names=getattr(y, "objective_names", None),
        reward_version=file.reward_version,
    )


def _with_arrays(record, rewards):
    """Convert the lists of numbers in a record to arrays."""
    values = {key: record[key] for key in record.keys() - {"completions", "prompt"}}
    arrays = {key: _to_array(values[key]) for key in values if _is_numeric(values[key])}
    return {**record, **arrays, "rewards": rewards}


def _is_numeric(value):
    return isinstance(value, list) and all(
        entry is None or isinstance(entry, (int, float)) for entry in value
    )


def _to_array(values):
    array = np.array(values, dtype=float if None in values else None)
    return array.astype(float) if array.dtype == object else array  # of large integers
