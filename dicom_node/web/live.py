"""Live updates: a stream of Server-Sent Events that says that something has changed, never what.

The page then reads its own address again, with the rights of its session. One look at the store a second serves all.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import StreamingResponse

from dicom_node.store import Store
from dicom_node.web import deps
from dicom_node.web.deps import StoreDep, Viewer
from dicom_node.web.errors import Problem
from dicom_node.workitem import ConfigError, StageError

LOGGER = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
BEAT_SECONDS = 15.0  # a page that hears nothing for longer says that it is not live
MOST_LISTENERS = 200

router = APIRouter(include_in_schema=False)


def stopping(app: FastAPI) -> bool:
    """Whether the server has been told to end: a stream that went on would keep it waiting."""
    told = getattr(app.state, "stopping", None)
    return told is not None and bool(told.is_set())


class Pulse:
    """Counts the changes of the store, and looks for them only while anybody listens."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._store: Store | None = None
        self._version, self._blind = 0, False
        self._watch: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.listeners = 0
        self.mark = 0

    async def next(self, known: int, seconds: float) -> int:
        """The number of the newest change: at once when it is not `known`, else when it changes or time is up."""
        if self._watch is None or self._watch.done():
            self.mark += 1  # whatever happened while nobody looked
            self._changed = asyncio.Event()
            self._watch = asyncio.create_task(self._run())
        if self.mark == known:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self.mark

    async def _run(self) -> None:
        try:
            while self.listeners and not stopping(self._app):
                if await asyncio.to_thread(self._look):
                    self.mark += 1
                    self._changed.set()
                    self._changed = asyncio.Event()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._changed.set()
            self._close()

    def _look(self) -> bool:
        """Whether another connection has written since the last look. One store stays open: the number is its own."""
        try:
            first = self._store is None
            if self._store is None:
                self._store = Store.open(self._app.state.spool.store, any_thread=True)
            before, self._version = self._version, self._store.worklist.changed()
            blind, self._blind = self._blind, False
            return self._version != before and (not first or blind)
        except (StageError, ConfigError) as error:  # the next look may succeed
            LOGGER.debug("live.blind %s", type(error).__name__)
            self._close()
            self._blind = True
            return False

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._version = None, 0


@router.get("/live")
async def live(request: Request, signed: Viewer, store: StoreDep) -> StreamingResponse:
    """text/event-stream: `change` with a mark at the start and after each change, `beat`, and `end` after sign-out."""
    app: FastAPI = request.app
    if not hasattr(app.state, "pulse"):
        app.state.pulse = Pulse(app)
    pulse: Pulse = app.state.pulse
    if pulse.listeners >= MOST_LISTENERS:
        raise Problem(503, "too many pages listen for live updates", "load the page again by hand")
    store.close()  # else it would stay open as long as the stream: three file descriptors for each page
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(request, pulse), media_type="text/event-stream", headers=headers)


async def _events(request: Request, pulse: Pulse) -> AsyncIterator[str]:
    pulse.listeners += 1
    known = 0
    try:
        while await asyncio.to_thread(_still_signed_in, request):
            mark = await pulse.next(known, BEAT_SECONDS)
            if stopping(request.app):
                return
            yield f"event: {'beat' if mark == known else 'change'}\ndata: {mark}\n\n"
            known = mark
        yield "event: end\ndata: signed out\n\n"
    finally:
        pulse.listeners -= 1


def _still_signed_in(request: Request) -> bool:
    """Sessions end while a page lies open; listening does not keep them alive."""
    try:
        with deps.open_store(request.app) as store:
            return deps.who(request, store) is not None
    except (StageError, Problem):
        return True
