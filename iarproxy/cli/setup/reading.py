"""Reading files that others wrote: clients' configuration, and the authority of a certificate.

Rule: whatever is at a path, reading it ends, and takes bounded memory: a pipe, a device or a folder is no file.
"""

from __future__ import annotations

import errno
import os
import ssl
import stat
from pathlib import Path

from iarproxy.errors import Refused

_MAX = 4 * 2**20  # bytes of a configuration file


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read, is none, or is larger than any configuration file (4 MiB).
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe waits for none
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no file", str(path))
        data = file.read(_MAX + 1)
    if len(data) > _MAX:
        raise OSError(errno.EFBIG, f"larger than any configuration file ({_MAX} bytes)", str(path))
    return data


def read_ca(file: Path) -> bytes:
    """The bytes of a certificate authority's file.

    Raises:
        Refused: it cannot be read, or holds no certificate.
    """
    remedy = "give --ca-file the certificate of the mirror's authority"
    try:
        data = read(file)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", errors="ignore"))
    except (ssl.SSLError, ValueError) as error:  # an SSLError is an OSError too
        raise Refused(f"{file}: holds no PEM certificate; {remedy}") from error
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}; {remedy}") from error
    return data
