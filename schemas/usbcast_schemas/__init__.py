"""The usbcast contract: everything that crosses a process boundary."""
