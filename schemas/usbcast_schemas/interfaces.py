"""Network interfaces of this machine by name or address, to send and listen on chosen ones only."""

from __future__ import annotations

from collections.abc import Sequence

from usbcast_schemas.errors import ConfigError
from usbcast_schemas.extras import missing

ALL = "all"
"""Every interface but the loopback."""


def interface_addresses() -> dict[str, list[str]]:
    """The IPv4 addresses of each interface. Raises ConfigError without the extra `discovery`."""
    try:
        import ifaddr
    except ModuleNotFoundError as error:
        raise ConfigError(missing(error.name)) from None
    return {
        adapter.nice_name: [str(one.ip) for one in adapter.ips if one.is_IPv4]
        for adapter in ifaddr.get_adapters()
        if any(one.is_IPv4 for one in adapter.ips)
    }


def choose(wanted: Sequence[str]) -> list[str]:
    """The IPv4 addresses of the interfaces that are named, by name or address, or `all`. Raises ConfigError for one not there."""
    there = interface_addresses()
    chosen: list[str] = []
    for name in wanted:
        if name == ALL:
            chosen += [address for addresses in there.values() for address in addresses if not is_loopback(address)]
        elif name in there:
            chosen += there[name]
        elif any(name in addresses for addresses in there.values()):
            chosen.append(name)
        else:
            known = ", ".join(f"{interface} ({', '.join(addresses)})" for interface, addresses in there.items())
            raise ConfigError(
                f"{name!r} is not a network interface with an IPv4 address here: there is {known or 'none'}"
            )
    if not chosen:
        raise ConfigError(f"this machine has no network interface with an IPv4 address for {', '.join(wanted)!r}")
    return list(dict.fromkeys(chosen))


def is_loopback(address: str) -> bool:
    return address.startswith("127.")


def split_names(text: str) -> list[str]:
    """Interfaces as they are written in one text, `eth0,10.0.0.5`."""
    return [name.strip() for name in text.split(",") if name.strip()]
