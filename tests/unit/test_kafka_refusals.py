"""What the broker refuses stops the job, and nothing that passes is taken for a refusal."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import KafkaError

from streamcore.errors import AccessDenied, LogUnavailable
from streamcore.log.kafka.errors import Events
from streamcore.log.kafka.settings import ClientSettings

TIMEOUT = KafkaError(KafkaError._TIMED_OUT)
UNVERIFIED = "SSL handshake failed: certificate verify failed"


def events() -> Events:
    return Events(ClientSettings("localhost:9092"), logging.getLogger("test"), "client")


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        (KafkaError(KafkaError._AUTHENTICATION, "Invalid username or password"), "kafka.sasl_password"),
        (KafkaError(KafkaError._SSL, UNVERIFIED), "kafka.ssl_ca"),
    ],
)
def test_a_refused_connection_is_told_with_its_reason_and_the_setting(reason: KafkaError, setting: str) -> None:
    heard = events()
    heard.on_error(reason)
    heard.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    told = heard.error(TIMEOUT, "init")
    assert isinstance(told, AccessDenied)
    assert reason.str() in told.what and setting in told.remedy


def test_a_broker_that_went_away_during_the_handshake_is_no_refusal() -> None:
    heard = events()
    heard.on_error(KafkaError(KafkaError._SSL, "SSL handshake failed: Disconnected"))
    assert isinstance(heard.error(TIMEOUT, "init"), LogUnavailable)


def test_a_refusal_that_passed_does_not_make_one_of_a_later_outage() -> None:
    heard = events()
    heard.on_error(KafkaError(KafkaError._AUTHENTICATION, "credentials are not loaded yet"))
    heard.on_error(KafkaError(KafkaError._TRANSPORT, "Connection refused"))
    assert isinstance(heard.error(TIMEOUT, "init"), LogUnavailable)


def test_a_refused_write_ends_the_transaction_with_a_stop_that_names_what_is_written() -> None:
    refused = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "Topic authorization failed", txn_requires_abort=True)
    heard = events()
    heard.written |= {"out", "JOB.journal.in"}
    for told in (heard.in_transaction(refused, "send_offsets"), heard.at_commit(refused, "commit")):
        assert isinstance(told, AccessDenied)
        assert told.what.endswith("; it writes to JOB.journal.in, out") and "Write" in told.remedy
