"""CORRECTNESS 10: where a WAL may lie."""

from __future__ import annotations

import pytest

from wal.mounts import complaint

ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"


def line(kind: str, options: str, point: str = "/data") -> str:
    return f"{ROOT}40 22 0:44 / {point} rw,noatime - {kind} host:/x {options}\n"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (ROOT, None),
        ("", None),
        (line("xfs", "rw"), None),
        (line("nfs4", "rw,vers=4.1,hard,local_lock=none"), None),
        (line("nfs4", "rw,vers=4.2,hard,proto=tcp,local_lock=none"), None),
        (line("nfs4", "rw,vers=4.0,hard,local_lock=none"), "vers=4.1"),
        (line("nfs", "rw,vers=3,hard,local_lock=none"), "vers=4.1"),
        (line("nfs4", "rw,vers=4.1,soft,local_lock=none"), "hard"),
        (line("nfs4", "rw,vers=4.1,hard,local_lock=all"), "local_lock=none"),
        (line("cifs", "rw"), "cifs"),
        (line("fuse.sshfs", "rw"), "fuse.sshfs"),
        (line("cifs", "rw", "/dat"), None),
        (line("cifs", "rw", "/data/wal/deeper"), None),
        (line("cifs", "rw") + "50 40 8:2 / /data/wal rw - ext4 /dev/b rw\n", None),
        (line("ext4", "rw") + "50 40 8:2 / /data rw - cifs //x rw\n", "cifs"),
        (line("cifs", "rw", "/data\\040x"), None),
        ("nonsense\n\n" + ROOT, None),
    ],
)
def test_mounts_that_cannot_hold_a_wal_are_named(table: str, expected: str | None) -> None:
    found = complaint(table, "/data/wal")
    assert (found is None) if expected is None else (found is not None and expected in found and "/data/wal" in found)


def test_a_mount_point_with_a_space_is_found() -> None:
    assert complaint(line("cifs", "rw", "/my\\040data"), "/my data/wal") is not None
