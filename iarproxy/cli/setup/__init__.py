"""`iarproxy setup`: make, write, take back and prove the mirror configuration of container clients."""

from iarproxy.cli.setup.command import setup

__all__ = ["setup"]
