"""`usbcast doctor` on this machine: native core, memory for rings, directories, limits, libusb, devices, extras."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from platform import machine, python_version, system

from usbcast.doctor.findings import Finding, failed, ok, skipped
from usbcast_schemas import engine
from usbcast_schemas.errors import LibusbMissing, RingUnavailable, UsbcastError
from usbcast_schemas.extras import MODULES, install, missing
from usbcast_schemas.places import SHARED_MEMORY, ring_directory, runtime_directory
from usbcast_schemas.ring import DEFAULT_DATA_BYTES

LEAST_OPEN_FILES = 1024
"""Each connection takes one; a node allows a thousand connections unless told otherwise."""


def examine_machine() -> Iterator[Finding]:
    """A finding for each thing that matters here."""
    yield ok("usbcast", f"{version('usbcast')}, Python {python_version()}, {system()} {machine()}")
    yield _native_core()
    yield _extras()
    yield _directories()
    yield _shared_memory()
    yield _open_files()
    yield from _usb()


def _native_core() -> Finding:
    if engine.ENGINE == "native":
        return ok("native core", "in use")
    if os.environ.get(engine.PURE):
        return skipped("native core", f"{engine.why_not}: Python does its work")
    return skipped(
        "native core",
        f"{engine.why_not}: Python does its work, at a half to two thirds of the speed; where there are a C compiler and "
        "Python's headers, it is built when usbcast is installed",
    )


def _extras() -> Finding:
    there = [name for name, modules in MODULES.items() if all(find_spec(module) for module in modules)]
    lacking = [name for name in MODULES if name not in there]
    says = f"installed: {', '.join(there) or 'none'}"
    if lacking:
        says += f"; not installed: {', '.join(lacking)} ({install(*lacking)})"
    return ok("extras", says)


def _directories() -> Finding:
    try:
        return ok("directories", f"{ring_directory()} for rings, {runtime_directory()} for local nodes")
    except RingUnavailable as error:
        return failed("directories", str(error))


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        return skipped("shared memory", f"there is no {SHARED_MEMORY} on this system: rings are ordinary files")
    free = shutil.disk_usage(SHARED_MEMORY).free
    says = f"{free / 2**20:,.0f} MiB free in {SHARED_MEMORY}"
    if free < DEFAULT_DATA_BYTES:
        return failed(
            "shared memory",
            f"{says}, and a ring takes {DEFAULT_DATA_BYTES >> 20}: give the container more (--shm-size 256m), remove what is "
            "there, or make rings smaller (--ring-size)",
        )
    return ok("shared memory", says)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        return failed(
            "open files",
            f"this user may open {soft} files at once, and a node with many clients needs more: ulimit -n {LEAST_OPEN_FILES} "
            f"before it is started (the most allowed is {'unlimited' if hard == resource.RLIM_INFINITY else hard})",
        )
    return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft:,} at once")


def _usb() -> Iterator[Finding]:
    try:
        from usbcast_broker.sources.usb.discovery import list_devices
    except ModuleNotFoundError as error:
        yield skipped("usb", f"{missing(error.name) or error}; until then no device can be read here")
        return
    try:
        devices = [device for device in list_devices() if not device.is_hub]
    except LibusbMissing as error:
        yield failed("usb", str(error))
        return
    except UsbcastError as error:
        yield failed("usb", f"the devices cannot be listed: {error}")
        return
    # A kernel driver has the keyboard and the camera; what it left alone is there to be served.
    forbidden = [device for device in devices if device.may_open is False and not device.drivers]
    if forbidden:
        named = ", ".join(
            f"{one.identity.vendor_id:04x}:{one.identity.product_id:04x} at {one.identity.bus_path}"
            for one in forbidden
        )
        yield failed("usb", f"this user may not open {named}: docs/usb.md has the udev rule; then plug it in again")
        return
    yield ok(
        "usb",
        f"libusb is there; {len(devices)} devices plugged in" if devices else "libusb is there; no device plugged in",
    )
