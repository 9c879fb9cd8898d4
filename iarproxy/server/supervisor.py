"""`serve`: open the sockets, then let the master keep the workers alive until it is told to stop.

Rule 1: what cannot be served is one `ConfigError` before anything starts.
Rule 2: this returns in the master only; a worker's process ends where its life ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from iarproxy import metrics
from iarproxy.errors import ConfigError
from iarproxy.server.faces import Build, ServeSettings
from iarproxy.server.limits import raise_file_limit, require_c_parser
from iarproxy.server.listeners import Role, inherited_listeners, open_listeners
from iarproxy.server.master import Application, Master
from iarproxy.server.notify import Notifier


def serve(
    settings: ServeSettings,
    build: Build,
    reload: Callable[[], ServeSettings],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Serve until told to stop; the exit status of the command.

    Args:
        settings: how; the first ones.
        build: makes a worker's faces, in the worker.
        reload: reads the configuration again; on SIGHUP.
        environment: of this process; None: the real one.

    Raises:
        ConfigError: an address cannot be listened on, there is no certificate for one, or the HTTP parser is the slow
            one; nothing was started.
    """
    told = os.environ if environment is None else environment
    require_c_parser()
    raise_file_limit()
    listeners = open_listeners(settings.addresses, inherited_listeners(told), settings.optional)
    if settings.tls is None and any(each.role is Role.TLS for each in listeners):
        raise ConfigError("systemd gives a socket for TLS; write cert_file and key_file in [server.tls]")
    if settings.metrics_dir is not None:
        metrics.clear(settings.metrics_dir)
    application = Application(settings, build, reload, listeners, Notifier(told))
    master = os.getpid()
    try:
        Master(application).run()
    except SystemExit as end:
        if os.getpid() != master:  # a worker's exit must not run on in the code of whoever called `serve`
            os._exit(int(end.code or 0))
        return int(end.code or 0)
    finally:
        for listener in listeners:
            listener.close()
    return 0
