"""What a consumer group is subscribed to, read from its members' join metadata.

The metadata is the clients' own (ConsumerProtocolSubscription); the coordinator reads only the topics, which
stand first in every version. Anything unreadable is a group whose subscriptions are unknown, not an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from brokers.groups.messages import CONSUMER_PROTOCOL


def subscribed_topics(protocol_type: str | None, subscriptions: Iterable[bytes]) -> frozenset[str] | None:
    """Topics that any member subscribes to; None when the group is no consumer group or one is unreadable."""
    if protocol_type != CONSUMER_PROTOCOL:
        return None
    topics: set[str] = set()
    for subscription in subscriptions:
        try:
            topics.update(_topics(subscription))
        except (ValueError, UnicodeDecodeError):
            return None
    return frozenset(topics)


def _topics(data: bytes) -> list[str]:
    # int16 version, then an array (int32 count) of strings (int16 length).
    if _int(data, 0, 2) < 0:
        raise ValueError("negative version")
    count = _int(data, 2, 4)
    position, topics = 6, []
    if not 0 <= count <= len(data):
        raise ValueError("array longer than its message")
    for _ in range(count):
        size = _int(data, position, 2)
        end = position + 2 + size
        if size < 0 or end > len(data):
            raise ValueError("string longer than its message")
        topics.append(data[position + 2 : end].decode())
        position = end
    return topics


def _int(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise ValueError("message ends inside a field")
    return int.from_bytes(data[position : position + size], "big", signed=True)
