"""Make random runs and say what did not add up: `python -m tests.chaos --seconds N --seed K`; exit code 1 if anything did not."""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.account import Log, check, check_device, check_together
from tests.chaos.plan import Plan, Step, make_plan
from tests.chaos.system import Failed, System, faketime_library, nats_server


@dataclass
class Outcome:
    """What came of a run."""

    problems: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)


def run(plan: Plan, place: Path, rings: Path) -> Outcome:
    """Carry out a plan, and hold what everybody says against each other."""
    outcome = Outcome()
    with System(plan, place, rings) as system:
        try:
            _carry_out(plan, system)
            outcome.problems += system.finish()
        except Failed as failed:
            outcome.problems.append(str(failed))
        _judge(plan, system, outcome)
    return outcome


def _carry_out(plan: Plan, system: System) -> None:
    begin_s = time.monotonic()
    system.start_node(plan.seconds)
    for index in range(len(plan.bridges)):
        system.start_bridge(index)
    if plan.stores:
        system.start_store()
    for index in range(len(plan.recorders)):
        system.start_recorder(index)
    for reader in plan.readers[: len(plan.readers) - plan.joins_later]:
        system.start_reader(reader)
    for step in plan.steps:
        while time.monotonic() - begin_s < step.at_s:
            time.sleep(0.02)
            system.wake()
        _do(step, plan, system, left_s=plan.seconds - (time.monotonic() - begin_s))
    while time.monotonic() - begin_s < plan.seconds:
        time.sleep(0.02)
        system.wake()


def _do(step: Step, plan: Plan, system: System, left_s: float) -> None:
    match step.what:
        case "join":
            system.start_reader(plan.readers[step.target])
        case "suspend":
            system.suspend(system.readers[plan.readers[step.target].name], step.for_s)
        case "suspend-bridge":
            system.suspend(system.bridges[step.target], step.for_s)
        case "suspend-recorder":
            system.suspend(system.recorders[step.target], step.for_s)
        case "kill":
            system.replace_reader(plan.readers[step.target])
        case "kill-bridge":
            system.bridges[step.target].kill()
            system.bridges[step.target].wait()
            system.start_bridge(step.target)
        case "kill-recorder":
            system.recorders[step.target].kill()
            system.recorders[step.target].wait()
            system.start_recorder(step.target, resume=True)
        case "kill-server":
            assert system.server is not None
            system.server.kill()
            system.server.wait()
            system.start_server()
        case "kill-node":
            system.node.kill()
            system.node.wait()
            system.start_node(max(1.0, left_s))
        case "step-clock":
            system.step_clock(step.for_s)


def _judge(plan: Plan, system: System, outcome: Outcome) -> None:
    logs = []
    for name, reader in system.readers.items():
        path = system.log_of(name)
        if path.exists():
            logs.append(Log.from_json(name, json.loads(path.read_text())))
        elif name not in system.killed:
            outcome.problems.append(
                f"{name} got nothing; it ended with {reader.returncode}: {system.text(f'{name}.err')[-300:]}"
            )
        if name not in system.killed and reader.returncode != 0:
            outcome.problems.append(f"{name} ended with {reader.returncode}: {system.text(f'{name}.err')[-600:]}")
    device = json.loads(system.lives[-1].read_text()) if system.lives and system.lives[-1].exists() else None
    for log in logs:
        outcome.problems += check(log)
        if device is not None:
            restarts = any(fault.get("counter") == "restarts" for fault in plan.faults)
            outcome.problems += check_device(log, device, counter_restarts=restarts)
    outcome.problems += check_together(logs)
    if device is not None:
        outcome.problems += [f"the node: {sentence}" for sentence in device["discrepancies"]]
    outcome.problems += _recordings(plan, system)
    outcome.problems += _said(system.place)
    outcome.figures = {
        "seed": plan.seed,
        "rate_hz": plan.rate_hz,
        "packet_size": plan.packet_size,
        "faults": len(plan.faults),
        "steps": len(plan.steps),
        "readers": len(logs),
        "bridges": len(plan.bridges),
        "stores": plan.stores,
        "device_made": device["made"] if device else 0,
        "whole": sum(bool(log.complete and log.runs and log.runs[0].sequence == 0) for log in logs),
        "delivered": sum(run.count for log in logs for run in log.runs),
        "declared": sum(loss.count for log in logs for loss in log.losses),
    }


def _recordings(plan: Plan, system: System) -> list[str]:
    problems = []
    for index in range(len(plan.recorders)):
        base = system.place / f"recording-{index}"
        ran = subprocess.run(
            [sys.executable, "-m", "usbcast", "verify", str(base), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ran.returncode:
            problems.append(f"recording-{index}: {ran.stdout[-400:]} {ran.stderr[-400:]}")
    return problems


def _said(place: Path) -> list[str]:
    """Tracebacks, and books that a process itself says do not balance."""
    problems = []
    for path in sorted([*place.glob("*.err"), *place.glob("*.out")]):
        text = path.read_text(errors="replace")
        at = text.find("Traceback")
        if at >= 0:
            problems.append(f"{path.name}: {text[at:][-700:]}")
        if re.search("do not balance|does not come out", text):
            problems.append(f"{path.name} says that its books do not balance")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a run disturbs the system")
    parser.add_argument("--seed", type=int, help="default: drawn, and printed")
    parser.add_argument("--runs", type=int, default=1, help="how many runs, with seeds that follow one another")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run that went well, too")
    given = parser.parse_args()
    first = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    failed = 0
    for seed in range(first, first + given.runs):
        print(f"seed {seed}: python -m tests.chaos --seconds {given.seconds:g} --seed {seed}", flush=True)
        plan = make_plan(
            seed, given.seconds, stores=nats_server() is not None, steps_clock=faketime_library() is not None
        )
        place = Path(tempfile.mkdtemp(prefix="usbcast-chaos-"))
        shared = Path("/dev/shm")
        rings = Path(tempfile.mkdtemp(prefix="usbcast-chaos-", dir=shared if shared.is_dir() else None))
        try:
            outcome = run(plan, place, rings)
        finally:
            shutil.rmtree(rings, ignore_errors=True)
        print(json.dumps(outcome.figures), flush=True)
        for problem in outcome.problems[:20]:
            print(f"  {problem}", flush=True)
        failed += bool(outcome.problems)
        if outcome.problems or given.keep:
            print(f"  logs: {place}", flush=True)
        else:
            shutil.rmtree(place)
    print(f"{given.runs - failed} of {given.runs} runs add up", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
