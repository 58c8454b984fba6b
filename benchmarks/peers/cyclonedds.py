"""DDS by Eclipse Cyclone DDS: a reliable topic that keeps all, on the loopback interface, without multicast."""

import os
from dataclasses import dataclass

SETTINGS = """\
<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces>
<AllowMulticast>false</AllowMulticast><MaxMessageSize>65500B</MaxMessageSize></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>100</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery>
<Internal><SocketReceiveBufferSize max="4MB"/></Internal></Domain></CycloneDDS>"""
os.environ["CYCLONEDDS_URI"] = SETTINGS  # read once, when the library is loaded

from cyclonedds.core import InstanceState, Policy, Qos, ReadCondition, SampleState, ViewState, WaitSet  # noqa: E402
from cyclonedds.domain import DomainParticipant  # noqa: E402
from cyclonedds.idl import IdlStruct  # noqa: E402
from cyclonedds.idl.types import sequence, uint8  # noqa: E402
from cyclonedds.pub import DataWriter  # noqa: E402
from cyclonedds.sub import DataReader  # noqa: E402
from cyclonedds.topic import Topic  # noqa: E402
from cyclonedds.util import duration  # noqa: E402

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take  # noqa: E402
from benchmarks.task import Task  # noqa: E402


@dataclass
class Block(IdlStruct, typename="Block"):
    data: sequence[uint8]  # type: ignore[type-arg]


QOS = Qos(Policy.Reliability.Reliable(duration(seconds=60)), Policy.History.KeepAll)
WAIT = duration(milliseconds=200)


def _topic(task: Task) -> tuple[DomainParticipant, Topic]:
    participant = DomainParticipant(task.port % 200)
    return participant, Topic(participant, "bench", Block, qos=QOS)


class DdsPublisher(SendingPublisher):
    def __init__(self, task: Task) -> None:
        self._participant, topic = _topic(task)
        self._writer = DataWriter(self._participant, topic, qos=QOS)

    def send(self, block: bytes) -> None:
        self._writer.write(Block(block))


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    participant, topic = _topic(task)
    reader = DataReader(participant, topic, qos=QOS)
    waiting = WaitSet(participant)
    waiting.attach(ReadCondition(reader, ViewState.Any | InstanceState.Any | SampleState.NotRead))
    while True:
        waiting.wait(WAIT)
        for sample in reader.take(64):
            if take(bytes(sample.data)):
                return


PEERS = {"cyclonedds": Peer("DDS (Cyclone)", DdsPublisher, subscribe, "holds up the publisher (reliable, keep all)")}
