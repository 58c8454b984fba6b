"""Runs programs in the guest for the host: one TCP connection is one program, told in lines of JSON.

The host sends {"argv": [...], "user": name or null} and then, as it likes, {"signal": n} and {"stdin": text}.
It gets {"ready": uptime_s} at once, {"stdout": line} and {"stderr": line} as they come, and {"exit": code} at the end.
When the host hangs up, the program and all that it started are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import sys
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 1 << 24


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    def send(**message: Any) -> None:
        writer.write(json.dumps(message).encode() + b"\n")

    send(ready=float(Path("/proc/uptime").read_text().split()[0]))
    first = await reader.readline()
    if not first:
        writer.close()
        return
    program = await start(json.loads(first))
    assert program.stdout is not None
    assert program.stderr is not None
    listening = asyncio.create_task(obey(reader, program))
    await asyncio.gather(
        pass_on(program.stdout, lambda line: send(stdout=line)),
        pass_on(program.stderr, lambda line: send(stderr=line)),
    )
    send(exit=await program.wait())
    listening.cancel()
    with contextlib.suppress(OSError):
        await writer.drain()
    writer.close()


async def start(wanted: dict[str, Any]) -> asyncio.subprocess.Process:
    options: dict[str, Any] = {}
    if wanted.get("user"):
        entry = pwd.getpwnam(wanted["user"])
        options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return await asyncio.create_subprocess_exec(
        *wanted["argv"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/tmp",
        limit=MAX_LINE_BYTES,
        start_new_session=True,
        **options,
    )


async def obey(reader: asyncio.StreamReader, program: asyncio.subprocess.Process) -> None:
    """Pass on signals and input; when the host is gone, so is the program."""
    try:
        while line := await reader.readline():
            message = json.loads(line)
            if "signal" in message:
                program.send_signal(message["signal"])
            if "stdin" in message and program.stdin is not None:
                program.stdin.write(message["stdin"].encode())
    except (OSError, ProcessLookupError):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)


async def pass_on(stream: asyncio.StreamReader, send: Any) -> None:
    while line := await stream.readline():
        send(line.decode(errors="replace").rstrip("\n"))


async def main() -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), limit=MAX_LINE_BYTES)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
