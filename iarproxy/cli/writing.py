"""Where a command's document goes: to a new file of the user's, or to standard output.

Rule: the file is opened before root is given up, is never one that exists, and is gone again where the command fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from iarproxy.errors import Refused


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """The new file `path`; None: standard output.

    Raises:
        Refused: it exists, or cannot be made.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = path.absolute()
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        raise Refused(f"{target} exists; name a new file") from None
    except OSError as error:
        raise Refused(f"{target} cannot be made: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as sink:
            yield sink
    except BaseException:  # closing may fail too: what it holds back it writes then
        with suppress(OSError):  # root was given up, and the folder is another's: an empty file stays
            target.unlink(missing_ok=True)
        raise
