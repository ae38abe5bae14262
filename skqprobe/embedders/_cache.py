"""EmbeddingCache: embeddings on disk, by settings and text."""

import json
import os
import sqlite3
import time
import zlib
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from shutil import disk_usage

from skqprobe._utils.warn import warn_user

CHUNK = 500
"""Number of keys per query; every version of sqlite allows 999."""

TIMEOUT = 60
"""Seconds to wait for other processes."""

APPLICATION_ID = 0x534B5150
"""Number in the header of the file, "SKQP", that marks it as a cache."""

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
    """A file that stores embeddings: an sqlite database.

    Any number of threads and processes may use one file at the same time. A batch is
    written in one transaction, so a process that is killed loses only the batch that it
    is embedding.

    Parameters
    ----------
    path : str or Path
        Path of the file, which is created by the first write. It must not be on a
        network file system, where sqlite cannot lock files. A file in a folder that
        cannot be written can be read.
    max_bytes : int, default=None
        Size of the content, in bytes, above which the oldest embeddings are deleted.
        If None, there is no limit.

    Raises
    ------
    ValueError
        If `path` is not that of a file, or `max_bytes` is not positive.
    OSError
        If the file cannot be used, is damaged or is not a cache, in which case it is
        not changed. Raised by the methods.

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
        if str(self.path) in ("", ":memory:"):
            raise ValueError(f"path must be the path of a file; got {self.path!r}.")
        if self.max_bytes is not None and not self.max_bytes > 0:
            raise ValueError(
                f"max_bytes must be positive, or None; got {self.max_bytes!r}."
            )

    @property
    def _file(self):
        return Path(os.path.expanduser(self.path)).resolve()

    def read(self, keys):
        """Look up embeddings.

        Parameters
        ----------
        keys : list of bytes
            Keys of the embeddings.

        Returns
        -------
        found : list of (int, bytes)
            Position in `keys` and value of each key that is stored.

        Warns
        -----
        RuntimeWarning
            If values are damaged on the disk. They are left out.
        """
        if not self._file.exists():
            return []
        found, n_damaged = [], 0
        with self._connection() as connection:
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                position = {key: start + i for i, key in enumerate(chunk)}
                marks = ",".join("?" * len(chunk))
                # Rows are read by number, so that their keys come from the table. The
                # keys in the index may be damaged too, and lead to other rows.
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
            warn_user(
                f"{n_damaged} embeddings in the cache {self.path} are damaged (their "
                "checksums are wrong) and are computed again. Check the disk.",
                RuntimeWarning,
            )
        return found

    def write(self, keys, values):
        """Store embeddings: all of them or, if writing fails, none.

        Parameters
        ----------
        keys : list of bytes
            Keys of the embeddings.
        values : list of bytes
            Embeddings, one per key. They replace stored values of the same keys.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            (key, zlib.crc32(value), value)
            for key, value in zip(keys, values, strict=True)
        ]
        with self._connection(writes=True) as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO embeddings (key, checksum, value) "
                "VALUES (?, ?, ?)",
                rows,
            )
            if self.max_bytes is not None:
                self._drop_oldest(connection)

    def clear(self):
        """Delete all embeddings, and free their space on the disk."""
        if self._file.exists():
            with self._connection(writes=True) as connection:
                with connection:
                    connection.execute("DELETE FROM embeddings")
                connection.execute("VACUUM")

    def __len__(self):
        """Count the embeddings."""
        if not self._file.exists():
            return 0
        with self._connection() as connection:
            return connection.execute("SELECT COUNT(*) FROM embeddings").fetchone()[0]

    def _drop_oldest(self, connection):
        """Above the limit, delete the excess and a further tenth, the oldest first."""

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

    def _check_owner(self, connection):
        """Raise unless the database is empty or a cache; return whether it is empty."""
        # In this order: another process marks the file before it creates the table.
        count = "SELECT COUNT(*) FROM sqlite_master"
        [n_objects] = connection.execute(count).fetchone()
        [owner] = connection.execute("PRAGMA application_id").fetchone()
        if owner != APPLICATION_ID and (owner or n_objects):
            raise OSError(
                f"{self.path} is an sqlite database, but not a cache of embeddings. It "
                "was not changed. Give another path."
            )
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version:
            raise OSError(
                f"The cache {self.path} is of another version of skqprobe. It was not "
                "changed. Give another path, or update skqprobe."
            )
        return owner != APPLICATION_ID

    @contextmanager
    def _connection(self, writes=False):
        """Open the file for one use; errors of sqlite name the file and a remedy."""
        try:
            with closing(self._open(writes)) as connection:
                yield connection
        except sqlite3.OperationalError as error:
            remedy = "Check that the file and its folder can be written"
            if _code(error) == sqlite3.SQLITE_BUSY:
                remedy = "Another program uses the file: try again"
            elif _code(error) == sqlite3.SQLITE_FULL or (
                _code(error) == sqlite3.SQLITE_IOERR
                and disk_usage(self._file.parent).free < 2**16
            ):
                remedy = "The disk is full: free space on it"
            raise OSError(
                f"The cache {self.path} cannot be used: {error}. {remedy}, or give "
                "another path."
            ) from error
        # The message of sqlite may contain damaged bytes that cannot be decoded.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise OSError(
                f"The cache {self.path} is damaged, or is not a cache: {error}. Remove "
                "the file to start again, or give another path."
            ) from error

    def _open(self, writes):
        """Open the file; if it cannot be written and need not be, open it to read."""
        try:
            return self._prepare(sqlite3.connect(self._file, timeout=TIMEOUT))
        except sqlite3.OperationalError as error:
            if writes or _code(error) == sqlite3.SQLITE_BUSY:
                raise
            for options in ("mode=ro", "mode=ro&immutable=1"):  # with a log, without
                url = f"{self._file.as_uri()}?{options}"
                try:
                    return self._prepare(sqlite3.connect(url, uri=True), new=False)
                except sqlite3.OperationalError:
                    pass
            raise

    def _prepare(self, connection, new=True):
        """Check a new connection, and create what is missing; close it on errors."""
        try:
            is_empty = self._check_owner(connection)
            if new:
                # With a write-ahead log, readers and a writer do not wait for each
                # other, and a transaction of a killed process is completed or undone.
                _use_write_ahead_log(connection)
                connection.execute("PRAGMA synchronous=NORMAL")
                if is_empty:
                    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(_SCHEMA)
            elif is_empty:  # a file that could not be written from the beginning
                connection.execute(_SCHEMA.replace("TABLE", "TEMPORARY TABLE"))
            return connection
        except BaseException:
            connection.close()
            raise


def _code(error):
    """Return the primary code of an error of sqlite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _use_write_ahead_log(connection):
    """Switch the file to a write-ahead log, which is permanent."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # If several processes create the file at the same time, sqlite fails for
            # all but one. It does not wait as in other statements.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def text_keys(settings, texts):
    """Compute the key of each text.

    Parameters
    ----------
    settings : dict
        Settings that determine the embedding, besides the text.
    texts : list of (str or tuple of str)
        Texts to embed.

    Returns
    -------
    keys : list of bytes
        Digests of the settings and each text.
    """
    start = blake2b(digest_size=16)
    start.update(json.dumps(settings, sort_keys=True, default=_to_json).encode())
    keys = []
    for text in texts:
        key = start.copy()
        key.update(json.dumps(text).encode())
        keys.append(key.digest())
    return keys


def _to_json(value):
    """Convert a setting that JSON does not support: an array, or any object."""
    from skqprobe._backends.identity import identify  # it imports scikit-learn

    return value.tolist() if hasattr(value, "tolist") else {"identity": identify(value)}
