"""Is the WAL's directory on a file system whose locks and syncs mean what they say? (CORRECTNESS 10)

Pure: reads a mount table in the form of Linux's /proc/self/mountinfo (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

from typing import NamedTuple

REFUSED = frozenset(
    {"cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gfs2", "ocfs2", "glusterfs", "beegfs", "gpfs"}
)
"""Network and multi-attach file systems whose locks or syncs were not examined."""


class Mount(NamedTuple):
    point: str
    kind: str
    options: frozenset[str]


def complaint(mountinfo: str, path: str) -> str | None:
    """What is wrong with the mount that holds the absolute `path`, and what to do; None when it will do."""
    mount = _mount_of(mountinfo, path)
    if mount is None:
        return None
    if mount.kind in REFUSED or mount.kind.startswith("fuse."):
        return f"{path} is on {mount.kind}, which cannot hold a WAL: use a local disk or NFS 4.1"
    if mount.kind in ("nfs", "nfs4"):
        return _nfs_complaint(mount, path)
    return None


def _nfs_complaint(mount: Mount, path: str) -> str | None:
    version = next((option[5:] for option in mount.options if option.startswith("vers=")), "")
    if version not in ("4.1", "4.2"):
        return f"{path} is on NFS {version or 'of unknown version'}: mount it with vers=4.1 or 4.2"
    if "soft" in mount.options or "softerr" in mount.options:
        return f"{path} is on a soft NFS mount, which gives up writes: mount it with 'hard'"
    if any(option.startswith("local_lock=") and option != "local_lock=none" for option in mount.options):
        return f"{path} is on NFS with local locks: mount it with local_lock=none"
    return None


def _mount_of(mountinfo: str, path: str) -> Mount | None:
    """The mount with the longest mount point above `path`; of two on one point the later, which hides the other."""
    best: Mount | None = None
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if "-" not in fields or len(fields) < 10:
            continue
        point = fields[4].encode("latin-1", "replace").decode("unicode_escape")
        dash = fields.index("-")
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            options = frozenset(fields[5].split(",")) | frozenset(fields[-1].split(","))
            best = Mount(point, fields[dash + 1], options)
    return best
