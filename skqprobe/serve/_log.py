"""The log of answers, and of the rewards that clients report for them."""

import os
from collections import OrderedDict

from skqprobe.generators._record_file import RecordFile
from skqprobe.serve._choose import EMBEDDINGS
from skqprobe.serve._errors import RequestError

MAX_ANSWERS = 100_000
"""Number of the latest answers for which a reward can be reported."""


class AnswerLog:
    """File of answers and rewards, which `load_records` reads.

    One thread of one process may use it.

    Parameters
    ----------
    path : str or Path
        JSONL file. Answers that it has already are kept.
    content : {"texts", "embeddings"}
        What is stored of the candidates.
    """

    def __init__(self, path, content):
        self._content = content
        self._file = RecordFile(path)
        self._file.__enter__()
        try:
            # Prompts are private: only this user can read a new file.
            os.close(os.open(self._file.path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._file.read()
        except BaseException:
            self.close()
            raise
        records, self._file.records = self._file.records, {}
        self._n_written = max(records, default=-1) + 1
        self._answers = OrderedDict(
            (record["id"], (i, record["asked"]))
            for i, record in sorted(records.items())[-MAX_ANSWERS:]
            if "id" in record
        )
        rewards = (r for record in records.values() for r in record["rewards"])
        self._form = next((_form(r) for r in rewards if r is not None), None)

    def add(self, answer_id, record, values, probabilities, picked):
        """Write an answer.

        Parameters
        ----------
        answer_id : str
            Id of the answer.
        record : dict
            Record of the candidates.
        values : Values
            Values of the candidates.
        probabilities : ndarray of shape (k,)
            Probabilities of the choice.
        picked : list of int
            Indices of the candidates in the answer.
        """
        if self._content == "embeddings":
            none = [""] * len(record["completions"])
            record = {"prompt": record["prompt"], "completions": none}
            record[EMBEDDINGS] = values.embeddings
        chosen, position = picked[0], self._n_written
        self._file.write(
            {
                "position": position,
                **record,
                "id": answer_id,
                "values": values.values,
                "probabilities": probabilities,
                "chosen": chosen,
                "chosen_probability": float(probabilities[chosen]),
                "asked": picked,
            }
        )
        self._n_written += 1
        self._answers[answer_id] = position, picked
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    def add_reward(self, answer_id, index, reward):
        """Write the reward of a candidate of an answer.

        Raises
        ------
        LookupError
            If there is no such answer, or it has no candidate of this index.
        RequestError
            If the rewards before had other names, so that no file could hold both.
        """
        if _form(reward) != (self._form or _form(reward)):
            raise RequestError(
                400,
                "rewards of one log must all be numbers, or all objects with the same "
                "names, or all lists of the same length.",
                param="reward",
            )
        position, picked = self._answers[answer_id]
        entry = {"position": position, "completion": picked[index], "reward": reward}
        self._file.write(entry)
        self._form = _form(reward)

    def close(self):
        """Close the file."""
        self._file.__exit__(None, None, None)


def _form(reward):
    """Return what the rewards of one file have in common."""
    if isinstance(reward, dict):
        return "object", *sorted(reward)
    return ("list", len(reward)) if isinstance(reward, list) else ("number",)
