"""The project's own rig: Debian's kernel in QEMU with real USB devices, driven from the host."""
