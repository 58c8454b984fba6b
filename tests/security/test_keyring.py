"""Directories of keys: whose files they are, what is wrong with them in words, and that one change never spoils another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbcast_schemas.errors import KeysError, UsageError
from usbcast_schemas.keyring import CLIENTS, NODES, SECRET, Keyring
from usbcast_schemas.keys import ClientKey, Rights, check_name, key_text, parse_key, parse_rights, short_text


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring.create(tmp_path / "keys", "lab")


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_read_what_is_made_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ring = Keyring.create(tmp_path / "keys", "lab")
        ring.allow(ClientKey(key(1), "alice", Rights.READ))
        ring.trust("tcp://lab:5570", key(2))
    finally:
        os.umask(before)
    assert mode(ring.directory) == 0o700
    assert {mode(ring.directory / name) for name in (SECRET, CLIENTS, NODES)} == {0o600}
    assert sorted(path.name for path in ring.directory.iterdir()) == sorted((SECRET, CLIENTS, NODES)), (
        "nothing unfinished"
    )


def test_what_was_written_is_read_again(ring: Keyring) -> None:
    alice, bob = ClientKey(key(1), "alice", Rights.READ), ClientKey(key(2), "bob@lab.example", Rights.COMMAND)
    ring.allow(alice)
    ring.allow(bob)
    assert ring.trust("tcp://lab:5570", key(3)) is None
    assert ring.trust('ipc:///tmp/a "quoted" \\ path', key(4)) is None
    assert ring.trust("tcp://lab:5570", key(5)) == key(3)
    again = Keyring(ring.directory)
    assert again.clients() == {alice.public: alice, bob.public: bob}
    assert again.nodes() == {"tcp://lab:5570": key(5), 'ipc:///tmp/a "quoted" \\ path': key(4)}
    assert (again.own().public, again.own().secret, again.own().name) == (ring.own().public, ring.own().secret, "lab")
    assert ring.own().secret.hex() not in repr(ring.own()), "a secret gets into no log"


def test_other_rights_replace_those_before(ring: Keyring) -> None:
    ring.allow(ClientKey(key(1), "alice", Rights.READ))
    ring.allow(ClientKey(key(1), "alice", Rights.COMMAND))
    assert [client.rights for client in ring.clients().values()] == [Rights.COMMAND]
    with pytest.raises(
        KeysError, match=f"another key is called alice already: {short_text(key(1))}; choose another name"
    ):
        ring.allow(ClientKey(key(2), "alice", Rights.READ))


@pytest.mark.parametrize("who", ["alice", "ab" + 62 * "0", "ab0", "AB0"])
def test_a_client_is_revoked_by_name_or_key(ring: Keyring, who: str) -> None:
    public = bytes.fromhex("ab" + 62 * "0")
    ring.allow(ClientKey(public, "alice", Rights.COMMAND))
    ring.allow(ClientKey(key(2), "bob", Rights.READ))
    assert ring.revoke(who) == ClientKey(public, "alice", Rights.COMMAND)
    assert {one.name: one.rights for one in ring.clients().values()} == {"alice": Rights.NONE, "bob": Rights.READ}


@pytest.mark.parametrize(("who", "which"), [("carol", "no"), ("", "more than one"), ("00", "more than one")])
def test_whom_to_revoke_must_be_clear(ring: Keyring, who: str, which: str) -> None:
    for n, name in enumerate(("alice", "bob")):
        ring.allow(ClientKey(key(n), name, Rights.READ))
    with pytest.raises(KeysError, match=f"names {which} client; there are alice, bob"):
        ring.revoke(who)


def test_a_pair_is_never_overwritten(ring: Keyring) -> None:
    before = ring.own()
    with pytest.raises(KeysError, match=r"secret\.toml exists already, .* give another directory"):
        Keyring.create(ring.directory, "other")
    assert ring.own() == before


def test_where_there_are_no_keys(tmp_path: Path) -> None:
    absent = Keyring(tmp_path / "absent")
    sentence = f"usbcast keys new --keys {tmp_path / 'absent'}"
    for call in (absent.own, lambda: absent.allow(ClientKey(key(1), "a", Rights.READ)), lambda: absent.revoke("a")):
        with pytest.raises(KeysError, match=sentence):
            call()
    assert (absent.clients(), absent.nodes()) == ({}, {})


@pytest.mark.parametrize("bits", [0o004, 0o040, 0o002, 0o020])
def test_a_secret_that_others_can_see_is_refused(ring: Keyring, bits: int) -> None:
    path = ring.directory / SECRET
    path.chmod(0o600 | bits)
    with pytest.raises(KeysError, match=rf"others can read {path} \(mode 06..\): chmod go= {path}"):
        ring.own()


@pytest.mark.parametrize("file", [CLIENTS, NODES])
def test_a_list_that_others_can_change_is_refused(ring: Keyring, file: str) -> None:
    ring.allow(ClientKey(key(1), "alice", Rights.READ))
    ring.trust("tcp://lab:5570", key(2))
    path = ring.directory / file
    path.chmod(0o644)
    assert ring.clients()
    assert ring.nodes()
    path.chmod(0o662)
    with pytest.raises(KeysError, match=rf"others can change {path} \(mode 0662\): chmod go-w {path}"):
        ring.clients() if file == CLIENTS else ring.nodes()


def test_a_directory_that_others_can_change_is_refused(ring: Keyring) -> None:
    ring.directory.chmod(0o777)
    with pytest.raises(KeysError, match=r"others can change .* chmod go-w"):
        ring.own()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_refused(ring: Keyring) -> None:
    path = ring.directory / SECRET
    os.chown(path, 12345, -1)
    with pytest.raises(KeysError, match=f"{path} belongs to another user, 12345: chown 0 {path}"):
        ring.own()


def test_a_secret_of_another_key_is_refused_without_being_told(ring: Keyring, tmp_path: Path) -> None:
    other = Keyring.create(tmp_path / "other", "other").own()
    path = ring.directory / SECRET
    text = path.read_text()
    path.write_text(text.replace(ring.own().secret.hex(), other.secret.hex()))
    with pytest.raises(KeysError, match="the secret does not belong to the public key") as raised:
        ring.own()
    assert other.secret.hex() not in str(raised.value)
    path.write_text(text.replace('secret = "', 'secret = "zz'))
    with pytest.raises(KeysError, match="is not as `usbcast keys new` writes it") as raised:
        ring.own()
    assert "zz" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (CLIENTS, "client = 5", r"\[\[client\]\] must be a list of tables"),
        (CLIENTS, "client = [5]", r"\[\[client\]\] must be a list of tables"),
        (CLIENTS, "[[client]\n", "is not TOML"),
        (CLIENTS, '[[client]]\nname = "a"\nrights = "read"\n', "key is missing, or not text"),
        (CLIENTS, f'[[client]]\nname = "a"\nrights = "all"\nkey = "{key_text(key(1))}"\n', "'all' are not rights"),
        (
            CLIENTS,
            f'[[client]]\nname = "a b"\nrights = "read"\nkey = "{key_text(key(1))}"\n',
            "'a b' is not a name for a key",
        ),
        (NODES, '[[node]]\nendpoint = "tcp://lab:1"\nkey = "00"\n', "'00' is not a public key: one has 64 hex digits"),
        (NODES, "x" * (4 * 1024 * 1024 + 1), "that is not a file of keys"),
    ],
)
def test_what_is_wrong_with_a_file(ring: Keyring, file: str, content: str, sentence: str) -> None:
    path = ring.directory / file
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeysError, match=sentence) as raised:
        ring.clients() if file == CLIENTS else ring.nodes()
    assert str(path) in str(raised.value)


@given(st.binary(max_size=300))
def test_no_content_does_anything_else_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.mktemp("keys")
    directory.chmod(0o700)
    for name in (SECRET, CLIENTS, NODES):
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    ring = Keyring(directory)
    with pytest.raises(KeysError):
        ring.own()
    for read in (ring.clients, ring.nodes):
        with contextlib.suppress(KeysError):
            assert read() == {}


@given(st.text(max_size=70))
def test_a_key_is_64_hex_digits_and_nothing_else(text: str) -> None:
    try:
        public = parse_key(text)
    except KeysError:
        return
    assert key_text(public) == text.lower()


@given(st.text(max_size=70))
def test_names_and_rights_are_what_can_be_written(text: str) -> None:
    for check in (check_name, parse_rights):
        with contextlib.suppress(KeysError):
            assert str(check(text)) == text or (check, text) == (parse_rights, "command")


@pytest.mark.parametrize("endpoint", ["lab:5570", "http://lab", "tcp://lab:99999", "tcp://a\nb:1", "tcp://a\x7f:1"])
def test_an_address_that_is_none_is_not_trusted(ring: Keyring, endpoint: str) -> None:
    with pytest.raises(UsageError, match=r"no(t an)? endpoint"):
        ring.trust(endpoint, key(1))


def _allow(directory: Path, first: int) -> None:
    ring = Keyring(directory)
    for n in range(first, first + 10):
        ring.allow(ClientKey(key(n), f"client-{n}", Rights.READ))


def test_changes_by_several_processes_are_all_kept(ring: Keyring) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_allow, args=(ring.directory, 10 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(ring.clients()) == 30
