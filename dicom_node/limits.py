"""Who may call, and how often and how many at once; and the words for whoever may not."""

from config.settings import Peer, Settings
from dicom_node.elements import escaped


def refusal_words(settings: Settings, calling: str, called: str, host: str) -> str:
    """Why an association was refused and what to put where."""
    ours = settings.node.ae_title
    if called.strip() != ours:
        return (
            f'called AE title "{escaped(called)}" by "{escaped(calling)}" at {host} is not ours; at the sender, set '
            f'this node\'s AE title to "{ours}" (case counts), or set [node] ae_title = "{escaped(called)}" here'
        )
    peer = peer_of(settings, calling)
    if settings.receive.known_callers_only and not may_associate(peer):
        near = [p.ae_title for p in settings.peers if p.ae_title.lower() == calling.strip().lower()]
        if peer is not None:
            remedy = f'set sends = true in the [[peers]] entry with ae_title = "{escaped(calling)}"'
        elif near:
            remedy = f'the settings have "{escaped(near[0])}" (case counts): correct ae_title there or at the sender'
        else:
            remedy = (
                f'add to the settings [[peers]] with ae_title = "{escaped(calling)}" and host = "{host}", '
                "or set [receive] known_callers_only = false"
            )
        return f'calling AE title "{escaped(calling)}" at {host} is not a known sender; {remedy}'
    return (
        f'"{escaped(calling)}" at {host}: all {settings.receive.maximum_associations} associations are in use; it may '
        "try again, or raise [receive] maximum_associations"
    )


def peer_of(settings: Settings, ae_title: str) -> Peer | None:
    return next((peer for peer in settings.peers if peer.ae_title.strip() == ae_title.strip()), None)


def may_associate(peer: Peer | None) -> bool:
    """A destination may call too: it reports storage commitment on an association of its own."""
    return peer is not None and (peer.sends or peer.receives_results)
