"""udev rules from a profile: who may open its device on Linux, and which unit is started when it is plugged in.

Pure: no socket, thread or clock.
"""

from __future__ import annotations

import re

from usbcast_schemas.errors import UsageError
from usbcast_schemas.profile import Profile

RULES_FILE = "70-usbcast.rules"
"""Before 73-seat-late.rules, which acts on the tag `uaccess`; behind 60-*, which say what a device is."""

DEFAULT_GROUP = "usbcast"

_HEAD = f"""\
# Who may open these devices; made by `usbcast devices --udev`. In this order (without the group, only root may open them):
#   1. sudo groupadd --force --system {{group}}
#   2. sudo usermod --append --groups {{group}} USER    for each USER who is to read them; it holds from the next login on
#   3. put this text into /etc/udev/rules.d/{RULES_FILE}; its name must sort before 73-seat-late.rules
#   4. sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=usb
"""


def udev_rules(profiles: list[Profile], *, group: str = DEFAULT_GROUP, unit: str = "") -> str:
    """A file of rules, one per profile: for whoever sits at the machine (`uaccess`), and for `group` always.

    With `unit`, a template such as "usbcast-node@{name}.service", the unit of the profile is started with the device.
    Raises UsageError for a group or unit that udev could not take.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", group):
        raise UsageError(f"{group!r} is not the name of a group: give one like {DEFAULT_GROUP} or plugdev")
    if unit and (not re.fullmatch(r"[\w@.:{}-]+\.service", unit, re.ASCII) or re.sub(r"\{name\}", "", unit).count("{")):
        raise UsageError(f"{unit!r} is not the name of a unit: give one like usbcast-node@{{name}}.service")
    return _HEAD.format(group=group) + "".join(_rule(profile, group, unit) for profile in profiles)


def _rule(profile: Profile, group: str, unit: str) -> str:
    device = profile.device
    wanted = {
        "SUBSYSTEM": "usb",
        "ENV{DEVTYPE}": "usb_device",
        "ATTR{idVendor}": f"{device.vendor_id:04x}",
        "ATTR{idProduct}": f"{device.product_id:04x}",
        "ATTR{serial}": device.serial,
        "ATTR{product}": device.product,
        "KERNEL": device.bus_path,
    }
    matches = [f'{key}=="{_pattern(value)}"' for key, value in wanted.items() if value]
    # Seat rules apply to local sessions only; the group is for services, and where nobody sits.
    actions = ['TAG+="uaccess"', f'GROUP="{group}"', 'MODE="0660"', f'SYMLINK+="usbcast/{profile.name}"']
    if unit:
        actions += ['TAG+="systemd"', f'ENV{{SYSTEMD_WANTS}}+="{unit.replace("{name}", profile.name)}"']
    return f"\n# {profile.name}\n{', '.join([*matches, *actions])}\n"


def _pattern(text: str) -> str:
    """`text` as udev matches it: any one character stands for those that mean something in a pattern or a rule."""
    return re.sub(r'[*?\[\]|\\"\x00-\x1f]', "?", text)


__all__ = ["DEFAULT_GROUP", "RULES_FILE", "udev_rules"]
