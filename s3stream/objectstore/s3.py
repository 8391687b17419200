"""S3 as the user means it: endpoint, region, credentials, client options; for obstore and aioboto3 alike.

Owns: where each of these comes from, and in which order. Environment variables are read here and nowhere else in the
storage layer: they are how AWS tools are told.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.store import S3Store

from s3stream.errors import BadSetting
from s3stream.limits import STORE_CONNECT_TIMEOUT_S, STORE_IDLE_CONNECTIONS_MAX, STORE_REQUEST_TIMEOUT_MAX_S
from s3stream.objectstore.url import StoreUrl

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config


@dataclass(frozen=True, slots=True)
class S3Settings:
    bucket: str
    prefix: str
    region: str
    endpoint: str | None
    path_style: bool
    sign_payload: bool
    checksum: str | None
    access_key: str | None
    """None: the credentials come from the session."""
    secret_key: str | None
    token: str | None
    session: Any = None
    """A boto3 session: profiles, SSO, roles, containers, instances. Made only when no key is in the environment."""


def s3_settings(url: StoreUrl, environment: Mapping[str, str]) -> S3Settings:
    """Raises BadSetting when there are no credentials at all."""
    options = url.options
    endpoint = (
        options.get("endpoint") or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None
    )
    region = options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    access_key = environment.get("AWS_ACCESS_KEY_ID")
    secret_key = environment.get("AWS_SECRET_ACCESS_KEY")
    session = None
    if not (access_key and secret_key):
        access_key = secret_key = None
        session = _session(url)
        region = region or session.region_name
    return S3Settings(
        bucket=url.bucket,
        prefix=url.prefix,
        region=region or "us-east-1",
        endpoint=endpoint,
        # Without a wildcard DNS entry, which AWS has and others seldom do, the bucket cannot be part of the host.
        path_style=options.get("addressing", "path" if endpoint else "virtual") == "path",
        sign_payload=options.get("payload", _payload_default(endpoint)) == "signed",
        checksum=None if options.get("checksum", "none") == "none" else options["checksum"],
        access_key=access_key,
        secret_key=secret_key,
        token=environment.get("AWS_SESSION_TOKEN") if access_key else None,
        session=session,
    )


def s3_client(settings: S3Settings) -> S3Store:
    config: S3Config = {
        "region": settings.region,
        "unsigned_payload": not settings.sign_payload,
        "virtual_hosted_style_request": not settings.path_style,
        "conditional_put": "etag",
    }
    if settings.endpoint is not None:
        config["endpoint"] = settings.endpoint
    if settings.checksum is not None:
        config["checksum_algorithm"] = settings.checksum
    provider = None
    if settings.session is not None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        provider = Boto3CredentialProvider(settings.session)
    else:
        config["access_key_id"] = settings.access_key or ""
        config["secret_access_key"] = settings.secret_key or ""
        if settings.token:
            config["session_token"] = settings.token
    return S3Store(
        settings.bucket,
        prefix=settings.prefix or None,
        config=config,
        client_options=client_options(settings.endpoint),
        retry_config=NO_RETRIES,
        credential_provider=provider,
    )


def client_options(endpoint: str | None) -> ClientConfig:
    return {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=STORE_CONNECT_TIMEOUT_S),
        # The retrying wrapper's timeout ends a request first; this one only makes sure that nothing outlives it.
        "timeout": timedelta(seconds=STORE_REQUEST_TIMEOUT_MAX_S),
        "pool_max_idle_per_host": str(STORE_IDLE_CONNECTIONS_MAX),
    }


NO_RETRIES: RetryConfig = {
    "max_retries": 0,
    "retry_timeout": timedelta(seconds=STORE_REQUEST_TIMEOUT_MAX_S),
    "backoff": {"init_backoff": timedelta(seconds=1), "max_backoff": timedelta(seconds=1), "base": 2},
}


def _payload_default(endpoint: str | None) -> str:
    """Hashing the payload for the signature costs 1.7 CPU-seconds per GB. TLS protects it as well, and on the loopback
    there is nothing to protect it from; over plain HTTP on a network nothing else would notice a flipped bit."""
    if endpoint is None or endpoint.startswith("https://"):
        return "unsigned"
    host = urlsplit(endpoint).hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return "unsigned" if loopback else "signed"


def _session(url: StoreUrl) -> Any:
    # boto3 costs 0.3 s and 30 MB: imported only where keys are not simply in the environment.
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise BadSetting(f"object store {url.text}: AWS credentials: {error}") from error
    if credentials is None:
        raise BadSetting(
            f"object store {url.text}: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or give this machine a role"
        )
    return session
