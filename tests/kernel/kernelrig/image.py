"""The guest's disk: Debian's own kernel, an initial ramdisk and a root file system, made once and kept in a cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

SUITE = "bookworm"
GUEST_PYTHON = "3.11"
GUEST_GLIBC_MINOR = 36

ROOT_PACKAGES = ("python3", "libusb-1.0-0", "kmod", "iproute2", "udev")

ROOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "9p", "9pnet_virtio")
"""What it takes to reach the root disk and the shared directories; these go into the initial ramdisk."""
MODULES = (
    *(*ROOT_MODULES, "virtio_net", "xhci_pci", "usbhid", "hid_generic", "ftdi_sio", "cdc_acm"),
    *("vhci_hcd", "dummy_hcd", "libcomposite", "usb_f_ss_lb", "usb_f_acm"),
)

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "debootstrap": "debootstrap",
    "mke2fs": "e2fsprogs",
    "modprobe": "kmod",
    "depmod": "kmod",
    "cpio": "cpio",
    "busybox": "busybox-static",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}
"""The programs that make and run a guest, and the Debian package of each."""

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Where Debian has what is for root, whatever this user's own path is."""

MIN_FREE_BYTES = 3 * 1024**3
ROOT_BYTES = 1024**3  # of a sparse file

INITRD_INIT = """\
#!/bin/busybox sh
# Mounts the root disk and the shared directories, and goes over to the init that the project shares.
b=/bin/busybox
$b mount -t devtmpfs d /dev
for module in /modules/*; do $b insmod $module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do $b sleep 0.05; tries=$((tries + 1)); done
$b mount -t ext4 -o ro /dev/vda /new
for name in project share; do
    $b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose $name /new/$name
done
exec $b switch_root /new /project/tests/kernel/guest/init
"""


class Unavailable(Exception):
    """Why there is no guest on this machine, in one sentence, with the next step."""


@dataclass(frozen=True)
class Image:
    """Where a finished guest lies."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def root(self) -> Path:
        return self.directory / "root.ext4"


def cache_directory() -> Path:
    """USBCAST_GUEST, else usbcast/guest in the user's cache."""
    configured = os.environ.get("USBCAST_GUEST")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usbcast" / "guest"


def find_image() -> Image:
    """The finished guest in the cache; raise Unavailable if there is none, or it cannot run here."""
    image = Image(cache_directory())
    make = "make it with: python tests/kernel/build_guest.py"
    if shutil.which("qemu-system-x86_64") is None:
        raise Unavailable("qemu-system-x86_64 is not installed: apt install qemu-system-x86")
    stamp = _stamp(image.directory)
    if not stamp.exists():
        raise Unavailable(f"there is no guest in {image.directory}; {make}")
    if stamp.read_text() != recipe():
        raise Unavailable(f"the guest in {image.directory} was made by another recipe; {make}")
    return image


def recipe() -> str:
    """Changes with everything that goes into a guest."""
    ingredients = [Path(__file__).read_text(), *python_requirements()]
    return hashlib.sha256("\n".join(ingredients).encode()).hexdigest()


def python_requirements() -> list[str]:
    """What the project's metadata asks for where a device is served and the command line is used."""
    wanted = {"", 'extra == "cli"', 'extra == "node"'}
    found = [line.partition(";") for line in requires("usbcast") or ()]
    named = (name.strip() for name, _, marker in found if marker.strip().replace("'", '"') in wanted)
    return sorted(named)


def check_possible() -> None:
    """Raise Unavailable if no guest can be made on this machine."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"the guest is made on Linux on x86_64, and this is {sys.platform} on {platform.machine()}")
    missing = {package for tool, package in TOOLS.items() if not _which(tool)}
    if missing:
        raise Unavailable(f"a guest cannot be made without these packages: apt install {' '.join(sorted(missing))}")
    if os.geteuid() != 0:
        raise Unavailable("debootstrap needs root: run this as root once; the tests themselves do not need it")


def install_tools() -> None:
    """Install what making and running a guest needs, by apt; needs root."""
    packages = sorted({package for tool, package in TOOLS.items() if not _which(tool)})
    if packages:
        environment = {**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}
        _run("apt-get", "update", "-q", env=environment)
        _run("apt-get", "install", "-yq", "--no-install-recommends", *packages, env=environment)


def build() -> Image:
    """Make the guest anew in the cache and return it; raise Unavailable if that cannot be done here."""
    check_possible()
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(directory).free < MIN_FREE_BYTES:
        raise Unavailable(f"{directory} has less than {MIN_FREE_BYTES >> 30} GiB free; set USBCAST_GUEST elsewhere")
    with _locked(directory), tempfile.TemporaryDirectory(prefix="build-", dir=directory) as temporary:
        _stamp(directory).unlink(missing_ok=True)
        work = Path(temporary)
        work.chmod(0o755)
        made = Image(work / "made")
        made.directory.mkdir()
        root = work / "root"
        _make_root(root)
        modules = _make_kernel(work, root, made)
        _make_initrd(work, modules, made)
        _make_disk(root, made)
        for part in made.directory.iterdir():
            part.replace(directory / part.name)
        _stamp(directory).write_text(recipe())
    return Image(directory)


def _make_root(root: Path) -> None:
    """Debian's smallest root with Python, and the Python packages that the project asks for."""
    _run(
        *("debootstrap", "--variant=minbase", f"--include={','.join(ROOT_PACKAGES)}", SUITE, str(root)),
        *_configured_mirror(),
    )
    platforms = ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(17, GUEST_GLIBC_MINOR + 1))]
    packages = root / "usr/local/lib" / f"python{GUEST_PYTHON}" / "dist-packages"
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(packages)),
        *("--python-version", GUEST_PYTHON, "--implementation", "cp", "--only-binary=:all:"),
        *(f"--platform={name}" for name in platforms),
        *python_requirements(),
    )
    for directory in (*root.glob("usr/share/*"), *packages.glob("*/tests"), *packages.glob("*/*/tests")):
        if directory.name in ("doc", "man", "locale", "info", "tests"):
            shutil.rmtree(directory)
    for name in ("project", "share"):
        (root / name).mkdir()
    # What a package does not compile for this Python it does not need either.
    compiled = ("python3", "-m", "compileall", "-q", "-j2", f"/usr/lib/python{GUEST_PYTHON}", "/usr/local/lib")
    with contextlib.suppress(Unavailable):
        _run("chroot", str(root), *compiled)


