"""Which HL7 messages were taken, so that one that comes again changes nothing. Reached as `store.inbox`."""

from collections.abc import Callable

from dicom_node.database import Database

KEPT_SECONDS = 90 * 86_400.0  # no sender repeats a message after that; its own number may come round again
PRUNE_EVERY = 1000


class Inbox:
    """The table hl7_message."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._since_pruned = 0

    def once(self, sender: str, control_id: str, digest: str, kind: str, now: float, work: Callable[[], str]) -> str:
        """Do the work of a message and note that it was taken, in one transaction; gives what `work` said.

        A message with the same number and digest from the same sender is only answered again. The same number with
        another digest is another message: counters start again. What `work` raises leaves nothing behind.
        """
        with self._db.immediate():
            known = self._db.rows(
                "SELECT detail FROM hl7_message WHERE sender = ? AND control_id = ? AND digest = ?",
                [sender, control_id, digest],
            )
            if known:
                return str(known[0]["detail"])
            said = work()
            self._db.execute(
                "INSERT OR REPLACE INTO hl7_message (sender, control_id, digest, message_type, detail, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [sender, control_id, digest, kind, said, now],
            )
            self._prune(now)
        return said

    def _prune(self, now: float) -> None:
        self._since_pruned += 1
        if self._since_pruned >= PRUNE_EVERY:
            self._since_pruned = 0
            self._db.execute("DELETE FROM hl7_message WHERE at < ?", [now - KEPT_SECONDS])
