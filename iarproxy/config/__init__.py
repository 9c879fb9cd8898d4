"""The configuration: frozen values, parsed once and handed in.

Rule 1: an unknown key is an error that suggests the right one; nothing is ignored (threats T89).
Rule 2: every error is one line: file, key, what is wrong, what to write instead.
Rule 3: what is dangerous is refused here, before anything starts: an upstream with credentials on an open listener
        (design invariant 10), credentials over plain http to a host that is not local, two sections for one upstream.
Rule 4: nothing reads the environment at import; `load` is told it.
"""

from iarproxy.config.loading import find, load, parse
from iarproxy.config.settings import (
    AdminSettings,
    Config,
    DriftSettings,
    LedgerSettings,
    PinSettings,
    ServerSettings,
    StoreSettings,
    UpstreamSettings,
)

__all__ = [
    "AdminSettings",
    "Config",
    "DriftSettings",
    "LedgerSettings",
    "PinSettings",
    "ServerSettings",
    "StoreSettings",
    "UpstreamSettings",
    "find",
    "load",
    "parse",
]
