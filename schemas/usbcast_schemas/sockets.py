"""How both sides set up their ZeroMQ sockets: bounds, keepalive, reconnection and keys, none of which is on by default."""

from __future__ import annotations

import re

import zmq
from zmq.utils import z85

from usbcast_schemas.errors import UsageError
from usbcast_schemas.keys import KEY_BYTES, KeyPair

HIGH_WATER_MARK = 512
"""Messages per peer and direction. With batches of at most about 100 kB this bounds a slow peer to some 50 MB.

libzmq counts what a peer has taken by halves of this, so that as little as half of it may be free for a burst.
"""

HANDSHAKE_MS = 5000
"""Who has not said by then what ZMTP wants to hear is disconnected."""

ZAP_DOMAIN = b"usbcast"
"""Any text makes libzmq ask the authenticator about every connection, encrypted or not, and refuse what is not ZMTP 3."""

_TCP = re.compile(r"tcp://(?P<host>\[[0-9A-Za-z:.%_-]+\]|[^:\[\]/]+):(?P<port>\d+)")


def set_up(socket: zmq.Socket[bytes], *, max_message_bytes: int) -> None:
    """Give `socket` the bounds that every socket of usbcast has."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    # ZeroMQ's own heartbeats take a full receive queue for a dead peer, cut the connection, and then abort the process
    # (https://github.com/zeromq/libzmq/issues/3937). The kernel's see a dead host whatever the application does.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 2)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)


# As a plain number: pyzmq's are of an enumeration, whose every "and" takes as long as handing over a message.
_POLLIN = int(zmq.POLLIN)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message has come. If not, the descriptor of `socket` will say so when one does."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _POLLIN)


def property_of(frame: zmq.Frame, name: str) -> str | None:
    """A property of the connection that `frame` came by; None if there is none."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return None


def make_key_pair(name: str) -> KeyPair:
    """A new Curve25519 key pair, from the system's randomness (libsodium, or tweetnacl inside libzmq)."""
    public, secret = (_from_z85(text) for text in zmq.curve_keypair())
    return KeyPair(public, secret, name)


def is_pair(keys: KeyPair) -> bool:
    """Whether the secret belongs to the public key."""
    return _from_z85(zmq.curve_public(_to_z85(keys.secret))) == keys.public


def guard(socket: zmq.Socket[bytes], keys: KeyPair | None) -> None:
    """Have the authenticator asked about every peer of a socket that will be bound; with `keys`, encrypt (CURVE)."""
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def encrypt(socket: zmq.Socket[bytes], keys: KeyPair, node: bytes) -> None:
    """Have a socket that will connect show `keys`, and speak to nobody but the owner of the public key `node` (CURVE)."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, node)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def split_tcp(endpoint: str) -> tuple[str, int] | None:
    """(host, port) of a tcp endpoint, None for an ipc one; raise UsageError for anything else."""
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://") and endpoint.isprintable():
        return None
    found = _TCP.fullmatch(endpoint) if endpoint.isprintable() else None
    if found is None or not 0 <= int(found["port"]) <= 65535:
        raise UsageError(
            f"{endpoint!r} is not an endpoint: write tcp://HOST:PORT or ipc://PATH, say tcp://127.0.0.1:5570"
        )
    return found["host"], int(found["port"])


def connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Have `socket` connect to `endpoint`, without waiting for it. Raises UsageError for what is no address to connect to."""
    address = connectable(endpoint)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise UsageError(
            f"cannot connect to {endpoint!r}: {error.strerror}; write tcp://HOST:PORT or ipc://PATH"
        ) from None


def connectable(endpoint: str) -> str:
    """`endpoint` as libzmq knows it, which is ASCII; raise UsageError if nothing could be there."""
    tcp = split_tcp(endpoint)
    if tcp is None:
        return endpoint
    host, port = tcp
    if host == "*":
        raise UsageError(
            f"{endpoint!r} is an address to listen on, not to connect to: write the host's name or address, "
            f"say tcp://127.0.0.1:{port}"
        )
    try:
        return f"tcp://{host.encode('idna').decode()}:{port}"  # a name beyond ASCII has an equivalent in it
    except UnicodeError:
        raise UsageError(f"{host!r} cannot be the name of a host: write tcp://HOST:PORT") from None


def as_reached(endpoint: str, reached_by: str) -> str:
    """The endpoint that a node told, with the host by which this side reached the node."""
    told, reached = split_tcp(endpoint), split_tcp(reached_by)
    if told is None or reached is None:
        return endpoint
    return f"tcp://{reached[0]}:{told[1]}"


def is_local(endpoint: str) -> bool:
    """Whether nobody on another machine can reach `endpoint`."""
    tcp = split_tcp(endpoint)
    return tcp is None or tcp[0].startswith("127.") or tcp[0] in ("localhost", "[::1]")


def _from_z85(text: bytes) -> bytes:
    key = z85.decode(text)
    assert len(key) == KEY_BYTES
    return key


def _to_z85(key: bytes) -> bytes:
    return z85.encode(key)
