"""libusb's asynchronous transfers by ctypes: its public C interface, of which pyusb uses only the synchronous half.

No callback is registered: libusb writes the status, and whoever handled the events looks at it. So the interpreter is
entered once for all transfers that have ended, and not once for each.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_uint, c_uint8, c_void_p
from typing import Any, Final

from usbcast_broker.sources.usb.readahead import CANCELLED, Completion

CONTROL: Final = 0
BULK: Final = 2
INTERRUPT: Final = 3

REFUSED: Final = 1
UNDER_WAY: Final = -1
"""No status of libusb's; it stands there from the submission on until libusb writes one."""

# As libusb's own synchronous calls translate a status (sync.c), which is what pyusb raises from.
_CODES: Final = {0: 0, 1: -1, 2: -7, 3: CANCELLED, 4: -9, 5: -4, 6: -8}


class _TransferStruct(ctypes.Structure):
    """struct libusb_transfer of libusb.h, unchanged since 1.0.0."""

    _fields_ = (
        ("dev_handle", c_void_p),
        ("flags", c_uint8),
        ("endpoint", c_uint8),
        ("type", c_uint8),
        ("timeout", c_uint),
        ("status", c_int),
        ("length", c_int),
        ("actual_length", c_int),
        ("callback", c_void_p),
        ("user_data", c_void_p),
        ("buffer", c_void_p),
        ("num_iso_packets", c_int),
    )


class _Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


class Library:
    """The functions of a loaded libusb; AttributeError if it lacks one."""

    def __init__(self, lib: Any) -> None:
        # Prototypes of our own, so that those which pyusb has set on its functions stay as they are. A submission takes
        # microseconds: it keeps the interpreter's lock, since getting it back can take milliseconds.
        self.alloc = ctypes.PYFUNCTYPE(c_void_p, c_int)(("libusb_alloc_transfer", lib))
        self.free = ctypes.PYFUNCTYPE(None, c_void_p)(("libusb_free_transfer", lib))
        self.submit = ctypes.PYFUNCTYPE(c_int, c_void_p)(("libusb_submit_transfer", lib))
        # Linux waits in it until the host controller has let go of the transfer.
        self.cancel = ctypes.CFUNCTYPE(c_int, c_void_p)(("libusb_cancel_transfer", lib))
        self.interrupt = ctypes.PYFUNCTYPE(None, c_void_p)(("libusb_interrupt_event_handler", lib))
        self._handle_events = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)(
            ("libusb_handle_events_timeout_completed", lib)
        )

    def handle_events(self, context: Any, timeout_s: float) -> int:
        """Wait for events without the interpreter's lock, and handle them; 0 or libusb's error code."""
        seconds = int(timeout_s)
        wait = _Timeval(seconds, int((timeout_s - seconds) * 1_000_000))
        return int(self._handle_events(context, ctypes.addressof(wait), None))


class AsyncTransfer:
    """One transfer with a buffer of its own, as large as what is asked for."""

    def __init__(
        self, library: Library, handle: Any, kind: int, endpoint: int, buffer: bytes | int, timeout_ms: int = 0
    ) -> None:
        self._library = library
        address = library.alloc(0)
        if not address:
            raise MemoryError("libusb has no memory for a transfer")
        self._address = int(address)
        self._struct = struct = _TransferStruct.from_address(self._address)
        struct.dev_handle = handle
        struct.endpoint, struct.type, struct.timeout = endpoint, kind, timeout_ms
        struct.callback = struct.user_data = None
        struct.flags = struct.num_iso_packets = 0
        self._size_bytes = buffer if isinstance(buffer, int) else len(buffer)
        self._use(ctypes.create_string_buffer(buffer, self._size_bytes))

    def submit(self, size_bytes: int | None = None) -> int:
        """0, or libusb's error code. With `size_bytes` it is for so many from now on."""
        if size_bytes is not None and size_bytes != self._size_bytes:
            self._size_bytes = size_bytes
            self._use(ctypes.create_string_buffer(size_bytes))
        self._struct.status = UNDER_WAY
        code = int(self._library.submit(self._address))
        if code:
            self._struct.status = REFUSED
        return code

    def cancel(self) -> None:
        """Ask for its end; NOT_FOUND only says that it has come already."""
        self._library.cancel(self._address)

    def completion(self) -> Completion | None:
        """How it ended, with what was read into its buffer; None while it is under way."""
        struct = self._struct
        status = struct.status
        if status == UNDER_WAY:
            return None
        return Completion(_CODES.get(status, -99), ctypes.string_at(self._start, struct.actual_length))

    @property
    def actual_length(self) -> int:
        return int(self._struct.actual_length)

    def content(self, start: int, size_bytes: int) -> bytes:
        """A part of the buffer."""
        return ctypes.string_at(self._start + start, size_bytes)

    def _use(self, buffer: ctypes.Array[ctypes.c_char]) -> None:
        self._buffer = buffer
        self._start = ctypes.addressof(buffer)
        self._struct.buffer, self._struct.length = self._start, len(buffer)

    def free(self) -> None:
        """Give it back. Not while it is under way."""
        self._library.free(self._address)
