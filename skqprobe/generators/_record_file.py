"""Records and rewards in memory, and in a file that survives a kill at any moment."""

import json
import math
import os
import re
import threading
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from skqprobe._utils.file_lock import FileLock
from skqprobe.embedders._inputs import check_prompt
from skqprobe.generators._record_json import decode, to_json

_CHECK = re.compile(rb', "check": "([0-9a-f]{8})"\}$')
_BEGINNINGS = (b'{"position": ', b'{"reward_version": ')


class Records:
    """Records of a collection, by position in its prompts.

    They are built from entries of these kinds:

    - "reward_version": begins a collection, and voids the rewards before it.
    - "position", "prompt", "completions", ...: a record without rewards.
    - "position", "prompt", "refused", ...: a prompt that the model refuses, and why.
    - "position", "completion", and "reward" or "error": the last one counts.
    - "position", "item": the item to which the rewards after it belong.

    Attributes
    ----------
    records : dict of int to dict
        Records by position, with "rewards" and "errors".
    refused : dict of int to dict
        Entries of prompts that the model refuses, by position.
    reward_version : str, int or None
        Version of the rewards.
    """

    def __init__(self):
        self.records: dict[int, dict] = {}
        self.refused: dict[int, dict] = {}
        self.reward_version = None

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def read(self):
        """Read what is stored: nothing, in memory."""

    def append(self, entry):
        """Add an entry."""
        if "position" not in entry:
            self.reward_version = entry["reward_version"]
            for record in self.records.values():
                _void(record)
            return
        i = entry.pop("position")
        if "completions" in entry:
            if i in self.records:
                raise ValueError
            self.records[i] = _void(entry)
            self.refused.pop(i, None)
        elif "refused" in entry:
            self.refused[i] = entry
        elif "item" in entry:
            self.records[i]["item"] = entry["item"]
        else:
            record, j = self.records[i], entry["completion"]
            record["rewards"][j] = entry.get("reward")
            record["errors"].pop(j, None)
            if "error" in entry:
                record["errors"][j] = entry["error"]


def _void(record):
    record["rewards"], record["errors"] = [None] * len(record["completions"]), {}
    return record


def asked_for(record):
    """Return the indices of the completions that are to be rewarded: all, or some."""
    return record.get("asked", range(len(record["completions"])))


def missing_rewards(record):
    """Return the indices of the completions that are to be rewarded and are not."""
    return [j for j in asked_for(record) if record["rewards"][j] is None]


def finish(record):
    """Return a record without empty keys."""
    errors = dict(sorted(record["errors"].items()))
    empty = {"errors"} if not errors else set()
    if record.get("item", empty) is None:
        empty.add("item")
    record = {**record, "rewards": list(record["rewards"]), "errors": errors}
    return {key: value for key, value in record.items() if key not in empty}


class _Place(NamedTuple):
    """Place in the file at which the next line begins."""

    at: int = 0  # bytes
    check: int = 0  # of all lines before
    end_of_line: bytes = b""  # if it is missing before


