"""The profiles that come with usbcast: one TOML file each, named after its stream."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from usbcast_schemas.profile import Profile, load_profile


def directory() -> Path:
    """Return the directory of the shipped profiles."""
    return Path(str(resources.files(__name__)))


def names() -> tuple[str, ...]:
    """The shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in directory().glob("*.toml")))


def find(name: str) -> Path | None:
    """The file of the shipped profile of this name."""
    return directory() / f"{name}.toml" if name in names() else None


def load(name_or_path: str | Path) -> Profile:
    """A shipped profile by name, or any profile by path; ProfileError says what is wrong with it."""
    return load_profile(name_or_path, (directory(),))
