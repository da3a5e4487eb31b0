"""A job on a cluster that asks for TLS, a password and ACLs: it runs with those that docs/operations.md lists, and one
that is missing stops it with a message that names what was refused. Passwords are never told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from streamcore import config
from streamcore.errors import EXIT_DONE, EXIT_STOP, AccessDenied
from streamcore.log.kafka import KafkaLog
from streamcore.log.port import Admin, Log
from streamcore.types import Offset, Partition, TopicPartition
from tests.kafka import broker
from tests.kafka.jars import Unavailable, java
from tests.kafka.test_command_line import children, eventually

ROOT = Path(__file__).parents[2]
PARTITIONS = 2
USER, PASSWORD = "word-counter", "s3cret of the job"
STORE_PASSWORD = "store-of-the-test"

CODE = """
from streamcore import Job, Topic, agg

job = Job("{job}")
words = job.stream(Topic("{job}-lines", str)).flat_map(str.split).key_by("by-word", str.lower)
words.aggregate("count", agg.count()).to(Topic("{job}-counts", int, key=str))
"""
SETTINGS = """
[kafka]
bootstrap = "{bootstrap}"
security_protocol = "sasl_ssl"
sasl_mechanism = "PLAIN"
sasl_username = "{user}"
ssl_ca = "{ca}"

[worker]
session_timeout = "6s"
"""


@dataclass(frozen=True)
class Access:
    """A row of docs/operations.md's table."""

    kind: ResourceType
    name: str
    pattern: ResourcePatternType
    operations: frozenset[str]

    def plus(self, *operations: str) -> Access:
        return Access(self.kind, self.name, self.pattern, self.operations | set(operations))

    def without(self, *operations: str) -> Access:
        return Access(self.kind, self.name, self.pattern, self.operations - set(operations))

    def bindings(self) -> list[AclBinding]:
        who, host, allow = f"User:{USER}", "*", AclPermissionType.ALLOW
        return [
            AclBinding(self.kind, self.name, self.pattern, who, host, AclOperation[operation], allow)
            for operation in sorted(self.operations)
        ]


def documented(job: str) -> dict[str, Access]:
    topic, group, transactions = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
    literal, prefixed = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
    return {
        "source": Access(topic, f"{job}-lines", literal, frozenset({"READ", "DESCRIBE"})),
        "sink": Access(topic, f"{job}-counts", literal, frozenset({"WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"})),
        "internal": Access(
            topic, f"{job}.", prefixed, frozenset({"CREATE", "READ", "WRITE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS"})
        ),
        "group": Access(group, job, literal, frozenset({"READ", "DESCRIBE"})),
        "transactions": Access(transactions, f"{job}.", prefixed, frozenset({"WRITE", "DESCRIBE"})),
    }


class Secured:
    """One broker with a listener of TLS and passwords, where nobody may do anything but by an ACL."""

    def __init__(self, directory: Path) -> None:
        self.ca = authority(directory, "ca")
        self.other_ca = authority(directory, "other-ca")
        store = signed_by(directory, "ca")
        self._broker = broker.Local(
            settings={
                "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "listener.name.client.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                "listener.name.client.scram-sha-512.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                ),
                "listener.name.client.plain.sasl.jaas.config": (
                    f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
                ),
                "listener.name.client.ssl.keystore.location": store,
                "listener.name.client.ssl.keystore.type": "PKCS12",
                "listener.name.client.ssl.keystore.password": STORE_PASSWORD,
            }
        )
        self.bootstrap = self._broker.bootstrap
        self.log: Log = KafkaLog(self._broker.internal)
        self._admin = AdminClient({"bootstrap.servers": self._broker.internal, "log_level": 0})
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        told = self._admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, scram, PASSWORD.encode())])
        told[USER].result(10)

    def allow(self, access: Sequence[Access]) -> None:
        """These and no others."""
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        for deleted in self._admin.delete_acls([every]).values():
            deleted.result(10)
        wanted = [binding for row in access for binding in row.bindings()]
        for created in self._admin.create_acls(wanted).values() if wanted else ():
            created.result(10)
        eventually(lambda: True if set(self._admin.describe_acls(every).result(10)) == set(wanted) else None)

    def close(self) -> None:
        self._broker.close()


