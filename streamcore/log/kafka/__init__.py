"""The log port on confluent-kafka: the only package that imports it."""

from streamcore.log.kafka.client import KafkaLog

__all__ = ["KafkaLog"]
