"""The garbage collector: where many objects are made that stay, it would walk them again and again, and find nothing.

A sixth of the time of an import, and a third of that of a document with a million entries.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resting() -> Iterator[None]:
    """Let it rest within the block."""
    rests = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not rests:
            gc.enable()
