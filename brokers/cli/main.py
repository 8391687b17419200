"""The `ponor` command. Imports little: what a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from brokers.cli.lean import keep_out_unwanted
from brokers.version import VERSION

app = typer.Typer(
    help="Ponor: a Kafka-compatible streaming system whose records live in object storage.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

HTTP_PORT: Final = 9080
PORT: Final = 9092
HOST: Final = "127.0.0.1"

DataDir = Annotated[str | None, typer.Option(metavar="DIR", help="Folder for everything local [./data].")]
ObjectStore = Annotated[
    str | None,
    typer.Option(metavar="URL", help="s3://bucket/prefix?endpoint=…, gs://…, az://…, file:///path, memory:."),
]
Wal = Annotated[str | None, typer.Option(metavar="URL", help="file:///path, s3://bucket/prefix?… or memory:.")]
MetadataUrl = Annotated[str | None, typer.Option("--metadata", metavar="URL", help="sqlite:///path, postgresql://….")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of docs/CONFIGURATION.md.")
]


@app.command()
def up(
    brokers: Annotated[int, typer.Option(min=1, max=64, help="Broker processes, on ports one after another.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Kafka port of the first broker.")] = PORT,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port of the first broker.")] = HTTP_PORT,
    data_dir: DataDir = None,
    object_store: ObjectStore = None,
    wal: Wal = None,
    metadata: MetadataUrl = None,
    racks: Annotated[str | None, typer.Option(metavar="A,B", help="Racks (broker.rack), given out in turn.")] = None,
    assignments: Set = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start a broker that died again.")] = False,
) -> None:
    """Run a local cluster in the foreground; prints a line starting `ponor ready` when all brokers serve."""
    keep_out_unwanted()
    from brokers.cli import process
    from brokers.cli.cluster import LocalCluster
    from brokers.cli.sources import check_shared, from_assignments, from_environment, from_flags, own_rack, own_wal
    from brokers.config import default_memory_bytes
    from s3stream.errors import BadSetting

    try:
        base = from_environment(os.environ)
        shared = _urls(data_dir, object_store, wal, metadata)
        given = from_assignments(assignments or ())
        if brokers > 1:
            base = {"ponor.memory.bytes": str(default_memory_bytes(brokers))} | base
            check_shared(base | from_flags(shared) | given)
        settings = []
        for number in range(brokers):
            own = base | from_flags(_addresses(number, port, http_port) | shared) | given
            settings.append(own_rack(own_wal(own, number, brokers), number, racks))
    except BadSetting as error:
        _fail(str(error))
    sys.exit(LocalCluster(settings, process.run, restart).run())


def _addresses(number: int, port: int, http_port: int) -> dict[str, object | None]:
    return {
        "node.id": number,
        "listeners": f"PLAINTEXT://{HOST}:{port + number if port else 0}",
        "ponor.http.port": http_port + number if http_port else 0,
    }


def _urls(
    data_dir: str | None, object_store: str | None, wal: str | None, metadata: str | None
) -> dict[str, object | None]:
    return {
        "ponor.data.dir": data_dir,
        "ponor.object.store.url": object_store,
        "ponor.wal.url": wal,
        "ponor.metadata.url": metadata,
    }


@app.command()
def broker(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file of settings.")] = None,
    node_id: Annotated[int | None, typer.Option(min=0, help="node.id.")] = None,
    listeners: Annotated[str | None, typer.Option(metavar="NAME://HOST:PORT", help="listeners.")] = None,
    advertised_listeners: Annotated[
        str | None, typer.Option(metavar="NAME://HOST:PORT", help="advertised.listeners.")
    ] = None,
    http_host: Annotated[str | None, typer.Option(help="ponor.http.host.")] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65535, help="ponor.http.port.")] = None,
    data_dir: DataDir = None,
    object_store: ObjectStore = None,
    wal: Wal = None,
    metadata: MetadataUrl = None,
    assignments: Set = None,
) -> None:
    """Run a single broker: settings from FILE, then PONOR_… variables, then flags; the later wins."""
    keep_out_unwanted()
    from brokers.cli import process
    from brokers.cli.sources import from_assignments, from_environment, from_flags, from_toml
    from s3stream.errors import BadSetting

    flags: dict[str, object | None] = {
        "node.id": node_id,
        "listeners": listeners,
        "advertised.listeners": advertised_listeners,
        "ponor.http.host": http_host,
        "ponor.http.port": http_port,
    }
    try:
        settings = from_toml(config) if config is not None else {}
        settings |= from_environment(os.environ)
        settings |= from_flags(flags | _urls(data_dir, object_store, wal, metadata))
        settings |= from_assignments(assignments or ())
    except BadSetting as error:
        _fail(str(error))
    sys.exit(process.run(settings))


node = typer.Typer(help="What an operator does with one broker.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(node, name="node")
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.")]


@node.command()
def forget(
    node_id: Annotated[int, typer.Argument(metavar="NODE", min=0, help="node.id of the broker that is gone.")],
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Give the records up; without it, only say which.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    object_store: ObjectStore = None,
    metadata: MetadataUrl = None,
    assignments: Set = None,
) -> None:
    """A broker's WAL is gone for good: list what is lost with it, or give that up so that its partitions go on."""
    from brokers.cli.forget import forget

    sys.exit(forget(_stores(config, data_dir, object_store, None, metadata, assignments), node_id, accept_loss))


