"""Changed settings: each key is taken over at once or takes a restart, and says which."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from config.keeping import AuditTrail, Storage, Syslog
from config.reload import LIVE, RESTART, compare, is_live, keys
from config.settings import Deliver, Node, Peer, Rule, Settings, Tls, load, parse
from dicom_node import deliver, storage
from dicom_node.heartbeat import Heartbeat
from dicom_node.keeper import Keeper
from dicom_node.reload import Reloader
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.paths import ROOT


def test_every_setting_is_live_or_says_why_it_takes_a_restart() -> None:
    every = keys(Settings())
    assert len(every) > 120
    for key in every:
        assert is_live(key) or key in RESTART or key.partition(".")[0] in RESTART, key
    tables = {key.partition(".")[0] for key in every}
    for key in (*LIVE, *RESTART):
        assert key in every or key in tables, f"{key} is no setting any more"
    assert not set(LIVE) & set(RESTART)


def test_what_is_live_is_taken_and_the_rest_stays_as_it_was_with_a_sentence_for_each() -> None:
    old = Settings()
    new = replace(
        old,
        node=Node(ae_title="OTHER", port=104),
        peers=(Peer("PACS"),),
        rules=(Rule("a"),),
        deliver=Deliver(delay_factor=3.0),
        tls=Tls(listen="only", certificate=Path("a"), private_key=Path("b")),
        audit=AuditTrail(syslog=Syslog(host="collector")),
    )
    change = compare(old, new)
    assert change.taken == ("peers", "tls.certificate", "tls.private_key", "rules", "deliver.delay_factor")
    assert [one.split(" takes a restart: ")[0] for one in change.waiting] == [
        "node.ae_title", "node.port", "tls.listen", "audit.syslog.host",
    ]  # fmt: skip
    assert all(len(one.split(": ", 1)[1]) > 20 for one in change.waiting)
    assert change.settings == replace(new, node=old.node, audit=old.audit, tls=replace(new.tls, listen="off"))
    assert compare(change.settings, new).taken == (), "what waits is said again at the next time"
    assert len(compare(change.settings, new).waiting) == 4


@pytest.mark.parametrize("settings", [Settings(), Settings(peers=(Peer("PACS"),))])
def test_nothing_changed_is_nothing_taken(settings: Settings) -> None:
    assert compare(settings, settings) == compare(settings, replace(settings))
    assert compare(settings, settings).taken == ()


class Part:
    """A part of a process whose settings are put in force by what it is given."""

    def __init__(self, ready: Callable[[], None], put: Callable[[], None]) -> None:
        self._ready, self._put = ready, put

    def ready_for(self, _: Settings) -> Callable[[], None]:
        self._ready()
        return self._put


def nothing() -> None:
    pass


def test_a_bug_in_a_reload_is_named_by_its_type_alone_and_is_seen_on_the_system_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool, settings = Spool(tmp_path / "spool"), tmp_path / "prognode.toml"
    spool.create()
    settings.write_text("")

    def bug() -> None:
        raise KeyError("DOE^JANE")

    store = Store.open(spool.store)
    for part in (Part(bug, nothing), Part(nothing, bug)):
        assert not Reloader(settings, parse({}, tmp_path), spool, "work", [part]).reload()
        entry = store.audit.newest()[0]
        assert (entry.outcome, entry.detail) == ("failed", "reload: KeyError")
    said = [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
    assert ["KeyError" in line and "DOE" not in line for line in said] == [True, True]


def test_a_reload_that_is_made_ready_while_the_process_stops_is_not_put_in_force(tmp_path: Path) -> None:
    spool, settings, put = Spool(tmp_path / "spool"), tmp_path / "prognode.toml", []
    spool.create()
    settings.write_text("")
    parts = [Part(lambda: reloader.end(), lambda: put.append(1))]
    reloader = Reloader(settings, parse({}, tmp_path), spool, "work", parts)
    assert not reloader.reload()
    assert put == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "the file is empty"), ("# [[peers]]\n", "the file is empty"), ("[node]\n", "no [[peers]] is left")],
)
def test_a_file_that_is_empty_or_half_written_turns_no_sender_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    spool, settings, put = Spool(tmp_path / "spool"), tmp_path / "prognode.toml", []
    spool.create()
    whole = '[node]\n[[peers]]\nae_title = "CT"\n'
    settings.write_text(whole)
    reloader = Reloader(settings, load(settings), spool, "serve", [Part(nothing, lambda: put.append(1))])
    settings.write_text(text)
    assert not reloader.reload()
    assert put == []
    assert why in caplog.text
    assert "rename it" in caplog.text
    settings.write_text(whole)
    assert reloader.reload()
    assert put == [1]


# -- docs/configuration.md -------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_page_says_of_each_key_whether_it_takes_a_restart() -> None:
    reload = PAGE.partition("## Reload")[2]
    live, _, restart = reload.partition("| takes a restart | why |")

    def named(table: str) -> set[str]:
        cells = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
        return {key for cell in cells for key in re.findall(r"`([a-z0-9_.]+)`", cell)}

    assert named(live) == set(LIVE)
    assert named(restart) == set(RESTART)


def test_the_page_has_every_section() -> None:
    table = PAGE.partition("## Sections")[2].partition("\n## ")[0]
    assert {name.partition(".")[0] for name in re.findall(r"`\[*([a-z0-9_.]+)\]*`", table)} >= set(vars(Settings()))


def test_the_examples_of_the_page_are_settings() -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    first, second, third = (parse(tomllib.loads(text), Path("/")) for text in examples)
    assert first.rule_for("RT_1").plan.several_rois == "union"
    assert second.rule_for("TRIAL_WS").shadow
    assert [third.rule_for(title).name for title in ("ONCO_WS1", "ONCO_WS2")] == ["live", "not yet"]
    known = re.findall(r"^\| `([a-z_]+)` \|", PAGE.partition("## Routing rules")[2].partition("```")[0], re.MULTILINE)
    assert known == list(vars(Rule("x")))


def test_a_reload_in_the_middle_of_keeping_room_counts_from_the_next_turn_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn runs in a thread of its own: the reload comes while it makes what goes by the settings, or uses it."""
    old, new = Settings(), Settings(storage=Storage(received_days=3))
    spool = Spool(tmp_path)
    spool.create()
    keeper, used = Keeper(old, spool), list[Settings]()

    class Reloading(storage.Cleaner):
        def __init__(self, store: Store, spool: Spool, settings: Settings, clock: Callable[[], float]) -> None:
            super().__init__(store, spool, settings, clock)
            used.append(settings)
            keeper.go_on_with(new)

        def step(self) -> bool:
            keeper.go_on_with(new)
            return super().step()

    monkeypatch.setattr("dicom_node.keeper.Cleaner", Reloading)
    for _ in range(3):
        keeper.keep_room()
    keeper.close()
    assert used == [old, new]


def test_a_reload_in_the_middle_of_a_c_echo_begins_the_round_anew_with_its_destinations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (Settings(peers=tuple(Peer(name, receives_results=True) for name in names)) for names in ("AB", "CD"))
    store, asked = Store.open(tmp_path / "store.sqlite"), list[str]()
    heartbeat = Heartbeat(old, lambda: store, {}, lambda: 1.0)

    def echo(peer: Peer, settings: Settings) -> deliver.EchoResult:
        assert peer in settings.peers
        asked.append(peer.ae_title)
        if peer.ae_title == "B":
            heartbeat.go_on_with(new)
        return deliver.EchoResult(True, "answers")

    monkeypatch.setattr(deliver, "echo", echo)
    while heartbeat.echo():
        pass
    assert asked == ["B", "D", "C"]
    store.close()
