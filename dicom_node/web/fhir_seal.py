"""Parameters of a posted search, sealed for the links of its pages: no URL has a Patient ID, nothing is kept here."""

import base64
import json
import os

from dicom_node.web.errors import Problem

SECONDS = 1800  # from one page to asking for the next
PARAMETER = "search"
Pairs = list[tuple[str, str]]


class Seal:
    """Of this process: a restart, like the end of the time, makes the client search anew."""

    def __init__(self) -> None:
        self._key = base64.urlsafe_b64encode(os.urandom(32))

    def closed(self, account: str, pairs: Pairs) -> str:
        """A text for a URL that says nothing to anybody but this process."""
        from cryptography.fernet import Fernet  # noqa: PLC0415 - few post a search

        return Fernet(self._key).encrypt(json.dumps([account, pairs]).encode()).decode()

    def opened(self, account: str, text: str) -> Pairs:
        """What was sealed. Raises Problem 400 for what is not ours, too old, or another account's."""
        from cryptography.fernet import Fernet, InvalidToken  # noqa: PLC0415

        try:
            whose, pairs = json.loads(Fernet(self._key).decrypt(text.encode(), ttl=SECONDS))
        except InvalidToken:
            whose, pairs = None, []
        if whose != account:
            raise Problem(400, "this link has ended, or is another account's", "post the search again")
        return [(name, value) for name, value in pairs]
