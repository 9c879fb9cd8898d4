"""Run the command line: `python -m iarproxy`."""

from iarproxy.cli import main

main()
