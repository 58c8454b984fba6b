"""`python -m usbcast` is the command line."""

from usbcast.cli import main

if __name__ == "__main__":
    main()
