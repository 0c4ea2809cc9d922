"""The commands about users, tokens and work items: what they do, and what they leave in the audit trail."""

import getpass
import os
import subprocess
import time
from pathlib import Path

import pytest

from config.settings import Node as NodeSettings
from config.settings import Settings, Web
from dicom_node import passwords
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import checking
from dicom_node.workitem import State
from tests.e2e.node import PROGNODE, write_settings
from tests.e2e.test_cli import run
from tests.web.items import Items

PASSWORD = "correct horse battery"


class Node:
    """A node's settings and store, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.settings = write_settings(folder)
        Spool(folder / "spool").create()
        self.store = Store.open(Spool(folder / "spool").store)
        self.secret = folder / "password"
        self.secret.write_text(PASSWORD + "\n")

    def run(self, *words: str | int) -> tuple[int, str]:
        return run(*map(str, words), "--config", self.settings)

    def trail(self) -> list[tuple[str, str, str]]:
        return [(one.action, one.outcome, one.detail) for one in reversed(self.store.audit.newest())]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


# -- users -----------------------------------------------------------------------------------------------------


def test_a_user_is_made_changed_kept_out_and_removed(node: Node) -> None:
    add = ("user", "add", "Anna", "--password-file", str(node.secret))
    assert node.run(*add) == (0, "anna may sign in as viewer\n")
    assert node.run(*add)[0] == os.EX_DATAERR
    account = node.store.accounts.of("anna")
    assert account is not None
    assert passwords.is_right(account.password_hash, PASSWORD)
    node.store.accounts.begin_session("cookie", "anna", "viewer", "csrf", time.time())

    assert node.run("user", "role", "anna", "operator")[0] == 0
    session = node.store.accounts.session("cookie", time.time(), 60.0, 60.0)
    assert session is not None
    assert session.role == "operator"
    assert "operator" in node.run("user", "list")[1]
    assert node.run("user", "disable", "anna")[0] == 0
    assert node.store.accounts.session("cookie", time.time(), 60.0, 60.0) is None
    assert "disabled" in node.run("user", "list")[1]
    assert node.run("user", "disable", "anna", "--undo")[0] == 0
    node.secret.write_text("another long password\r\nsecond line")
    assert node.run("user", "password", "anna", "--password-file", str(node.secret))[0] == 0
    account = node.store.accounts.of("anna")
    assert account is not None
    assert passwords.is_right(account.password_hash, "another long password")
    assert node.run("user", "remove", "anna")[0] == 0
    assert node.run("user", "list") == (0, "")
    assert node.trail() == [
        ("user.added", "done", "anna, viewer"), ("user.role", "done", "anna, operator"),
        ("user.disabled", "done", "anna"), ("user.enabled", "done", "anna"), ("user.password", "done", "anna"),
        ("user.removed", "done", "anna"),
    ]  # fmt: skip
    entry = node.store.audit.newest(1)[0]
    assert (entry.actor.split(" ")[0], entry.origin) == (getpass.getuser(), "cli")


def test_a_new_password_ends_the_wait_after_wrong_ones(node: Node) -> None:
    node.run("user", "add", "anna", "--password-file", str(node.secret))
    for _ in range(6):
        node.store.accounts.attempt({"account anna": 5}, time.time())
    assert "waits" in node.run("user", "list")[1]
    node.run("user", "password", "anna", "--password-file", str(node.secret))
    assert "waits" not in node.run("user", "list")[1]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("user", "add", "anna", "--role", "admin"), os.EX_USAGE, "use viewer or operator"),
        (("user", "add", "an na"), os.EX_CONFIG, "begins with a letter or digit"),
        (("user", "add", "oidc:anna"), os.EX_CONFIG, "begins with a letter or digit"),
        (("user", "add", "anna", "--password-file", "/nowhere"), os.EX_NOINPUT, "cannot be read"),
        (("user", "password", "anna"), os.EX_DATAERR, "there is no user anna"),
        (("user", "role", "anna", "viewer"), os.EX_DATAERR, "there is no user anna"),
        (("user", "disable", "anna"), os.EX_DATAERR, "there is no user anna"),
        (("user", "remove", "anna"), os.EX_DATAERR, "there is no user anna"),
        (("token", "revoke", "x"), os.EX_DATAERR, "no token x is in force"),
        (("hold", 7), os.EX_DATAERR, "there is no work item 7"),
        (("hold",), os.EX_USAGE, "name work items by their numbers"),
        (("hold", 7, "--study", "1.2"), os.EX_USAGE, "name work items by their numbers"),
        (("hold", "--study", "1.2"), os.EX_DATAERR, "not known here"),
    ],
)
def test_what_cannot_be_done_is_said(node: Node, words: tuple[str | int, ...], code: int, says: str) -> None:
    from tests.e2e.test_cli import prognode

    got, text = prognode(*map(str, words), "--config", node.settings)
    assert (got, says in text) == (code, True), text
    assert "Traceback" not in text


def test_a_password_comes_from_a_file_or_standard_input_and_is_long_enough(node: Node) -> None:
    command = [str(PROGNODE), "user", "add", "anna", "--config", str(node.settings)]

    def made(*more: str, given: str) -> tuple[int, str]:
        done = subprocess.run([*command, *more], input=given, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    code, text = made(given=PASSWORD)
    assert (code, "--password-file" in text) == (os.EX_USAGE, True)
    code, text = made("--password-file", "-", given="short\n")
    assert (code, "12 to 1024" in text) == (os.EX_CONFIG, True)
    assert made("--password-file", "-", given=f"{PASSWORD}\n")[0] == 0
    account = node.store.accounts.of("anna")
    assert account is not None
    assert passwords.is_right(account.password_hash, PASSWORD)


def test_signing_a_user_out_ends_every_session(node: Node) -> None:
    for cookie in ("one", "two"):
        node.store.accounts.begin_session(cookie, "oidc:anna", "viewer", "csrf", time.time())
    assert node.run("user", "signout", "oidc:anna") == (0, "2 sessions ended\n")
    assert node.store.accounts.session("one", time.time(), 60.0, 60.0) is None


# -- tokens ----------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_kept_as_a_digest(node: Node) -> None:
    code, text = node.run("token", "add", "ris-dashboard", "--role", "operator", "--days", "90")
    token = text.strip()
    assert (code, token.startswith("prognode_"), len(token)) == (0, True, 52)
    found = node.store.accounts.token(token, time.time())
    assert found is not None
    assert (found.name, found.role) == ("ris-dashboard", "operator")
    assert found.expires_at == pytest.approx(time.time() + 90 * 86400, abs=60)
    assert node.store.accounts.token(token, time.time() + 91 * 86400) is None
    assert token not in node.run("token", "list")[1]
    assert "in force" in node.run("token", "list")[1]
    assert node.run("token", "add", "ris-dashboard")[0] == os.EX_DATAERR
    assert node.run("token", "revoke", "ris-dashboard")[0] == 0
    assert "revoked" in node.run("token", "list")[1]
    assert node.store.accounts.token(token, time.time()) is None
    code, text = node.run("token", "add", "for-ever", "--days", "0")
    assert node.store.accounts.token(text.strip(), time.time() + 1e9) is not None
    assert [entry[0] for entry in node.trail()] == ["token.added", "token.revoked", "token.added"]


# -- work items ------------------------------------------------------------------------------------------------


def test_work_items_are_held_released_raised_and_canceled_by_number_or_study(node: Node) -> None:
    items = Items(node.store)
    first, second = items.scheduled(study="1.2.5"), items.scheduled(study="1.2.5")
    assert node.run("hold", first.id)[0] == 0
    assert node.run("hold", "--study", "1.2.5")[0] == os.EX_DATAERR, "one of the two is held already"
    assert [row.held for row in node.store.worklist.of_study("1.2.5")] == [True, True]
    assert node.run("release", first.id, second.id)[0] == 0
    assert node.run("priority", "high", second.id)[0] == 0
    assert items.claim(State.SCHEDULED).id == second.id
    code, text = node.run("cancel", "--study", "1.2.5")
    assert (code, text.count("it is canceled")) == (0, 2)
    assert node.trail() == [
        ("workitem.hold", "done", ""), ("workitem.hold", "done", ""),
        ("workitem.hold", "refused", "it is held already"), ("workitem.release", "done", ""),
        ("workitem.release", "done", ""), ("workitem.priority", "done", "HIGH"), ("workitem.cancel", "done", ""),
        ("workitem.cancel", "done", ""),
    ]  # fmt: skip


def test_retry_runs_what_has_failed_again_and_of_a_study_also_what_was_not_scored(node: Node) -> None:
    items = Items(node.store)
    failed, other = items.at(State.FAILED), items.at(State.FAILED)
    not_scored = items.at(State.COMPLETED, "", study="1.2.9")
    assert node.run("retry", failed.id) == (0, f"work item {failed.id}: it is analysed again\n")
    assert node.run("retry") == (0, "1 work item will run again\n")
    assert "Nothing has failed." in node.run("retry")[1]
    assert node.run("retry", "--study", "1.2.9") == (0, "1 work item will run again\n")
    assert node.store.births.waiting_rois() == [not_scored.roi_sop_instance_uid]
    assert node.run("rescore", not_scored.id)[0] == os.EX_DATAERR
    actions = [(entry.work_item_id, entry.action) for entry in reversed(node.store.audit.newest())]
    assert actions == [
        (failed.id, "workitem.retry"), (other.id, "workitem.retry"), (not_scored.id, "workitem.rescore"),
        (not_scored.id, "workitem.rescore"),
    ]  # fmt: skip


# -- check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("web", "level"),
    [
        (Web(), "ok"),
        (Web(public_url="https://prognode.example"), "note"),
        (Web(public_url="https://prognode.example", trusted_proxies=("127.0.0.1",)), "ok"),
    ],
)
def test_an_https_page_needs_a_certificate_or_a_proxy_that_is_known(tmp_path: Path, web: Web, level: str) -> None:
    found = next(checking.check(Settings(node=NodeSettings(spool=tmp_path / "none"), web=web)))
    assert (found.id, found.well, found.level) == ("page", True, level)
    assert ("trusted_proxies" in found.remedy) is (level == "note")
