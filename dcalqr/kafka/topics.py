"""Which partitions a topic has: asked of the brokers, because a consumer only knows the topics that it reads."""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError


async def partitions_of(topic: str, connection: dict[str, Any]) -> list[TopicPartition]:
    """Return the partitions of a topic, by number.

    Parameters
    ----------
    topic
        Its name.
    connection
        As from `settings.connection`.

    Raises
    ------
    KafkaError
        The brokers do not answer, or have no such topic.
    """
    admin = AIOKafkaAdminClient(**connection)
    try:
        await admin.start()
        [described] = await admin.describe_topics([topic])
    finally:
        await admin.close()
    if described["error_code"]:
        raise KafkaError(f"the topic {topic} does not exist, or may not be read")
    return [TopicPartition(topic, number) for number in sorted(each["partition"] for each in described["partitions"])]
