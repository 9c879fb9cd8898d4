"""`iarproxy check-config`: what a configuration means, and what of it is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from iarproxy import config as configuration
from iarproxy.cli import serve, telling
from iarproxy.cli.options import ConfigOption
from iarproxy.cli.output import out, print_json
from iarproxy.trust import Admission


def check_config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", readable=False, help="None: the file that `serve` would read.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Check a configuration and say what it means.

    It is read as `serve` would; nothing is started.
    """
    settings = configuration.load(file or config, os.environ)
    identity = serve.tls_identity(settings)
    telling.check(settings)
    if json:
        print_json(settings.model_dump(mode="json", exclude={"tags"}) | {"tags": [str(tag) for tag in settings.tags]})
        return
    out.print(f"{settings.source or 'built-in defaults'}: ok", markup=False)
    plain = [*settings.server.listen, *settings.server.optional_listen]
    out.print(f"  listens on  {', '.join(plain) or 'TLS only'}; admin on {settings.admin.listen}", markup=False)
    if identity is not None and settings.server.tls is not None:
        tls, expires = settings.server.tls, identity.not_after.date()
        out.print(f"  TLS on      {', '.join(tls.listen)}; certificate until {expires}", markup=False)
        for remark in identity.remarks:
            out.print(f"  warning     {remark}", markup=False)
    out.print(f"  store       {settings.store.path}", markup=False)
    offline = ", never asked: offline" if settings.server.offline else ""
    for name, upstream in settings.upstreams.items():
        out.print(f"  upstream    {name} at {', else '.join(upstream.urls)}{offline}", markup=False)
    for name, section in settings.environments.items():
        out.print(f"  environment {name} on {section.described()}", markup=False)
    if settings.inbox is not None:
        keys = ", ".join(map(str, settings.inbox.trust))
        out.print(f"  inbox       {settings.inbox.path}, signed by {keys}", markup=False)
    for name, hook in settings.webhooks.items():
        out.print(f"  webhook     {name}: {', '.join(hook.events)}", markup=False)
    for rule in settings.rules:
        first = "" if rule.admit is Admission.ANY else f", admits only what is {rule.admit}"
        first += f", cools down for {rule.cool_down}" if rule.cool_down else ""
        out.print(f"  tags        {rule.match.text}: {rule.mode}, on drift {rule.on_drift}{first}", markup=False)
