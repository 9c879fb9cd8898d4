"""A pull-through mirror for OCI registries that pins each tag to its digest and refuses upstream drift."""

from importlib.metadata import version

__version__ = version("iarproxy")
