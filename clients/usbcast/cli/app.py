"""The Typer application: which verbs there are, and what becomes of their errors."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from usbcast.cli import (
    bridge,
    command,
    convert,
    demo,
    devices,
    doctor,
    health,
    keys,
    logs,
    play,
    record,
    serve,
    streams,
    verify,
    watch,
)
from usbcast.cli.holder import taken
from usbcast.cli.output import complain, show_crash
from usbcast_schemas.errors import EndpointTaken, UsageError, UsbcastError
from usbcast_schemas.extras import missing

app = typer.Typer(
    name="usbcast",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="One process owns a USB device; every program receives every packet, or is told exactly which ones it did not.",
    epilog="Begin with: [bold]usbcast demo[/bold]",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"usbcast {version('usbcast')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr what happens inside.")] = False,
) -> None:
    logs.set_up(logging.INFO if verbose else logging.WARNING)


app.command("demo", epilog="Example: usbcast demo --seconds 20")(demo.demo)
app.command("devices", epilog="Example: usbcast devices   or: usbcast devices --profile 1209:0001 > mine.toml")(
    devices.devices
)
app.command("serve", epilog="Example: usbcast serve first-case   or: usbcast serve --simulate --rate 1000")(serve.serve)
app.command("list", epilog="Example: usbcast list   or: usbcast list --lan")(streams.list_streams)
app.command("info", epilog="Example: usbcast info first-case")(streams.info)
app.command("watch", epilog="Example: usbcast watch first-case")(watch.watch)
app.command("health", epilog="Example: usbcast health --json")(health.health)
app.command("record", epilog="Example: usbcast record first-case --output run   then: usbcast verify run")(
    record.record
)
app.command("play", epilog="Example: usbcast play run --speed 2 --loop")(play.play)
app.command("bridge", epilog="Example: usbcast bridge tcp://127.0.0.1:5570 --bind tcp://127.0.0.1:5580")(bridge.bridge)
app.command("verify", epilog="Example: usbcast verify run")(verify.verify)
app.command("recover", epilog="Example: usbcast recover run-00003.mcap.part")(verify.recover)
app.command("convert", epilog="Example: usbcast convert run --to csv")(convert.convert)
app.command("doctor", epilog="Example: usbcast doctor   or: usbcast doctor tcp://lab:5570 --stream imu")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.command("command", epilog="Example: usbcast command first-case --type 0xc0 --request 1 --length 2")(command.command)


def run() -> int:
    """Run the verb that the arguments name; return the exit code."""
    try:
        app()
    except SystemExit as wish:
        return wish.code if isinstance(wish.code, int) else 1
    except EndpointTaken as error:
        complain(taken(error))
        return 1
    except UsbcastError as error:
        # What is wrong with a file of the user's is a line for each fault; what a peer said is one line, whatever is in it.
        for sentence in str(error).split("\n") if isinstance(error, UsageError) else (str(error),):
            complain(sentence)
        # A wrong profile or setting is something to mend; what was asked for wrongly is bad usage.
        return 2 if type(error) is UsageError else 1
    except ModuleNotFoundError as error:
        if not (sentence := missing(error.name)):
            raise
        complain(sentence)
        return 1
    except BrokenPipeError:
        return 1
    finally:
        sys.excepthook = show_crash  # instead of the one that Typer has put there
    return 0
