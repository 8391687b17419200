"""Google Cloud Storage and Azure Blob Storage. obstore finds their credentials where their own tools do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore

from s3stream.errors import BadSetting
from s3stream.objectstore.faults import first_line
from s3stream.objectstore.s3 import NO_RETRIES, client_options
from s3stream.objectstore.url import StoreUrl

if TYPE_CHECKING:
    from obstore.store import AzureConfig


def google_client(url: StoreUrl) -> GCSStore:
    """Credentials: GOOGLE_APPLICATION_CREDENTIALS, gcloud's application default, or the machine's service account."""
    try:
        return GCSStore(
            url.bucket, prefix=url.prefix or None, client_options=client_options(None), retry_config=NO_RETRIES
        )
    except (BaseError, ValueError, OSError) as error:
        raise BadSetting(f"object store {url.text}: {first_line(error)}; see GOOGLE_APPLICATION_CREDENTIALS") from error


def azure_client(url: StoreUrl) -> AzureStore:
    """Credentials: AZURE_STORAGE_ACCOUNT_KEY, a SAS token, AZURE_CLIENT_ID and the like, or a managed identity."""
    endpoint = url.options.get("endpoint")
    config: AzureConfig = {}
    if "account" in url.options:
        config["account_name"] = url.options["account"]
    if endpoint is not None:
        config["endpoint"] = endpoint
    try:
        return AzureStore(
            url.bucket,
            prefix=url.prefix or None,
            config=config,
            client_options=client_options(endpoint),
            retry_config=NO_RETRIES,
        )
    except (BaseError, ValueError, OSError) as error:
        raise BadSetting(
            f"object store {url.text}: {first_line(error)}; name the account with ?account=… or "
            "AZURE_STORAGE_ACCOUNT_NAME"
        ) from error