def keytool(directory: Path, *arguments: str) -> None:
    command = [str(java().with_name("keytool")), *arguments, "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)


def authority(directory: Path, name: str) -> Path:
    """A certificate that signs others; its PEM."""
    key = ("-genkeypair", "-alias", name, "-keystore", f"{name}.p12", "-keyalg", "EC", "-dname", f"CN={name}")
    keytool(directory, *key, "-ext", "bc:c")
    keytool(directory, "-exportcert", "-rfc", "-alias", name, "-keystore", f"{name}.p12", "-file", f"{name}.pem")
    return directory / f"{name}.pem"


def signed_by(directory: Path, name: str) -> Path:
    """A broker's key and certificate."""
    own = directory / "broker.p12"
    own.write_bytes((directory / f"{name}.p12").read_bytes())
    key = ("-genkeypair", "-alias", "broker", "-keystore", own.name, "-keyalg", "EC", "-dname", "CN=broker")
    keytool(directory, *key, "-signer", name, "-ext", f"san=ip:{broker.HOST}")
    keytool(directory, "-delete", "-alias", name, "-keystore", own.name)
    return own


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    try:
        made = Secured(tmp_path_factory.mktemp("secured"))
    except Unavailable as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.close()


class WordCount:
    """A two-stage job of its own name; the user's topics are made and fed by somebody else."""

    def __init__(self, secured: Secured, directory: Path) -> None:
        self.job = f"sec-{uuid4().hex[:8]}"
        self.lines, self.counts = f"{self.job}-lines", f"{self.job}-counts"
        self.access = documented(self.job)
        self._log = secured.log
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []
        (directory / "count.py").write_text(CODE.format(job=self.job))
        self.settings = SETTINGS.format(bootstrap=secured.bootstrap, user=USER, ca=secured.ca)
        self.password: str = PASSWORD
        admin = self._log.admin()
        for topic in (self.lines, self.counts):
            admin.create(topic, PARTITIONS, {})
        admin.close()

    def own_admin(self) -> Admin:
        """With the job's user."""
        (self._directory / "streamcore.toml").write_text(self.settings)
        settings = config.load(self._directory / "streamcore.toml", {"kafka.sasl_password": self.password})
        return KafkaLog(settings.kafka.bootstrap or "", settings.kafka.client()).admin()

    def feed(self, lines: Sequence[str]) -> None:
        producer = self._log.producer(None)
        producer.init(10)
        producer.produce(self.lines, None, [line.encode() for line in lines])
        producer.flush(30)
        producer.close()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        (self._directory / "streamcore.toml").write_text(self.settings)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMCORE_KAFKA__SASL_PASSWORD": self.password}
        with (self._directory / "errors").open("a") as errors, (self._directory / "output").open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamcore", *arguments],
                stdout=output,
                stderr=errors,
                text=True,
                env=environment,
                cwd=self._directory,
            )
        self._started.append(process)
        return process

    def run(self, *arguments: str) -> int:
        return self.start("run", "count.py:job", *arguments).wait(timeout=60)

    def told(self) -> str:
        return (self._directory / "output").read_text() + (self._directory / "errors").read_text()

    def counted(self) -> dict[str, int]:
        """The last count of each word; committed records only."""
        tps = [TopicPartition(self.counts, Partition(number)) for number in range(PARTITIONS)]
        reader = self._log.reader(dict.fromkeys(tps, Offset(0)))
        found: dict[str, int] = {}
        while reader.ended() != frozenset(tps):
            for run in reader.poll(1_000, 0.1):
                for key, value in zip(run.keys, run.values, strict=True):
                    found[(key or b"").decode()] = int(value or b"")
        reader.close()
        return found

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children():
                    child.kill()
                process.kill()
            process.wait()


@pytest.fixture
def count(secured: Secured, tmp_path: Path) -> Iterator[WordCount]:
    made = WordCount(secured, tmp_path)
    yield made
    made.end()


def plain(lines: Sequence[str]) -> Counter[str]:
    return Counter(word for line in lines for word in line.split())


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_job_with_the_documented_acls_survives_kills_and_restarts(
    secured: Secured, count: WordCount, mechanism: str
) -> None:
    secured.allow([*count.access.values()])
    count.settings = count.settings.replace("PLAIN", mechanism)
    lines = [f"w{n % 97} w{n % 13} end" for n in range(4_000)]
    count.feed(lines[:2_000])
    supervisor = count.start("run", "count.py:job", "--workers", "2")
    for turn in range(2):
        eventually(lambda turn=turn: True if count.told().count("running ") > turn else None)
        victim = children(supervisor, 2)[turn]
        victim.kill()
        eventually(lambda victim=victim: victim not in children(supervisor, 2) or None)
    count.feed(lines[2_000:])
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=60) == EXIT_DONE, count.told()[-5000:]
    assert count.run("--until-idle") == EXIT_DONE, count.told()[-5000:]
    assert count.counted() == plain(lines)
    assert "uthorization" not in count.told()


