"""EmbeddingCache: embeddings on disk, by what made them and of which text."""

import json
import sqlite3
import time
import warnings
import zlib
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

CHUNK = 500
"""How many keys one query asks for; every sqlite takes 999."""

TIMEOUT = 60
"""Seconds to wait for other processes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS embeddings (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    checksum INTEGER NOT NULL,
    value BLOB NOT NULL
)
"""


@dataclass(frozen=True)
class EmbeddingCache:
    """A file that keeps embeddings: an sqlite database.

    Any number of threads and processes may use one file at a time. A batch is written
    in one transaction, so that a process that is killed loses the batch under way and
    harms nothing.

    Parameters
    ----------
    path : str or Path
        The file; it is made when first written to. Not on a network file system, where
        sqlite cannot lock.
    max_bytes : int, default=None
        The oldest embeddings are dropped when the file holds more than this. None sets
        no limit.

    Examples
    --------
    >>> import tempfile
    >>> from skqprobe.embedders import EmbeddingCache
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = EmbeddingCache(f"{folder}/embeddings.sqlite")
    ...     cache.write([b"key"], [b"value"])
    ...     len(cache), cache.read([b"other", b"key"])
    (1, [(1, b'value')])
    """

    path: str | Path
    max_bytes: int | None = None

    def __post_init__(self):
        if self.max_bytes is not None and not self.max_bytes > 0:
            raise ValueError(
                f"max_bytes must be more than 0, or None; got {self.max_bytes!r}."
            )

    def read(self, keys):
        """Look up embeddings.

        Parameters
        ----------
        keys : list of bytes
            What to look up.

        Returns
        -------
        found : list of (int, bytes)
            The position in `keys` and the value of each that is known. A value that
            was damaged on the disk is left out, with a warning.
        """
        if not Path(self.path).exists():
            return []
        found, n_damaged = [], 0
        with self._connection() as connection:
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                position = {key: start + i for i, key in enumerate(chunk)}
                marks = ",".join("?" * len(chunk))
                # By number, so that the key is the row's own, and not that of the
                # index, which may be damaged too and lead to another row.
                for key, checksum, value in connection.execute(
                    "SELECT key, checksum, value FROM embeddings WHERE number IN "
                    f"(SELECT number FROM embeddings WHERE key IN ({marks}))",
                    chunk,
                ):
                    number = position.get(key)
                    intact = number is not None and isinstance(value, bytes)
                    if intact and zlib.crc32(value) == checksum:
                        found.append((number, value))
                    else:
                        n_damaged += 1
        if n_damaged:
            warnings.warn(
                f"{n_damaged} embeddings in the cache {self.path} are damaged (their "
                "checksums are wrong); they are made again. Check the disk.",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def write(self, keys, values):
        """Keep embeddings, all or, where writing fails, none of them.

        Parameters
        ----------
        keys : list of bytes
            What to look them up by.
        values : list of bytes
            The embeddings.
        """
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        rows = [
            (key, zlib.crc32(value), value)
            for key, value in zip(keys, values, strict=True)
        ]
        with self._connection() as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO embeddings (key, checksum, value) "
                "VALUES (?, ?, ?)",
                rows,
            )
            if self.max_bytes is not None:
                self._drop_oldest(connection)

    def clear(self):
        """Forget all embeddings, and give their space back to the disk."""
        if Path(self.path).exists():
            with self._connection() as connection:
                with connection:
                    connection.execute("DELETE FROM embeddings")
                connection.execute("VACUUM")

    def __len__(self):
        """Count the embeddings."""
        if not Path(self.path).exists():
            return 0
        with self._connection() as connection:
            return connection.execute("SELECT COUNT(*) FROM embeddings").fetchone()[0]

    def _drop_oldest(self, connection):
        """Drop the oldest tenth, and what is above the limit, when it is passed."""

        def ask(question):
            return connection.execute(question).fetchone()[0]

        pages = ask("PRAGMA page_count") - ask("PRAGMA freelist_count")
        n_bytes = pages * ask("PRAGMA page_size")
        if n_bytes > self.max_bytes:
            n_rows = ask("SELECT COUNT(*) FROM embeddings")
            n_kept = int(0.9 * n_rows * self.max_bytes / n_bytes)
            connection.execute(
                "DELETE FROM embeddings WHERE number IN "
                "(SELECT number FROM embeddings ORDER BY number LIMIT ?)",
                (n_rows - n_kept,),
            )

    @contextmanager
    def _connection(self):
        """Open the file for one use; sqlite's errors name the file and a way out."""
        try:
            with closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as connection:
                # With a write-ahead log readers and a writer do not wait for each
                # other, and what a killed process left is completed or undone.
                _use_write_ahead_log(connection)
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(_SCHEMA)
                yield connection
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The cache {self.path} cannot be used: {error}. If another program "
                "holds it, try again; else give another path."
            ) from error
        # The damaged bytes may be in the message, where they are no text.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise OSError(
                f"The cache {self.path} is damaged, or is no cache: {error}. Remove "
                "the file to begin anew, or give another path."
            ) from error


def _use_write_ahead_log(connection):
    """Switch the file to a write-ahead log, once and for all."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Where several processes make the file at once, sqlite fails for all but
            # one, and does not wait as it does elsewhere.
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > end:
                raise
            time.sleep(0.01)


def text_keys(settings, texts):
    """Make a key for each text, from it and what its embedding depends on.

    Parameters
    ----------
    settings : dict
        What the embedding depends on besides the text.
    texts : list of (str or tuple of str)
        The texts.

    Returns
    -------
    keys : list of bytes
    """
    start = blake2b(digest_size=16)
    start.update(json.dumps(settings, sort_keys=True, default=_plain).encode())
    keys = []
    for text in texts:
        key = start.copy()
        key.update(json.dumps(text).encode())
        keys.append(key.digest())
    return keys


def _plain(value):
    """Stand in for a setting that JSON does not know: numpy's numbers, and the rest."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)
