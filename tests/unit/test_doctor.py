"""What the doctor says of facts; on real servers it is asked in integration/test_doctor.py."""

from __future__ import annotations

from typing import Any

import pytest

from brokers import doctor
from brokers.doctor import Level

GOOD = {
    "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": "ANY 1 (*)",
    "server_version_num": "160002", "server_encoding": "UTF8",
}  # fmt: skip
EXPIRES = {"ID": "old", "Status": "Enabled", "Expiration": {"Days": 30}}


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        ({**EXPIRES, "Filter": {"Prefix": ""}}, Level.FAIL),
        ({**EXPIRES, "Filter": {"Prefix": "ponor/wal/"}}, Level.FAIL),
        ({**EXPIRES, "Filter": {"Prefix": "ponor/wal/00/"}}, Level.FAIL),
        ({**EXPIRES, "Prefix": "pon"}, Level.FAIL),
        ({**EXPIRES, "Filter": {"Prefix": "other/"}}, Level.OK),
        ({**EXPIRES, "Filter": {"And": {"Prefix": "ponor/", "Tags": [{"Key": "a", "Value": "b"}]}}}, Level.OK),
        ({**EXPIRES, "Filter": {"Tag": {"Key": "a", "Value": "b"}}}, Level.OK),
        ({**EXPIRES, "Status": "Disabled"}, Level.OK),
        ({"Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}, Level.OK),
        ({"Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, Level.OK),
        ({**EXPIRES, "Expiration": {"ExpiredObjectDeleteMarker": True}}, Level.OK),
        ({"Status": "Enabled", "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}]}, Level.WARN),
    ],
)
def test_7_a_rule_that_expires_objects_under_the_prefix_fails(rule: dict[str, Any], level: Level) -> None:
    assert doctor.lifecycle("WAL", "ponor/wal/", [rule]).level is level


def test_versioning_and_object_lock_are_remarks() -> None:
    assert doctor.versioning("s", "", []).level is Level.OK
    assert doctor.versioning("s", "Enabled", []).level is Level.WARN
    rule = {"Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    assert doctor.versioning("s", "Enabled", [rule]).level is Level.OK
    assert (doctor.object_lock("s", None).level, doctor.object_lock("s", "GOVERNANCE").level) == (Level.OK, Level.WARN)


@pytest.mark.parametrize(("seconds", "level"), [(0, Level.OK), (-5, Level.WARN), (299, Level.WARN), (-300, Level.FAIL)])
def test_clocks(seconds: float, level: Level) -> None:
    assert doctor.skew("s", seconds).level is level


@pytest.mark.parametrize(
    ("change", "standbys", "levels"),
    [
        ({}, 1, [Level.OK]),
        ({}, 0, [Level.FAIL]),
        ({"fsync": "off"}, 1, [Level.FAIL]),
        ({"full_page_writes": "off"}, 1, [Level.FAIL]),
        ({"synchronous_commit": "off"}, 1, [Level.WARN]),
        ({"synchronous_commit": "local"}, 1, [Level.WARN]),
        ({"synchronous_standby_names": ""}, 0, [Level.WARN]),
        ({"server_version_num": "140009"}, 1, [Level.WARN]),
        ({"server_encoding": "SQL_ASCII"}, 1, [Level.FAIL]),
    ],
)
def test_8_what_postgresql_must_be_set_to(change: dict[str, str], standbys: int, levels: list[Level]) -> None:
    assert [found.level for found in doctor.postgres(GOOD | change, standbys)] == levels


def test_this_machine() -> None:
    assert (doctor.open_files(1024).level, doctor.open_files(1 << 20).level) == (Level.WARN, Level.OK)
    for host, addresses, alone, level in (
        ("nowhere.invalid", None, True, Level.FAIL), ("0.0.0.0", ["0.0.0.0"], True, Level.FAIL),
        ("localhost", ["127.0.0.1"], False, Level.WARN), ("localhost", ["127.0.0.1", "::1"], True, Level.OK),
        ("b1", ["10.0.0.1"], False, Level.OK),
    ):  # fmt: skip
        assert doctor.listener("l", host, addresses, alone).level is level
