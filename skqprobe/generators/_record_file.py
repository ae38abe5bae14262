"""RecordFile: a JSONL file of records, which survives a kill at any moment."""

import base64
import json
import math
import os
from pathlib import Path

import numpy as np

_KEYS = {"position", "prompt", "completions", "rewards", "generator"}
_BEGIN = b'{"position": '  # tells a torn line of a record from another file


class RecordFile:
    """Records by position in a JSONL file, one record per line.

    Parameters
    ----------
    path : str or Path
        Path of the file. Its folder is created if needed.
    items : list
        Items that will be part of the records.

    Raises
    ------
    ValueError
        If an item has a type that JSON does not support.
    """

    def __init__(self, path, items):
        # If path is a link, `rewrite` must replace the file and not the link.
        self.path = Path(path).resolve()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for i, item in enumerate(items):
            try:
                json.dumps(item, default=_encode_array)
            except TypeError as error:
                raise ValueError(
                    f"prompts[{i}] cannot be written to path: {error}. Use types that "
                    "JSON supports, or set path=None."
                ) from None

    def read(self, find_difference):
        """Read all records, and remove the torn last line of a killed process.

        Parameters
        ----------
        find_difference : callable
            ``find_difference(position, record)`` returns why a record does not belong
            to this collection, or None if it does.

        Returns
        -------
        records : dict of int to dict
            Records by position.

        Raises
        ------
        ValueError
            If a line is not a record, or does not belong to this collection. The file
            is not changed then.
        """
        if not self.path.exists():
            return {}
        records, n_bytes, torn = {}, 0, b""
        with open(self.path, "rb") as file:
            for n_before, line in enumerate(file):
                if not line.endswith(b"\n"):
                    torn = line
                    break
                i, record = self._parse(line, n_before)
                difference = find_difference(i, record)
                if difference is not None:
                    raise ValueError(
                        f"{self.path} was collected with different settings: "
                        f"{difference}. The file was not changed; give another path, "
                        "or the prompts and settings of the file."
                    )
                records[i] = record
                n_bytes += len(line)
        if torn:
            self._remove_torn_line(torn, n_bytes)
        return records

    def append(self, i, record):
        """Write a record, and return it as it is read from the file."""
        line = _to_line(i, record)
        with open(self.path, "ab") as file:
            file.write(line)
        return _from_line(line)[1]

    def rewrite(self, records):
        """Replace all records, or none of them if writing fails."""
        new = self.path.with_name(self.path.name + ".new")
        with open(new, "wb") as file:
            file.writelines(_to_line(i, record) for i, record in records.items())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)

    def _parse(self, line, n_before):
        try:
            return _from_line(line)
        except MemoryError:  # not an error of the line
            raise
        except Exception:
            raise self._foreign_line(n_before) from None

    def _foreign_line(self, n_before):
        return ValueError(
            f"Line {n_before + 1} of {self.path} is not a record that collect wrote. "
            "The file was not changed; give another path."
        )

    def _remove_torn_line(self, torn, n_bytes):
        """Cut off the line that a killed process began to write."""
        if n_bytes == 0 and torn[: len(_BEGIN)] != _BEGIN[: len(torn)]:
            raise self._foreign_line(0)
        os.truncate(self.path, n_bytes)


class NoFile:
    """Replace a `RecordFile` if records are not written."""

    def read(self, find_difference):
        """Return no records."""
        return {}

    def append(self, i, record):
        """Return the record."""
        return record

    def rewrite(self, records):
        """Do nothing."""


def _to_line(i, record):
    line = json.dumps({"position": i, **record}, default=_encode_array)
    return line.encode() + b"\n"


def _from_line(line):
    """Return position and record; raise any error if the line is not a record."""
    record = json.loads(line, object_hook=_decode_array)
    if not record.keys() >= _KEYS:
        raise KeyError
    if "errors" in record:  # JSON converts keys to str
        record["errors"] = {int(i): error for i, error in record["errors"].items()}
    position, rewards = record.pop("position"), record["rewards"]
    if not (
        type(position) is int
        and position >= 0
        and isinstance(record["generator"], dict)
        and isinstance(record["completions"], list)
        and isinstance(rewards, list)
        and len(rewards) == len(record["completions"])
        and all(reward is None or math.isfinite(reward) for reward in rewards)
    ):
        raise ValueError
    return position, record


def _encode_array(value):
    """Convert an array for JSON: a list or, with two or more dimensions, base64."""
    if isinstance(value, np.generic) or (
        isinstance(value, np.ndarray) and value.ndim < 2
    ):
        return value.tolist()
    if isinstance(value, np.ndarray):
        data = base64.b64encode(value.tobytes()).decode()
        return {"base64": data, "dtype": value.dtype.str, "shape": value.shape}
    raise TypeError(f"JSON does not support the type {type(value).__name__}")


def _decode_array(found):
    if found.keys() != {"base64", "dtype", "shape"}:
        return found
    values = np.frombuffer(base64.b64decode(found["base64"]), found["dtype"])
    return values.reshape(found["shape"])
