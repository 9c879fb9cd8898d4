"""Ctrl-C. While a command works it is a KeyboardInterrupt, which ends it in order and is told in one line; before that,
while the program is still being imported, it ends the process by the signal, without a word: nothing has begun.

An import that is interrupted by an exception may take it for its own failure, or print it from where nobody catches it.
Where SIGINT is ignored, or somebody else handles it, that is left as it is.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


def end_by_them() -> bool:
    """Let them end the process, until `notice_them`; False: that is not ours to say."""
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return True


def notice_them() -> None:
    """Let them be KeyboardInterrupts, after `end_by_them`."""
    if current_thread() is main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def importing() -> Iterator[None]:
    """Let them end the process within the block."""
    ours = end_by_them()
    try:
        yield
    finally:
        if ours:
            notice_them()
