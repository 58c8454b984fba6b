"""usbcast."""
