"""The conversations. Each is an `async def scenario(broker: Broker) -> None` that notes what it was answered."""