@node.command("drain")
def node_drain(
    node_id: Annotated[int, typer.Argument(min=0, metavar="NODE")],
    undo: Annotated[bool, typer.Option("--undo", help="It is to have partitions again.")] = False,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Until it is empty; else exit code 1.")] = 0,
    data_dir: DataDir = None,
    metadata: MetadataUrl = None,
) -> None:
    """Have all partitions leave a broker, which goes on running without them until it is restarted."""
    from brokers.cli import node as node_commands
    from brokers.cli.sources import from_environment, from_flags
    from s3stream.errors import PonorError

    try:
        settings = from_environment(os.environ) | from_flags(_urls(data_dir, None, None, metadata))
        code = node_commands.drain(settings, node_id, not undo, wait)
    except PonorError as error:
        _fail(str(error))
    sys.exit(code)


metadata_commands = typer.Typer(
    help="What an operator does with the metadata database.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(metadata_commands, name="metadata")


@metadata_commands.command("restore-fence")
def restore_fence(
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on without what was written since; without it, only say what.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    object_store: ObjectStore = None,
    wal: Wal = None,
    metadata: MetadataUrl = None,
    assignments: Set = None,
) -> None:
    """The database was restored from a backup: bring it past everything that was given out since, before any broker
    starts on it."""
    from brokers.cli.restore import restore_fence

    sys.exit(restore_fence(_stores(config, data_dir, object_store, wal, metadata, assignments), accept_loss))


@app.command()
def doctor(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    object_store: ObjectStore = None,
    wal: Wal = None,
    metadata: MetadataUrl = None,
    assignments: Set = None,
) -> None:
    """Check a deployment, before or while it runs: bucket, database, WAL, listeners, limits; one line each."""
    from brokers.cli.doctor import examine

    sys.exit(examine(_stores(config, data_dir, object_store, wal, metadata, assignments)))


def _stores(
    config: Path | None, data_dir: str | None, object_store: str | None, wal: str | None, metadata: str | None,
    assignments: list[str] | None,
) -> dict[str, str]:  # fmt: skip
    """Settings as a broker has them, for a command that only needs to know where things lie."""
    from brokers.cli.sources import from_assignments, from_environment, from_flags, from_toml
    from s3stream.errors import BadSetting

    try:
        settings = from_toml(config) if config is not None else {}
        settings |= from_environment(os.environ)
        settings |= from_flags(_urls(data_dir, object_store, wal, metadata))
        return settings | from_assignments(assignments or ())
    except BadSetting as error:
        _fail(str(error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def drill(context: typer.Context) -> None:
    """Kill, pause and move brokers of a cluster of its own under load, and account for every record: NAME …, --help."""
    from brokers.cli import drill

    line = drill.command(context.args)
    if line is None:
        _fail("this installation has no drills: pip install 'ponor[drills]'")
    drill.become(line)


@app.command()
def version() -> None:
    """Print the release."""
    print(f"ponor {VERSION}")


def _fail(message: str) -> NoReturn:
    print(f"ponor: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    app(prog_name="ponor")


if __name__ == "__main__":
    main()