def _make_kernel(work: Path, root: Path, made: Image) -> list[Path]:
    """Debian's ordinary kernel, and what the guest needs of its modules; return those of the initial ramdisk."""
    apt = ("-q", f"-oDir={root}", f"-oDir::State::status={root}/var/lib/dpkg/status", "-oAPT::Sandbox::User=root")
    _run("apt-get", *apt, "update")
    answer = _run("apt-cache", *apt, "depends", "linux-image-amd64")
    package = next(line.split()[1] for line in answer.splitlines() if line.split()[:1] == ["Depends:"])
    _run("apt-get", *apt, "download", package, cwd=work)
    kernel = work / "kernel"
    _run("dpkg-deb", "-x", str(next(work.glob("*.deb"))), str(kernel))
    shutil.rmtree(root / "var/lib/apt/lists")
    shutil.rmtree(root / "var/cache/apt")
    version = next((kernel / "lib/modules").iterdir()).name
    shutil.copy(kernel / "boot" / f"vmlinuz-{version}", made.kernel)
    _run("depmod", "-b", str(kernel), version)
    for module in (*_modules(kernel, version, MODULES), *(kernel / "lib/modules" / version).glob("modules.[bo]*")):
        target = root / module.relative_to(kernel)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    _run("depmod", "-b", str(root), version)
    return _modules(kernel, version, ROOT_MODULES)


def _modules(kernel: Path, version: str, names: Sequence[str]) -> list[Path]:
    """The files of these modules and of those they need, each behind the ones that it needs."""
    found: dict[str, None] = {}
    for name in names:
        answer = _run("modprobe", "-d", str(kernel), "-S", version, "--show-depends", name)
        for words in map(str.split, answer.splitlines()):
            if words[0] == "insmod":
                found[words[1]] = None
    return [Path(file) for file in found]


def _make_initrd(work: Path, modules: Sequence[Path], made: Image) -> None:
    initrd = work / "initrd"
    for directory in ("bin", "modules", "dev", "new"):
        (initrd / directory).mkdir(parents=True)
    shutil.copy(str(_which("busybox")), initrd / "bin/busybox")
    for number, module in enumerate(modules):
        shutil.copy(module, initrd / "modules" / f"{number:02d}-{module.name}")
    (initrd / "init").write_text(INITRD_INIT)
    (initrd / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(initrd)}\n" for path in sorted(initrd.rglob("*")))
    with made.initrd.open("wb") as file:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=file, cwd=initrd, check=True
        )


def _make_disk(root: Path, made: Image) -> None:
    with made.root.open("wb") as file:
        file.truncate(ROOT_BYTES)
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(made.root))


def _configured_mirror() -> list[str]:
    """The mirror that this machine's apt uses for the guest's suite; nothing if it has none: debootstrap knows one."""
    asked = ("apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)")
    for words in map(str.split, _run(*asked).splitlines()):
        if words[:3] == ["Debian", SUITE, "main"]:
            return words[3:4]
    return []


def _stamp(directory: Path) -> Path:
    return directory / "recipe"


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=PATH)


def _run(tool: str, *arguments: str, **options: Any) -> str:
    """Run a program and return what it wrote; if it fails, show all that it said."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [_which(tool) or tool, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        **{"env": {**os.environ, "PATH": PATH}} | options,
    )
    if done.returncode:
        raise Unavailable(f"{tool} failed with {done.returncode} while the guest was made:\n{done.stdout[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One builder at a time."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
