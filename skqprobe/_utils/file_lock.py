"""FileLock: a file is written by one process at a time."""

import errno
import os
import sys
import threading
from contextlib import suppress
from weakref import WeakValueDictionary

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor):
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # not the bytes of the process id
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor):
        # Unlike flock, a child process does not hold it after this process has ended.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD: WeakValueDictionary = WeakValueDictionary()
"""Locks of this process by path. The system's locks are between processes."""

_HELD_GUARD = threading.Lock()

_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)


class FileLock:
    """Lock of a file, held while the context is open and the process lives.

    The lock is a file beside it, with the suffix ".lock", that contains the number of
    the process. In a folder that cannot be written, on a full disk, and on a file
    system without locks, nothing is locked.

    Parameters
    ----------
    path : Path
        File to lock; it need not exist.

    Raises
    ------
    RuntimeError
        On entering the context, if another process or thread holds the lock.
    """

    def __init__(self, path):
        self.path = path
        self._place = f"{path}.lock"
        self._stream = None

    def __enter__(self):
        with _HELD_GUARD:
            holder = _HELD.get(self._place)
            if holder is not None and holder._stream is not None:
                raise self._busy(holder.process)
            while not self._acquire():
                pass
            self.process = os.getpid()
            _HELD[self._place] = self
        return self

    def __exit__(self, *exc_info):
        stream, self._stream = self._stream, None
        if stream is not None:
            with stream, suppress(OSError):  # Windows removes no open file
                os.unlink(self._place)

    def _acquire(self):
        """Lock the file beside; return whether it is still in its place."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            stream = os.fdopen(os.open(self._place, flags, 0o666), "r+b", 0)
        except OSError as error:
            if error.errno in _CANNOT_WRITE:
                return True
            raise
        try:
            _lock(stream.fileno())
        except (BlockingIOError, PermissionError):
            with stream:
                raise self._busy(stream.read().decode() or "unknown") from None
        except OSError:
            pass  # a file system without locks
        if not stream.read().isdigit() and os.fstat(stream.fileno()).st_size > 0:
            stream.close()
            raise FileExistsError(
                f"{self._place} is not a lock of this package, and {self.path} cannot "
                "be locked without it. Rename it, or give another path."
            )
        # The holder before may have removed it after it was opened here.
        try:
            valid = os.path.samestat(os.fstat(stream.fileno()), os.stat(self._place))
        except FileNotFoundError:
            valid = False
        if not valid:
            stream.close()
            return False
        with suppress(OSError):  # a full disk
            stream.truncate(0)
            stream.seek(0)
            stream.write(str(os.getpid()).encode())
        self._stream = stream
        return True

    def _busy(self, process):
        return RuntimeError(
            f"{self.path} is being written by process {process}. Wait until it has "
            "ended, or give another path."
        )
