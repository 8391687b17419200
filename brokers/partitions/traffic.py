"""What one open log has served, since it was opened: what balancing goes by.

Plain additions, once for each partition of a request; nothing per record. Requests of clients alone: what a
coordinator writes shows in the process's CPU time.
"""

from __future__ import annotations


class Traffic:
    __slots__ = ("bytes_in", "bytes_out", "requests")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.requests = 0

    def came_in(self, size: int) -> None:
        self.bytes_in += size
        self.requests += 1

    def went_out(self, size: int) -> None:
        self.bytes_out += size
        self.requests += 1