@pytest.mark.parametrize(
    ("row", "taken", "named"),
    [
        ("transactions", ("WRITE", "DESCRIBE"), ["producer {job}.0", "transactional ids", "Write"]),
        ("group", ("READ", "DESCRIBE"), ["group {job}", "Read"]),
        ("source", ("READ", "DESCRIBE"), ["{job}-lines", "Read"]),
        ("source", ("READ",), ["{job}-lines", "Read"]),
        ("sink", ("WRITE",), ["{job}-counts", "Write"]),
        ("sink", ("DESCRIBE_CONFIGS",), ["{job}-counts", "DescribeConfigs"]),
        ("internal", ("CREATE",), ["{job}.", "Create"]),
        ("internal", ("WRITE",), ["{job}.", "Write"]),
        ("internal", ("READ",), ["{job}.", "Read"]),
        ("internal", ("DESCRIBE_CONFIGS",), ["{job}.", "DescribeConfigs"]),
    ],
)
def test_an_acl_that_is_missing_stops_the_job_and_is_named(
    secured: Secured, count: WordCount, row: str, taken: tuple[str, ...], named: list[str]
) -> None:
    secured.allow([access.without(*taken) if name == row else access for name, access in count.access.items()])
    count.feed(["to be or not to be"])
    code = count.run("--until-idle")
    told = count.told()
    assert code == EXIT_STOP, told[-5000:]
    assert "AccessDenied" in told and "docs/operations.md" in told, told[-3000:]
    for words in named:
        assert words.format(job=count.job) in told.partition("AccessDenied")[2], told[-3000:]


def test_at_least_once_an_acl_that_is_missing_stops_the_job_too(secured: Secured, count: WordCount) -> None:
    secured.allow([access.without("WRITE") if name == "sink" else access for name, access in count.access.items()])
    count.feed(["to be or not to be"])
    assert count.run("--until-idle", "--mode", "at-least-once") == EXIT_STOP, count.told()[-5000:]
    told = count.told().partition("AccessDenied")[2]
    assert count.counts in told and "Write" in told, count.told()[-3000:]


def test_deleting_what_a_shuffle_has_behind_it_needs_delete_on_the_jobs_own_topics(
    secured: Secured, count: WordCount
) -> None:
    secured.allow([*count.access.values()])
    count.feed(["to be or not to be"])
    assert count.run("--until-idle") == EXIT_DONE, count.told()[-5000:]
    shuffle = TopicPartition(f"{count.job}.shuffle.by-word", Partition(0))
    admin = count.own_admin()
    admin.delete_records({shuffle: Offset(1)})
    assert admin.first_offsets([shuffle]) == {shuffle: 1}
    secured.allow([access.without("DELETE") for access in count.access.values()])
    with pytest.raises(AccessDenied, match=rf"{shuffle.topic}.*\n.*Delete"):
        admin.delete_records({shuffle: Offset(2)})
    admin.close()


def test_status_check_and_recover_need_no_more_and_reset_needs_delete_on_the_group(
    secured: Secured, count: WordCount
) -> None:
    secured.allow([*count.access.values()])
    count.feed(["to be or not to be"])
    assert count.run("--until-idle") == EXIT_DONE, count.told()[-5000:]
    assert count.start("status", count.job).wait(timeout=60) == EXIT_DONE, count.told()[-5000:]
    assert count.start("check", "count.py:job").wait(timeout=60) == EXIT_DONE, count.told()[-5000:]
    eventually(lambda: True if count.start("recover", count.job, "--yes").wait(timeout=60) == EXIT_DONE else None)
    assert count.start("reset", count.job, "--yes").wait(timeout=60) == EXIT_STOP
    assert f"deleting group {count.job}: " in count.told() and "and Delete for" in count.told(), count.told()[-3000:]
    secured.allow([access.plus("DELETE") if name == "group" else access for name, access in count.access.items()])
    assert count.start("reset", count.job, "--yes").wait(timeout=60) == EXIT_DONE, count.told()[-5000:]


def untold(count: WordCount, directory: Path, *passwords: str) -> bool:
    files: list[Any] = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    return not any(password.encode() in text for password in passwords for text in files)


def test_a_wrong_password_stops_the_job_and_no_password_is_told(
    secured: Secured, count: WordCount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secured.allow([*count.access.values()])
    count.password = "s3cret of another"
    count.settings += '[log]\nlevel = "debug"\n[kafka.extra]\ndebug = "security,conf"\n'
    assert count.run("--until-idle") == EXIT_STOP, count.told()[-5000:]
    told = count.told()
    assert "AccessDenied" in told and "uthentication failed" in told and "kafka.sasl_password" in told, told[-3000:]
    assert untold(count, tmp_path, PASSWORD, count.password)

    monkeypatch.setenv("STREAMCORE_KAFKA__SASL_PASSWORD", PASSWORD)
    settings = config.load(tmp_path / "streamcore.toml")
    log = KafkaLog(secured.bootstrap, settings.kafka.client())
    assert not any(PASSWORD in text for text in (repr(settings), str(settings), repr(log), repr(log.admin())))


def test_a_certificate_of_an_unknown_authority_is_told_as_such(secured: Secured, count: WordCount) -> None:
    secured.allow([*count.access.values()])
    count.settings = count.settings.replace(str(secured.ca), str(secured.other_ca))
    assert count.run("--until-idle") == EXIT_STOP, count.told()[-5000:]
    told = count.told()
    assert "AccessDenied" in told and "certificate" in told and "kafka.ssl_ca" in told, told[-3000:]
    assert PASSWORD not in told
