"""Object store URLs and what they mean for S3: every wrong one is a BadSetting that says what would be right."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s3stream.clock import SystemClock
from s3stream.errors import BadSetting
from s3stream.metrics import Metrics
from s3stream.objectstore import open_store
from s3stream.objectstore.s3 import s3_settings
from s3stream.objectstore.url import StoreUrl, parse_store_url

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory:", StoreUrl("memory:", "memory")),
        ("file:///var/lib/ponor", StoreUrl("file:///var/lib/ponor", "file", prefix="/var/lib/ponor")),
        ("file:///with%20space/", StoreUrl("file:///with%20space/", "file", prefix="/with space")),
        ("s3://bucket", StoreUrl("s3://bucket", "s3", "bucket")),
        ("s3://bucket/", StoreUrl("s3://bucket/", "s3", "bucket")),
        ("s3://bucket/a/b/", StoreUrl("s3://bucket/a/b/", "s3", "bucket", "a/b")),
        (
            "s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-west-1",
            StoreUrl(
                "s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-west-1",
                "s3",
                "b",
                "p",
                {"endpoint": "http://127.0.0.1:9000", "region": "eu-west-1"},
            ),
        ),
        ("gs://bucket/p", StoreUrl("gs://bucket/p", "gs", "bucket", "p")),
        ("az://c/p?account=me", StoreUrl("az://c/p?account=me", "az", "c", "p", {"account": "me"})),
    ],
)
def test_good_urls(text: str, expected: StoreUrl) -> None:
    assert parse_store_url(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it has no scheme"),
        ("/var/lib/ponor", "it has no scheme"),
        ("ftp://host/path", "unknown scheme 'ftp'"),
        ("s3://", "a bucket name has to follow"),
        ("s3:///prefix", "a bucket name has to follow"),
        ("s3://bucket:9000/p", "without a port"),
        ("s3://bucket/a//b", "empty or relative segment"),
        ("s3://bucket/a/../b", "empty or relative segment"),
        ("s3://bucket?endpoint=127.0.0.1:9000", "not an http:// or https:// URL"),
        ("s3://bucket?endpont=http://x", "unknown option 'endpont'; known options of s3: are endpoint"),
        ("s3://bucket?region=", "'region' is empty"),
        ("s3://bucket?region=a&region=b", "given twice"),
        ("s3://bucket?client=curl", "not one of obstore, aioboto3"),
        ("s3://bucket#frag", "fragment"),
        ("gs://bucket?endpoint=http://x", "unknown option 'endpoint'; it takes none"),
        ("file:relative", "absolute path"),
        ("file://host/path", "absolute path"),
        ("file:///", "absolute path"),
        ("memory://x", "takes no path"),
        ("memory:x", "takes no path"),
        ("s3://[bad", "Invalid IPv6"),
    ],
)
def test_bad_urls_name_the_problem(text: str, problem: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse_store_url(text)
    assert problem in str(caught.value)
    assert "file:///path" in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(BadSetting) as caught:
        parse_store_url("s3://key:topsecret@bucket/p")
    assert "topsecret" not in str(caught.value)


def test_s3_defaults() -> None:
    found = s3_settings(parse_store_url("s3://bucket/p"), KEYS)
    assert (found.region, found.endpoint, found.path_style, found.sign_payload) == ("us-east-1", None, False, False)
    assert (found.access_key, found.secret_key, found.token, found.session) == ("key", "secret", None, None)
    assert (found.bucket, found.prefix, found.checksum) == ("bucket", "p", None)


def test_the_url_goes_before_the_environment() -> None:
    environment = {
        **KEYS,
        "AWS_ENDPOINT_URL": "http://general:1",
        "AWS_ENDPOINT_URL_S3": "http://s3:1",
        "AWS_REGION": "eu-1",
        "AWS_DEFAULT_REGION": "eu-2",
        "AWS_SESSION_TOKEN": "token",
    }
    found = s3_settings(parse_store_url("s3://bucket"), environment)
    assert (found.endpoint, found.region, found.token, found.path_style) == ("http://s3:1", "eu-1", "token", True)
    found = s3_settings(
        parse_store_url("s3://bucket?endpoint=http://url:1&region=eu-0&addressing=virtual"), environment
    )
    assert (found.endpoint, found.region, found.path_style) == ("http://url:1", "eu-0", False)
    assert s3_settings(parse_store_url("s3://bucket"), {**KEYS, "AWS_DEFAULT_REGION": "eu-2"}).region == "eu-2"


@pytest.mark.parametrize(
    ("query", "signed"),
    [
        ("", False),
        ("?endpoint=https://storage.example", False),
        ("?endpoint=http://127.0.0.1:9000", False),
        ("?endpoint=http://[::1]:9000", False),
        ("?endpoint=http://localhost:9000", False),
        ("?endpoint=http://10.0.0.1:9000", True),
        ("?endpoint=http://minio:9000", True),
        ("?endpoint=http://minio:9000&payload=unsigned", False),
        ("?payload=signed", True),
    ],
)
def test_payloads_are_signed_where_nothing_else_protects_them(query: str, signed: bool) -> None:
    assert s3_settings(parse_store_url(f"s3://bucket{query}"), KEYS).sign_payload is signed


@pytest.mark.parametrize("client", ["obstore", "aioboto3"])
def test_no_credentials_at_all_is_a_bad_setting(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    monkeypatch.setattr(boto3.Session, "get_credentials", lambda self: None)
    with pytest.raises(BadSetting, match="no AWS credentials found; set AWS_ACCESS_KEY_ID"):
        open_store(f"s3://bucket?client={client}", metrics=Metrics(), clock=SystemClock(), environment={})


def test_a_profile_that_does_not_exist_is_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(BadSetting, match="no-such-profile"):
        open_store(
            "s3://bucket", metrics=Metrics(), clock=SystemClock(), environment={"AWS_PROFILE": "no-such-profile"}
        )


def test_credentials_of_the_session_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    shared = f"{tmp_path}/credentials"
    with open(shared, "w") as file:
        file.write("[work]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", shared)
    monkeypatch.setenv("AWS_PROFILE", "work")
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    found = s3_settings(parse_store_url("s3://bucket"), {"AWS_PROFILE": "work"})
    assert found.access_key is None
    assert found.session.get_credentials().access_key == "a"


@pytest.mark.parametrize(
    ("url", "absent"),
    [
        ("s3://bucket", ("boto3", "botocore", "aioboto3", "aiohttp")),
        ("file:///tmp/x", ("boto3", "botocore", "obstore")),
        ("memory:", ("boto3", "botocore", "obstore")),
    ],
)
def test_only_what_the_store_needs_is_imported(url: str, absent: tuple[str, ...]) -> None:
    program = (
        "import sys; from s3stream.objectstore import open_store; from s3stream.metrics import Metrics; "
        "from s3stream.clock import SystemClock; "
        f"open_store({url!r}, metrics=Metrics(), clock=SystemClock(), environment={KEYS!r}); "
        f"print([name for name in {absent!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
