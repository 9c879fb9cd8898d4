"""nginx in three parts: the source registry, a static server of the same files, and a caching proxy.

Rule 1: set as its manual advises: sendfile, tcp_nopush, a long keep-alive, no access log (but the source's). A row of
        its own is tuned further, to what was fastest here: open_file_cache, no corking, no sendfile for manifests.
Rule 2: it answers like a registry (media types, Docker-Content-Digest), so that real clients take it for one.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.content import MANIFEST, Content
from benchmarks.processes import Command, find

_USUAL = "sendfile on; tcp_nopush on;"
_OPEN = "open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h; open_file_cache_min_uses 1;"


def files(folder: Path, port: int, content: Content, *, workers: int = 1, tuned: bool = False) -> Command:
    """The content as static files."""
    settings = f"access_log off; sendfile on; tcp_nopush {'off' if tuned else 'on'}; {_OPEN if tuned else ''}"
    return _nginx(folder, workers, settings, _registry(port, content, "sendfile off;" if tuned else ""))


def source(folder: Path, port: int, content: Content) -> Command:
    """The registry that everything is pulled from; `access` in `folder` has a line for each answer."""
    shape = "log_format counted '$request_method $uri $status $body_bytes_sent';"
    return _nginx(folder, 1, f"{shape} access_log {folder}/access counted; {_USUAL}", _registry(port, content))


def cache_of(folder: Path, port: int, upstream: int) -> Command:
    """A caching proxy, one transfer for many readers."""
    kept = f"proxy_cache_path {folder}/cache levels=1:2 keys_zone=kept:10m max_size=100g inactive=1h use_temp_path=off;"
    server = f"""
upstream registry {{ server 127.0.0.1:{upstream}; keepalive 32; }}
server {{
  listen 127.0.0.1:{port} backlog=4096;
  location / {{
    proxy_pass http://registry; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Range "";
    proxy_set_header Host $host; proxy_cache kept; proxy_cache_key $uri; proxy_cache_valid 200 1h;
    proxy_cache_lock on; proxy_cache_lock_timeout 1h; proxy_cache_lock_age 1h; proxy_max_temp_file_size 0;
  }}
}}"""
    return _nginx(folder, 1, f"access_log off; {_USUAL} {kept}", server)


def _registry(port: int, content: Content, for_manifests: str = "") -> str:
    """No regular expression and no variable on the way of a blob: plain prefixes, as a file server has them."""
    digests = "".join(
        f'  "{path}" {image.manifest.digest};\n'
        for image in content.images
        for path in (image.tag_path, image.manifest.path)
    )
    manifests = "".join(
        f"  location /v2/{name}/manifests/ {{\n"
        f"    {for_manifests} types {{}} default_type {MANIFEST}; add_header Docker-Content-Digest $digest;\n  }}\n"
        for name in sorted({image.name for image in content.images})
    )
    return f"""
map $uri $digest {{
{digests}}}
server {{
  listen 127.0.0.1:{port} backlog=4096; root {content.root}; etag off;
  types {{}} default_type application/octet-stream;
  location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}
{manifests}}}"""


def _nginx(folder: Path, workers: int, settings: str, servers: str) -> Command:
    config = folder / "nginx.conf"
    temporary = "".join(f"{each}_temp_path {folder}/{each}; " for each in ("proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""  # the scratch folder is ours alone
    config.write_text(f"""
daemon off; {user} worker_processes {workers}; pid {folder}/nginx.pid; error_log stderr error;
worker_rlimit_nofile 19000;
events {{ worker_connections 16000; }}
http {{
  tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 1000000000;
  map_hash_bucket_size 256; client_body_temp_path {folder}/client; {temporary}
  {settings}
  {servers}
}}
""")
    return [find("nginx") or "nginx", "-e", "stderr", "-c", config]
