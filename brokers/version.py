"""This release's number, without what reading package metadata costs at start (30 ms)."""

from typing import Final

VERSION: Final = "0.1.0"
