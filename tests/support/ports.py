"""Ports of this machine, picked at run time."""

from __future__ import annotations

from drills.ports import free_port

__all__ = ["free_port"]
