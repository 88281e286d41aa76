"""Records what Nova and Glance say while the scenario runs, and what was really true at its end.

A recording is a gzipped file of one JSON object per message: ``exchange``, ``routing_key``,
``headers``, ``properties`` and ``body`` as they were on the bus, and ``op``, the scenario's step.
The body is the text that was on the bus but for its secrets.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.lab import truth
from tests.lab.client import Api, admin_session
from tests.lab.plane import ControlPlane, LabError
from tests.lab.scenario import STEPS, Scenario

EXCHANGES = ("nova", "glance")
TOPICS = ("notifications", "versioned_notifications")
#: A step's messages are all there when none has come for so many seconds.
QUIET = 1.5

Message = dict[str, Any]


class Recorder:
    """Collects all notifications from a queue of its own, in a thread."""

    def __init__(self, plane: ControlPlane) -> None:
        self.op = "none"
        self.messages: list[Message] = []
        self._last = time.monotonic()
        self._stopping = threading.Event()
        self._connection = plane.rabbit.connect()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._connection.connect()
        channel = self._connection.channel()
        queue = channel.queue_declare("", exclusive=True).queue
        for exchange in EXCHANGES:
            # As the services declare it; one that has not said anything yet may have not.
            channel.exchange_declare(exchange, "topic", durable=False, auto_delete=False)
            for topic in TOPICS:
                channel.queue_bind(queue, exchange, f"{topic}.*")
        channel.basic_consume(queue, no_ack=True, callback=self._take)
        self._thread.start()

    def _take(self, message: Any) -> None:
        body = message.body
        properties = dict(message.properties)
        self.messages.append(
            {
                "op": self.op,
                "exchange": message.delivery_info["exchange"],
                "routing_key": message.delivery_info["routing_key"],
                "headers": properties.pop("application_headers", {}),
                "properties": properties,
                "body": body.decode() if isinstance(body, bytes) else body,
            }
        )
        self._last = time.monotonic()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._connection.drain_events(timeout=0.2)
            except TimeoutError:
                continue

    def await_quiet(self) -> None:
        """Until nothing more comes of what was done."""
        self._last = time.monotonic()
        while time.monotonic() - self._last < QUIET:
            time.sleep(0.1)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()


class Scrubber:
    """Takes secrets out of a body, and gives users and projects the same new ids everywhere."""

    SECRETS = ("auth_token", "service_catalog")

    def __init__(self, plane: ControlPlane) -> None:
        url = plane.addresses.urls["keystone"]
        identity = Api(admin_session(url), endpoint_override=url)
        self._new_ids = {
            entry["id"]: hashlib.sha256(f"{kind} {entry['name']}".encode()).hexdigest()[:32]
            for kind in ("users", "projects")
            for entry in identity.get(f"/{kind}").json()[kind]
        }

    def body(self, text: str) -> str:
        """A message's body without secrets: an envelope with a JSON text in it."""
        envelope = json.loads(text)
        message = json.loads(envelope["oslo.message"])
        envelope["oslo.message"] = json.dumps(self._clean(message))
        return self._renamed(json.dumps(envelope))

    def _clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: None if key.endswith(self.SECRETS) else self._clean(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self._clean(inner) for inner in value]
        return value

    def _renamed(self, text: str) -> str:
        for old, new in self._new_ids.items():
            text = text.replace(old, new)
        return text


def record(plane: ControlPlane) -> tuple[list[Message], dict[str, truth.Table]]:
    """Run the whole scenario on a fresh cloud: its messages, and the truth of each format."""
    recorder = Recorder(plane)
    recorder.start()
    lab = Scenario(plane)
    lab.prepare()
    for name, run in STEPS.items():
        recorder.op = name
        started = time.monotonic()
        count = len(recorder.messages)
        run(lab)
        took = time.monotonic() - started
        recorder.await_quiet()
        print(f"{took:6.1f} s  {len(recorder.messages) - count:4d} messages  {name}", flush=True)
    recorder.stop()
    if lab.truth.table(truth.VERSIONED) != lab.on_disk():
        raise LabError(
            f"the truth and the hosts' disks differ: {lab.truth.table(truth.VERSIONED)} "
            f"and {lab.on_disk()}"
        )
    scrubber = Scrubber(plane)
    messages = [{**m, "body": scrubber.body(m["body"])} for m in recorder.messages]
    return messages, {name: lab.truth.table(name) for name in truth.ALL}


def write(path: Path, messages: list[Message]) -> None:
    """Write a recording; the same messages give the same bytes."""
    text = "".join(json.dumps(message, sort_keys=True) + "\n" for message in messages)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def write_truth(path: Path, recording: str, tables: dict[str, truth.Table]) -> None:
    """Put one recording's truth into the file that has that of all."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[recording] = tables
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
