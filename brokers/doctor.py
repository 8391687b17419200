"""What is wrong, or risky, in a deployment: judgements over facts. Pure: gathering them is brokers.cli.doctor's.

Invariant: each finding says what to do; nothing here knows a credential.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

SKEW_WARN_SECONDS: Final = 5.0
SKEW_FAIL_SECONDS: Final = 300.0
"""S3 refuses requests signed 15 minutes off; long before, timestamps of records and logs mislead."""
FILES_MIN: Final = 65_536
"""Open files: connections, and segments."""
POSTGRES_TESTED: Final = 15


class Level(enum.Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Finding(NamedTuple):
    level: Level
    subject: str
    text: str

    def line(self) -> str:
        return f"{self.level.value:<4}  {self.subject}: {self.text}"


def ok(subject: str, text: str) -> Finding:
    return Finding(Level.OK, subject, text)


def warn(subject: str, text: str) -> Finding:
    return Finding(Level.WARN, subject, text)


def fail(subject: str, text: str) -> Finding:
    return Finding(Level.FAIL, subject, text)


# --- the bucket --------------------------------------------------------------------------------------


def lifecycle(subject: str, prefix: str, rules: Sequence[Mapping[str, Any]]) -> Finding:
    """`rules` as S3 gives them. CORRECTNESS 7: what a rule expires may be a seal, or the only copy of a record."""
    for rule in rules:
        if rule.get("Status") != "Enabled" or not ({"Expiration", "Transitions"} & rule.keys()):
            continue
        where = _prefix_of(rule)
        if where is None or not (prefix.startswith(where) or where.startswith(prefix)):
            continue
        what = "expires" if "Expiration" in rule else "moves to another class"
        expiration = rule.get("Expiration", {})
        if "Expiration" in rule and not ({"Days", "Date"} & expiration.keys()):
            continue  # only delete markers, of which the key is gone already
        name = rule.get("ID") or f"of prefix {where!r}"
        if what == "expires":
            return fail(
                subject, f"lifecycle rule {name} expires objects under it: records and seals are lost; remove it"
            )
        return warn(subject, f"lifecycle rule {name} moves objects to another class: reads get slow or fail; remove it")
    return ok(subject, "no lifecycle rule expires objects here")


def _prefix_of(rule: Mapping[str, Any]) -> str | None:
    """Which keys it concerns; None for a rule of tagged objects, which none of ours is."""
    both = rule.get("Filter", {})
    both = both.get("And", both)
    if "Tag" in both or both.get("Tags"):
        return None
    return str(rule.get("Prefix") or both.get("Prefix") or "")


def versioning(subject: str, status: str, rules: Sequence[Mapping[str, Any]]) -> Finding:
    if status != "Enabled":
        return ok(subject, "versioning is off: what is deleted is gone")
    if any(rule.get("Status") == "Enabled" and "NoncurrentVersionExpiration" in rule for rule in rules):
        return ok(subject, "versioning is on, old versions expire")
    return warn(subject, "versioning is on: deleted objects stay and cost; expire noncurrent versions by a rule")


def object_lock(subject: str, mode: str | None) -> Finding:
    if mode is None:
        return ok(subject, "no object lock")
    return warn(subject, f"object lock ({mode}) keeps what is deleted until its retention ends: storage grows")


def skew(subject: str, seconds: float) -> Finding:
    """`seconds`: how far the other clock is ahead of this machine's."""
    text = f"its clock is {seconds:+.1f} s from this machine's"
    if abs(seconds) >= SKEW_FAIL_SECONDS:
        return fail(subject, f"{text}: set the clocks (NTP); requests are refused at 15 minutes")
    if abs(seconds) >= SKEW_WARN_SECONDS:
        return warn(subject, f"{text}: set the clocks (NTP)")
    return ok(subject, text)


# --- PostgreSQL --------------------------------------------------------------------------------------


def postgres(settings: Mapping[str, str], synchronous: int, subject: str = "postgresql") -> list[Finding]:
    """`settings` as SHOW gives them; `synchronous`: standbys that commits wait for now."""
    found = []
    for name, danger in (
        ("fsync", "a crash of the machine loses the database"),
        ("full_page_writes", "a crash of the machine may tear pages"),
    ):
        if settings[name] != "on":
            found.append(fail(subject, f"{name} is {settings[name]}: {danger}; set {name} = on"))
    commit, names = settings["synchronous_commit"], settings["synchronous_standby_names"]
    if commit == "off":
        found.append(warn(subject, "synchronous_commit is off: brokers set it on for themselves; set it on"))
    if not names:
        found.append(
            warn(
                subject,
                "no synchronous standby: a failover may lose the last commits, and brokers refuse the database then; "
                "set synchronous_standby_names, unless this server has no standby and its disk outlives it",
            )
        )
    elif commit == "local":
        found.append(warn(subject, "synchronous_commit is local: commits do not wait for the standby; set it on"))
    elif synchronous == 0:
        found.append(fail(subject, f"synchronous_standby_names is {names!r} and none is there: commits wait for ever"))
    version = int(settings["server_version_num"]) // 10_000
    if version < POSTGRES_TESTED:
        found.append(warn(subject, f"version {version}: tested are {POSTGRES_TESTED} and newer; upgrade"))
    if settings["server_encoding"] != "UTF8":
        found.append(fail(subject, f"the database's encoding is {settings['server_encoding']}: make one with UTF8"))
    return found or [ok(subject, f"version {version}, commits are durable, {synchronous} synchronous standbys")]


# --- this machine ------------------------------------------------------------------------------------


def open_files(limit: int) -> Finding:
    if limit < FILES_MIN:
        return warn("open files", f"limit is {limit}: raise it to {FILES_MIN} (ulimit -n, LimitNOFILE)")
    return ok("open files", f"limit is {limit}")


def listener(subject: str, host: str, addresses: Sequence[str] | None, alone: bool) -> Finding:
    """`addresses`: what the host resolves to, None when it does not. `alone`: all brokers are on this machine."""
    if addresses is None:
        return fail(subject, f"{host!r} cannot be resolved here: clients could not either; correct the name")
    if host in ("", "0.0.0.0", "::"):
        return fail(subject, f"clients are told {host!r}, which is no address: set advertised.listeners")
    if not alone and all(address.startswith("127.") or address == "::1" for address in addresses):
        return warn(subject, f"{host} is this machine's own loopback: other machines cannot connect")
    return ok(subject, f"{host} is {', '.join(addresses)}")
