"""Load and check a profile from a file, a name or a text. Raises one ProfileError with a line per problem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from usbcast_schemas.errors import ProfileError
from usbcast_schemas.profile.contradictions import contradictions
from usbcast_schemas.profile.model import Profile
from usbcast_schemas.profile.problems import sentences
from usbcast_schemas.toml import parse_toml

MAX_PROFILE_BYTES = 65536
"""The text goes to every subscriber with the description of its stream."""


def parse_profile(text: str, origin: str) -> Profile:
    """The profile that `text` is; `origin` names it in what ProfileError says."""
    size_bytes = len(text.encode(errors="surrogatepass"))
    if size_bytes > MAX_PROFILE_BYTES:
        raise ProfileError(f"{origin}: the profile is {size_bytes} bytes long: up to {MAX_PROFILE_BYTES} is allowed")
    try:
        tables = parse_toml(text)
    except ValueError as error:
        raise ProfileError(f"{origin}: not valid TOML: {error}") from None
    try:
        profile = Profile.model_validate(tables, context={"toml": text})
    except ValidationError as error:
        found = sentences(error, Profile)
    else:
        found = list(contradictions(profile))
        if not found:
            return profile
    raise ProfileError("\n".join(f"{origin}: {sentence}" for sentence in found))


def load_profile(source: str | Path, search: Sequence[Path] = ()) -> Profile:
    """The profile in the file `source`, or named `source` in one of the directories `search`.

    A text with a path separator or that ends in ".toml" is a file; any other is a name.
    """
    is_file = isinstance(source, Path) or source.endswith(".toml") or "/" in source or "\\" in source
    if is_file:
        path = Path(source)
        if not path.exists():
            raise ProfileError(f"there is no file {path}; {_known(search)}")
    else:
        candidates = [directory / f"{source}.toml" for directory in search]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise ProfileError(f"there is no profile named {source}; {_known(search)}, or give the path of a file")
        path = found
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PROFILE_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise ProfileError(
            f"cannot read the profile {path}: {error.strerror}; give the path of a readable file"
        ) from None
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path.name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    return parse_profile(text, path.name)


def _known(search: Sequence[Path]) -> str:
    names = sorted(path.stem for directory in search for path in directory.glob("*.toml"))
    return f"shipped profiles are {', '.join(names)}" if names else "no profiles are shipped here"
