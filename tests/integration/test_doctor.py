"""`ponor doctor` on real servers, rightly and wrongly set up; what it prints holds no secret."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import boto3

from tests.support.careless_s3 import CarelessS3, Fault
from tests.support.ponor_process import PonorProcess, ponor_command
from tests.support.postgres import database, shared_server
from tests.support.servers import ACCESS_KEY, REGION, SECRET_KEY, MinioServer, minio

__all__ = ["database", "minio"]


def examine(folder: Path, *flags: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
    """(exit code, level by subject: the worst, all that was printed)."""
    command = [*ponor_command(), "doctor", "--data-dir", str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})
    levels: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line[:4].strip() not in ("ok", "warn", "FAIL"):
            continue
        level, subject = line[:4].strip(), line[6:].split(":")[0]
        levels[subject] = max(level, levels.get(subject, ""), key=["", "ok", "warn", "FAIL"].index)
    return done.returncode, levels, done.stdout + done.stderr


def client(server: MinioServer):  # type: ignore[no-untyped-def]
    return boto3.client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
    )  # fmt: skip


def test_one_machine_before_and_while_it_runs(tmp_path: Path) -> None:
    ponor = PonorProcess(tmp_path)
    code, levels, said = examine(ponor.data_dir)
    assert (code, levels["object store"], levels["WAL"], levels["sqlite"]) == (0, "ok", "ok", "warn"), said
    assert not (ponor.data_dir / "metadata.db").exists(), "nothing is made"
    with ponor:
        code, levels, said = examine(ponor.data_dir)
        assert (code, levels["WAL"], "in use by process" in said) == (0, "ok", True), said


def test_7_a_bucket_with_an_expiring_rule_or_without_a_bucket_fails(
    minio: MinioServer,
    tmp_path: Path,
) -> None:
    minio.create_bucket("checked")
    flags = ("--object-store", minio.url("checked", "p/objects"), "--wal", minio.url("checked", "p/wal"))
    code, levels, said = examine(tmp_path, *flags, env=minio.environment)
    assert (code, levels["object store"], levels["WAL"]) == (0, "ok", "ok"), said
    rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": "p/wal/"}, "Expiration": {"Days": 30}}
    s3 = client(minio)
    s3.put_bucket_lifecycle_configuration(Bucket="checked", LifecycleConfiguration={"Rules": [rule]})
    s3.put_bucket_versioning(Bucket="checked", VersioningConfiguration={"Status": "Enabled"})
    code, levels, said = examine(tmp_path, *flags, env=minio.environment)
    assert (code, levels["object store"], levels["WAL"], "rule tidy expires" in said) == (1, "warn", "FAIL", True), said
    code, levels, said = examine(tmp_path, "--object-store", minio.url("absent", "p"), env=minio.environment)
    assert (code, levels["object store"], "create it" in said) == (1, "FAIL", True), said
    wrong = {**minio.environment, "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-wrong"}
    code, levels, said = examine(tmp_path, *flags, env=wrong)
    assert (code, levels["object store"]) == (1, "FAIL") and "a-secret-that-is-wrong" not in said, said
    assert SECRET_KEY not in said


def test_5_a_store_that_lets_two_writers_win_fails(tmp_path: Path) -> None:
    with CarelessS3(Fault.IGNORES) as careless:
        code, levels, said = examine(tmp_path, "--object-store", careless.url("b"), env=careless.environment)
    assert (code, levels["object store"], "two writers" in said) == (1, "FAIL", True), said


def test_8_postgresql_wrongly_set_up_fails_and_its_password_is_not_told(tmp_path: Path, database: str) -> None:
    """The tests' server does not sync, and has no standby."""
    url = shared_server().url(database)
    code, levels, said = examine(tmp_path, "--metadata", url)
    assert (code, levels["postgresql"]) == (1, "FAIL"), said
    assert "fsync is off" in said and "no synchronous standby" in said and "its clock is" in said, said
    _, _, place = url.partition("://")
    with_secret = f"postgresql://somebody:sesame-open@{place.rpartition('@')[2]}"
    code, levels, said = examine(tmp_path, "--metadata", with_secret)
    assert (code, levels["postgresql"]) == (1, "FAIL") and "sesame-open" not in said, said
