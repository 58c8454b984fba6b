"""Who has no business with a keyed node, from another host: gets no packet, and nobody else notices."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from netrig.site import Host, site
from netrig.trial import FOLLOWER, PORT, STREAM

from tests.support.programs import Program, run, usbcast

STRANGER = Path(__file__).parent / "netrig" / "stranger.py"
FLOOD_BYTES = 100_000_000


def new_keys(directory: Path, name: str) -> str:
    """Make keys; the public one."""
    return str(json.loads(run("keys", "new", "--json", "--keys", str(directory), "--name", name).stdout)["key"])


def record(host: Host, endpoint: str, base: Path, **environment: str) -> Program:
    return host.start(usbcast("record", STREAM, "--json", "--endpoint", endpoint, "--output", str(base)), **environment)


@pytest.mark.slow
def test_a_keyed_node_among_strangers(tmp_path: Path) -> None:
    with site(2) as made:
        here, there = made.hosts
        (link,) = made.links
        endpoint = f"tcp://{link.addresses[0]}:{PORT}"
        lab, alice, eve = (tmp_path / name for name in ("lab", "alice", "eve"))
        lab_key, alice_key, eve_key = (new_keys(directory, directory.name) for directory in (lab, alice, eve))
        assert run("keys", "allow", alice_key, "--name", "alice", "--keys", str(lab)).finish() == 0
        for directory in (alice, eve):
            assert run("keys", "trust", endpoint, lab_key, "--keys", str(directory)).finish() == 0
        serving = usbcast("serve", "--simulate", "--json", "--rate", "1000", "--keys", str(lab))
        with here.start([*serving, "--bind", f"tcp://0.0.0.0:{PORT}"]) as node:
            node.hear("serving")
            follow = [sys.executable, str(FOLLOWER), endpoint, STREAM, "push", "--start", "0"]
            with there.start(follow, USBCAST_KEYS=str(alice)) as follower:
                follower.hear("figures", where=lambda said: said["delivered"] > 0)

                with record(there, endpoint, tmp_path / "nobody") as refused:
                    assert refused.finish() == 1
                    assert "lets in only clients with a key" in refused.stderr
                with record(there, endpoint, tmp_path / "somebody", USBCAST_KEYS=str(eve)) as refused:
                    assert refused.finish() == 1
                    assert "does not let in your key" in refused.stderr
                assert not list(tmp_path.glob("*body*.mcap*")), "no packet reached them"

                arguments = [link.addresses[0], str(PORT - 20), str(PORT + 20), str(FLOOD_BYTES)]
                with there.start([sys.executable, str(STRANGER), *arguments]) as stranger:
                    found = stranger.hear("done", 90)
                assert PORT in found["open"]
                assert len(found["open"]) == 2, "requests and data"
                assert all(connections >= 1 for connections in found["connections"])

                node.signal(signal.SIGINT)
                ended = node.hear("ended")["streams"][STREAM]
                done = follower.hear("done")
                assert not [line for line in follower.out if json.loads(line)["event"] in ("silence", "gap", "restart")]
            assert node.finish() == 0
    published = ended["ledgers"]["outlet"]["out"]
    assert ended["balanced"]
    assert not any(ledger["lost"] for ledger in ended["ledgers"].values())
    assert (done["delivered"], done["lost"], done["twice"], done["damaged"]) == (published, 0, 0, 0)
    # Which of the two sees first that they do not agree is chance: the node says the one or the other.
    said = ("this node lets in only clients with a key", "refused 10.77.0.2: no key", "does not agree on encryption")
    assert any(sentence in node.stderr for sentence in said)
    assert "refused 10.77.0.2: it sent something other than ZMTP 3" in node.stderr
    assert f"usbcast keys allow {eve_key}" in node.stderr
    print(json.dumps({**found, "delivered": done["delivered"], "of": published}))
