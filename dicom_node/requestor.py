"""An association that we ask for: pynetdicom's, but what answers us is taken by the one who asked.

Its reactor serves what a peer sends unasked, and stops at a checkpoint while somebody else asks. That it stands there
is told in pynetdicom by a flag (`_is_paused`) that is also True while it walks on, and that a served request sets as it
likes: under load the reactor can take an answer away, the asker hears nothing until the time-out, and sends again.
"""

import ssl
import threading
import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

RELEASE_SECONDS = 30.0  # for what is being answered; then the association is aborted


class Checkpoint:
    """Where the reactor stops while it is closed; takes the place of a threading.Event that is set while open.

    "It stands" is said and taken back under the lock that closing needs too. So once it is closed and the reactor
    stands, it stays: a wake-up that was under way finds it closed, and waits on.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = True
        self._waiting = False

    @property
    def stands(self) -> bool:
        """Whether the reactor is held here, until `set`."""
        with self._condition:
            return self._waiting and not self._open

    def wait(self) -> None:
        """The reactor's: go on when it is open."""
        with self._condition:
            self._waiting = True
            self._condition.wait_for(lambda: self._open)
            self._waiting = False

    def set(self) -> None:
        """Open it."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def clear(self) -> None:
        """Close it. The reactor stands only once `stands` says so."""
        with self._condition:
            self._open = False


class Requestor(Association):  # type: ignore[misc]  # pynetdicom is not typed here
    """Whoever sends closes the checkpoint and waits for `_is_paused`, as pynetdicom's `send_*` and `release` do."""

    def __init__(self, entity: AE) -> None:
        super().__init__(entity, "requestor")
        self._reactor_checkpoint = Checkpoint()
        self._serving = threading.RLock()  # held while the peer's request is served, in whatever thread

    @property
    def _is_paused(self) -> bool:
        """Whether nobody else takes what comes: the reactor stands, or is the one that asks, or is gone."""
        return self._reactor_checkpoint.stands or threading.current_thread() is self or not self.is_alive()

    @_is_paused.setter
    def _is_paused(self, said: bool) -> None:
        """What pynetdicom says of it is not heard."""

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            self.dimse.msg_queue.put((None, None))  # whoever asks from now on need not wait for the time-out

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """A report of the peer's is served in a thread of its own: not while the association is being released."""
        with self._serving:
            super()._serve_request(msg, context_id)

    def release(self) -> None:
        """Release, once the peer's requests have been answered: an answer after an A-RELEASE-RQ is a violation
        (PS3.8 table 9-10, Sta7) that ends pynetdicom's thread."""
        if not self.is_established:
            return
        end = time.monotonic() + RELEASE_SECONDS
        self._reactor_checkpoint.clear()
        try:
            while not self._is_paused and time.monotonic() < end:  # first, as it may serve something itself
                time.sleep(0.001)
            if not self._is_paused or not self._serving.acquire(timeout=max(0.0, end - time.monotonic())):
                self.abort()
                return
            try:
                super().release()
            finally:
                self._serving.release()
        finally:
            self._reactor_checkpoint.set()


def associate(
    entity: AE,
    address: tuple[str, int],
    ae_title: str,
    contexts: Sequence[PresentationContext],
    *,
    maximum_pdu_bytes: int,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[tuple[Any, ...]] = (),
    tls: tuple[ssl.SSLContext, str] | None = None,
) -> Requestor:
    """What AE.associate does, with a Requestor: ask for an association, and say how it went by its `is_*`.

    `tls`: the context, and the name that the peer's certificate has to bear. Raises socket.gaierror for a host name
    that cannot be resolved.
    """
    association = Requestor(entity)
    there = AddressInformation(*address)
    here = AddressInformation("" if there.is_ipv4 else "::", 0)
    connection = AssociationSocket(association, address=here)
    connection.tls_args = tls
    association.set_socket(connection)
    association.acceptor.ae_title = ae_title
    association.acceptor.address_info = there
    ours = association.requestor
    ours.ae_title = entity.ae_title
    ours.address_info = here
    ours.maximum_length = maximum_pdu_bytes
    ours.implementation_class_uid = entity.implementation_class_uid
    ours.implementation_version_name = entity.implementation_version_name
    for role in roles:
        ours.add_negotiation_item(role)
    proposed = deepcopy([*contexts])  # their roles are written to
    for place, context in enumerate(proposed):
        context.context_id = 2 * place + 1  # odd (PS3.8 section 9.3.2.2)
    ours.requested_contexts = proposed
    for handler in handlers:
        association.bind(*handler)
    association.request()
    if association.is_established:
        association.start()
    return association
