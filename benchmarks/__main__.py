"""The command: `python -m benchmarks [run|report|prepare|list]`."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from pathlib import Path

from benchmarks import prepare, report, session
from benchmarks.processes import Failed

HERE = Path(__file__).parent


def main() -> int:
    """Do what the command line asks; the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        match options.command:
            case "prepare":
                prepare.prepare(options.tools)
            case "report":
                report.write(options.results, options.docs)
            case "list":
                print("\n".join(session.names()))
            case _:
                session.run(options)
    except Failed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare iarproxy with its peers.")
    parser.add_argument("command", nargs="?", default="run", choices=["run", "report", "prepare", "list"])
    parser.add_argument("--only", default="", help="workloads, by the beginning of their names, with commas between")
    parser.add_argument("--servers", default="", help="servers, by name, with commas between")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each workload (5; quick: 2)")
    parser.add_argument("--seconds", type=float, default=0, help="length of a timed run (2; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, smaller herds")
    parser.add_argument("--save", action="store_true", help="write results and report also for a part of the workloads")
    parser.add_argument("--iarproxy", type=Path, default=HERE.parent / ".venv/bin/iarproxy", help="the program to test")
    parser.add_argument("--against", type=Path, help="another iarproxy, as a further row")
    parser.add_argument("--tools", type=Path, default=HERE / ".tools", help="where drayage and distribution are kept")
    parser.add_argument("--results", type=Path, default=HERE / "results/latest.json")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
