"""Implementations of the ObjectStore seam. `open_store` makes one from a URL; tests/contracts holds all to the seam."""

from s3stream.objectstore.factory import open_store

__all__ = ["open_store"]
