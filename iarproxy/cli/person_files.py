"""Files that a person names on a command line, read whole and within bounds."""

from __future__ import annotations

from pathlib import Path

from iarproxy.errors import Refused


def read(path: Path, most: int, longer: str = "; that is nothing that is wanted here") -> bytes:
    """The bytes of a file of the person's.

    Args:
        path: the file.
        most: so many bytes it may have.
        longer: what a person is told to do, or to think, where there are more.

    Raises:
        Refused: it cannot be read, or is longer than that.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise Refused(f"{path}: more than {most} bytes{longer}")
    return data