class RecordFile(Records):
    """Records in a JSONL file, to which lines are only appended, one per entry.

    Each line ends with "check", the CRC-32 of its text and of all lines before it. So a
    line that was changed, moved or joined from another file is detected. Lines without
    "check" may precede the others: records with "rewards" of other programs.

    The context locks the file for writing. Any number of threads may call `append`.

    Parameters
    ----------
    path : str or Path
        Path of the file. On entering the context, its folder is created if needed.
    """

    def __init__(self, path):
        super().__init__()
        # If path is a link, the lock must be that of the file.
        self.path = Path(path).expanduser().resolve()
        self._place, self._size, self._is_checked = _Place(), 0, False
        self._stream: Any = None
        self._closed = False
        self._mutex, self._lock = threading.Lock(), FileLock(self.path)

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        return self

    def __exit__(self, *exc_info):
        try:
            with self._mutex, self._stream or nullcontext():
                self._closed = True
        finally:
            self._lock.__exit__(*exc_info)

    def read(self):
        """Read all lines, except for one at the end that a killed process began.

        Raises
        ------
        ValueError
            If a line was not written by `append`, in this place of this file. The file
            is not changed.
        """
        if not self.path.exists():
            return
        with open(self.path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                self._size += len(line)
                text = line.removesuffix(b"\n")
                try:
                    check = self._read_line(text)
                except MemoryError:  # not an error of the line
                    raise
                except Exception:
                    if line == text and _is_torn(text):
                        break
                    raise self._bad_line(number) from None
                missing = b"\n" if line == text else b""
                self._place = _Place(self._place.at + len(line), check, missing)

    def append(self, entry):
        """Write an entry, and add it as it is read from the file; see `write`."""
        super().append(json.loads(self.write(entry), object_hook=decode))

    def write(self, entry):
        """Write an entry, and return its text; the records in memory do not change.

        Raises
        ------
        ValueError
            If the entry contains a type that JSON does not support.
        OSError or RuntimeError
            If the line cannot be written. Nothing of it is in the file then.
        """
        text = to_json(entry)[:-1].encode()
        with self._mutex:
            check = zlib.crc32(text, self._place.check)
            line = self._place.end_of_line + text + b', "check": "%08x"}\n' % check
            self._write(line, _Place(self._place.at + len(line), check))
        return text + b"}"

    def _read_line(self, text):
        """Add the entry of a line, and return the check; raise any error."""
        end = _CHECK.search(text)
        if end is None:
            if self._is_checked:
                raise ValueError
            self._append_plain(json.loads(text, object_hook=decode))
            return zlib.crc32(text, self._place.check)
        check = zlib.crc32(text[: end.start()], self._place.check)
        if check != int(end[1], 16):
            raise ValueError
        super().append(json.loads(text[: end.start()] + b"}", object_hook=decode))
        self._is_checked = True
        return check

    def _append_plain(self, entry):
        """Add a record with rewards that another program wrote."""
        position = entry.setdefault("position", len(self.records))
        rewards, errors = entry.pop("rewards"), entry.pop("errors", {})
        if not (
            type(position) is int
            and position >= 0
            and isinstance(entry.get("generator", {}), dict)
            and isinstance(entry["completions"], list)
            and all(isinstance(text, str) for text in entry["completions"])
            and isinstance(rewards, list)
            and len(rewards) == len(entry["completions"])
            and all(reward is None or is_finite(reward) for reward in rewards)
            and set(asked_for(entry)) <= set(range(len(rewards)))
        ):
            raise ValueError
        check_prompt(entry["prompt"], "prompt")
        errors = {int(j): error for j, error in errors.items()}
        super().append(entry)
        self.records[position].update(rewards=rewards, errors=errors)

    def _write(self, line, place):
        """Write a line, up to the next place, or nothing."""
        if self._closed:
            raise RuntimeError(f"{self.path} is closed.")
        if self._stream is None:
            self._stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
        found = os.fstat(self._stream.fileno())
        is_deleted = not found.st_nlink and not self.path.exists()
        if is_deleted or found.st_size != self._size:
            raise RuntimeError(
                f"{self.path} was {'deleted' if is_deleted else 'changed'} by another "
                "program while it was used. Call collect again."
            )
        try:
            if self._size > self._place.at:  # the line that a killed process began
                self._stream.truncate(self._place.at)
            while line:
                line = line[self._stream.write(line) :]
            self._size, self._place = place.at, place
        except BaseException as error:
            self._stream.truncate(self._place.at)
            self._size = self._place.at
            if isinstance(error, OSError):
                error.filename = str(self.path)
            raise

    def _bad_line(self, number):
        after = f" after line {number - 1}" if number > 1 else ""
        return ValueError(
            f"Line {number} of {self.path} is not a record that collect wrote{after}: "
            "it was changed or moved, or files were joined. The file was not changed; "
            "restore it, remove this line and all lines after it (collect computes "
            "them again), or give another path."
        )


def is_finite(reward):
    """Return whether a reward is a finite number, or a list or dict of them."""
    values = list(reward.values()) if isinstance(reward, dict) else reward
    values = values if isinstance(values, list) else [values]
    return len(values) > 0 and all(map(math.isfinite, values))


def _is_torn(text):
    """Return whether a text is the beginning of a line, and no more than that."""
    if not any(text[: len(each)] == each[: len(text)] for each in _BEGINNINGS):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return text.isascii() and error.msg != "Extra data"
    except (ValueError, RecursionError):
        pass
    return False
