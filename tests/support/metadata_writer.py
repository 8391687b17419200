"""A process to be killed: commits to every stream of a topic, and prints each end once it is committed.

python -m tests.support.metadata_writer sqlite:///path
"""

from __future__ import annotations

import asyncio
import sys

from s3stream.types import Checkpoint, CommittedRange, OpenRequest
from tests.support.metadata import Node, make_streams, open_for_test

STREAMS = 8


async def write(url: str) -> None:
    metadata = await open_for_test(url)
    node = await Node.register(metadata)
    image = await metadata.load_image()
    streams = await make_streams(metadata, STREAMS, f"t{image.version}", image.version)
    await metadata.open_streams(node.identity, [OpenRequest(stream, -1, 0) for stream in streams])
    end = 0
    while True:
        ranges = [CommittedRange(stream, 0, end, end + 3, 30) for stream in streams]
        end += 3
        await node.commit(*ranges, checkpoints={stream: Checkpoint(end, b"x" * end) for stream in streams}, trim=end)
        print(end, flush=True)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
