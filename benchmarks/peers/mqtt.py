"""MQTT at quality of service 0: paho on both sides, mosquitto between them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.peers import Delivered, Peer, SendingPublisher, Take
from benchmarks.task import Task

TOPIC = "bench/data"


def server(task: Task) -> Sequence[str]:
    settings = Path(task.directory) / "mosquitto.conf"
    settings.write_text(
        f"listener {task.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\npersistence false\n"
    )
    return ["mosquitto", "-c", str(settings)]


def _client(task: Task) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", task.port)
    return client


class MqttPublisher(SendingPublisher):
    def __init__(self, task: Task) -> None:
        self._client = _client(task)
        self._client.loop_start()

    def send(self, block: bytes) -> None:
        self._client.publish(TOPIC, block)

    def close(self) -> None:
        self._client.loop_stop()


def subscribe(task: Task, take: Take, delivered: Delivered) -> None:  # noqa: ARG001
    client = _client(task)
    over = threading.Event()

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if not over.is_set() and take(message.payload):
            over.set()

    client.on_message = on_message
    client.subscribe(TOPIC)
    while not over.is_set():
        client.loop(timeout=0.2)


PEERS = {
    "mqtt": Peer("MQTT", MqttPublisher, subscribe, "its broker queues without bound, as configured", server=server)
}
