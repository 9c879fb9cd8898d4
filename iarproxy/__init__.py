"""A pull-through mirror for OCI registries that pins each tag to its digest and refuses upstream drift."""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, from the metadata of the installed package: what reads them takes as long to import as Python."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415  # only `--version` and what asks upstreams say it

    return version("iarproxy")
