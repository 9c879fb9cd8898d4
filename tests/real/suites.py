"""Client programs of newer Debian releases, unpacked into folders and run in a mount namespace of their own.

Rule 1: nothing of a suite is installed, configured or started on this machine; it is a folder to be removed with rm.
Rule 2: packages come from where this machine's own apt gets Debian's; the address is read at run time and kept nowhere.
Rule 3: without its folder a suite is not there, and its tests are skipped. `python tests/real/suites.py trixie forky`
        makes the folders (as root, with mmdebstrap): below `$IARPROXY_SUITES`, else `iarproxy-suites` in the folder for
        temporary files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(os.environ.get("IARPROXY_SUITES") or Path(tempfile.gettempdir()) / "iarproxy-suites")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = (
    "bash,coreutils,libc-bin,util-linux,mount,tar,gzip,xz-utils,zstd,procps,ca-certificates,iptables,"
    "containerd,runc,docker.io,docker-cli,podman,buildah,skopeo,umoci,crun,conmon,netavark"
)
_COMPLETE = ".complete"  # written last

# The folder becomes the root by pivot_root, since runc and dockerd want their root to be a mount point. Of the outside
# there is what the programs need of the kernel, and the folder for temporary files at its own path.
_ENTER = """
set -e
mount --bind "$1" "$1" && cd "$1"
for each in proc sys dev; do mount --rbind "/$each" "$each"; done
mount -t tmpfs none run
mkdir -p ".$2" && mount --rbind "$2" ".$2"
pivot_root . . && umount -l . && cd /
shift 2
exec "$@"
"""


def root(suite: str) -> Path:
    """Where the suite's programs are, or would be."""
    return FOLDER / suite


def is_made(suite: str) -> bool:
    """Whether the suite is there, complete."""
    return (root(suite) / _COMPLETE).exists()


def inside(suite: str) -> list[str]:
    """The words to put before a command, so that it runs with the suite's folder as its root."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER, "sh", str(root(suite)), _shared()]


def _shared() -> str:
    return str(Path(tempfile.gettempdir()).resolve())


def _debian() -> str:
    """The address of the Debian archive that this machine's apt uses.

    Raises:
        SystemExit: apt knows none.
    """
    wanted = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for origin, codename, address in (line.split("|", 2) for line in listed):
        if origin == "Debian" and "-" not in codename:
            return address
    raise SystemExit("apt has no Debian archive on this machine (try: apt-get update)")


def make(suite: str) -> None:
    """Unpack the suite, unless it is there."""
    if is_made(suite):
        return
    folder = root(suite)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A testing release's index is often older than it says that it may be; its signature is checked all the same.
    options = ['Acquire::Check-Valid-Until "false"', 'Apt::Install-Recommends "false"']
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=root", f"--keyring={KEYRING}"]
    command += [f"--aptopt={each}" for each in options] + [f"--include={PACKAGES}"]
    subprocess.run([*command, suite, str(folder), f"deb {_debian()} {suite} main"], check=True)
    _settle(folder)
    (folder / _COMPLETE).touch()


def _settle(folder: Path) -> None:
    """What the packages' scripts, which do not run, would have left; and forget the archive (rule 2)."""
    for each in (folder / "etc/apt").glob("sources.list*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    for below in ("var/lib/apt/lists", "var/cache/apt"):
        shutil.rmtree(folder / below, ignore_errors=True)
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\ndocker:x:999:\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/resolv.conf": "",
        "etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}\n',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if not (folder / "bin/sh").exists():
        (folder / "bin/sh").symlink_to("bash")
    for name in ("iptables", "ip6tables"):
        link = folder / "usr/sbin" / name
        if not link.exists():
            link.symlink_to(f"{name}-nft")


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        make(wanted)
