"""A RIS for the tests, in a process of its own: python-hl7's MLLP server, which keeps what it gets and can misbehave.

`python ris.py FOLDER PORT [CERTIFICATE KEY [CLIENT_CA]]` writes each message to FOLDER/0001.hl7, ... and the port to
FOLDER/port. FOLDER/mode says how the next message is answered.
"""

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODES = ("AA", "CA", "AE", "CE", "AR", "CR", "silent", "close", "half", "garbage", "other", "err", "odd")


def answer_to(message: Any, mode: str) -> bytes:
    """What goes back for a message, as the bytes of an MLLP block (or of less than one)."""
    code = mode if mode in ("AA", "CA", "AE", "CE", "AR", "CR") else "AA"
    acknowledgement = str(message.create_ack(ack_code=code))
    if mode == "other":
        acknowledgement = acknowledgement.replace(str(message.segment("MSH")(10)), "ANOTHER")
    if mode == "err":
        acknowledgement = acknowledgement.replace("MSA|AA", "MSA|AE") + "ERR|||204^Doe^HL70357|E||||Doe, John\r"
    if mode == "odd":
        acknowledgement = acknowledgement.replace("MSA|AA", "MSA|ZZ")
    block = b"\x0b" + acknowledgement.encode() + b"\x1c\r"
    return {"half": block[:25], "garbage": b"\x0bwhat?\x1c\r", "close": b""}.get(mode, block)


async def serve(folder: Path, port: int, files: list[str]) -> None:
    from hl7.mllp import start_hl7_server

    async def take(reader: Any, writer: Any) -> None:
        while not writer.is_closing():
            try:
                message = await reader.readmessage()
            except asyncio.IncompleteReadError:
                break
            number = len(list(folder.glob("*.hl7"))) + 1
            (folder / "coming").write_bytes(str(message).encode())  # seen whole or not at all
            (folder / "coming").rename(folder / f"{number:04d}.hl7")
            mode = (folder / "mode").read_text()
            if mode == "silent":
                await asyncio.sleep(3600)
            writer.write(answer_to(message, mode))
            await writer.drain()
            if mode in ("close", "half"):
                break
        writer.close()

    context = None
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files[0], files[1])
        if len(files) > 2:
            context.load_verify_locations(files[2])
            context.verify_mode = ssl.CERT_REQUIRED
    server = await start_hl7_server(take, "127.0.0.1", port, encoding="utf-8", limit=1 << 20, ssl=context)
    (folder / "port").write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


class Ris:
    """The running process, seen from a test."""

    def __init__(self, folder: Path, files: tuple[Path, ...] = ()) -> None:
        self.folder, self._files = folder, files
        self.port = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.answers("AA")
        self.start()

    def start(self) -> None:
        """Again on the same port, where it had one."""
        (self.folder / "port").unlink(missing_ok=True)
        command = [sys.executable, __file__, str(self.folder), str(self.port), *map(str, self._files)]
        self.process = subprocess.Popen(command)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            if (self.folder / "port").is_file() and (text := (self.folder / "port").read_text()):
                self.port = int(text)
                return
            time.sleep(0.02)
        raise AssertionError("the RIS does not listen")

    def answers(self, mode: str) -> None:
        assert mode in MODES
        (self.folder / "mode").write_text(mode)

    @property
    def messages(self) -> list[str]:
        """What it got, in order, with repeats."""
        return [path.read_bytes().decode() for path in sorted(self.folder.glob("*.hl7"))]

    @property
    def control_ids(self) -> list[str]:
        return [message.split("|")[9] for message in self.messages]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@contextmanager
def ris(folder: Path, *files: Path) -> Iterator[Ris]:
    running = Ris(folder, files)
    try:
        yield running
    finally:
        running.kill()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
