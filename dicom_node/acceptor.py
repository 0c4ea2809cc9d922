"""Makes an association of a connection that the door has let in: pynetdicom's, with the node's parts in it."""

from typing import Any

from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler

from config.settings import Receive
from dicom_node.connection import accepted
from dicom_node.door import Arrived
from dicom_node.fast_store import FastStore, Keep
from dicom_node.incoming import SpoolingProvider
from dicom_node.spool import Spool
from dicom_node.watermark import Disk


def request_handler(spool: Spool, limits: Receive, disk: Disk, keep: Keep) -> type[RequestHandler]:
    """A request handler whose associations write into this spool (socketserver wants a class, so it is made here).

    Its `request` is what the door has let in; `keep` takes what came the short way.
    """

    class SpoolingRequestHandler(RequestHandler):  # type: ignore[misc]  # pynetdicom is not typed here
        request: Any  # an Arrived; pynetdicom expects the connection itself

        def _create_association(self) -> Association:
            arrived: Arrived = self.request
            self.request = arrived.connection
            association = super()._create_association()
            accepted(association, arrived.connection, arrived.caller, arrived.request, limits)
            association.dimse = SpoolingProvider(association, spool, limits, disk)
            if limits.fast:
                association.dul.fast = FastStore(association, keep)
            return association

    return SpoolingRequestHandler
