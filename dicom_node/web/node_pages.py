"""Pages about the node itself: its model, and how disk, queue, peers and worker are just now. No PHI on either."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markdown_it import MarkdownIt
from markdown_it.token import Token

from config.identity import VERSION
from dicom_node.vitals import Component, Contact
from dicom_node.web import facts, views
from dicom_node.web.deps import SettingsDep, SpoolDep, StoreDep, Viewer
from dicom_node.web.pages import render
from dicom_node.web.study_page import is_synthetic
from dicom_node.web.views import Badge
from dicom_node.workitem import State
from models.manifest import PerformanceFacts
from reports import particulars

router = APIRouter(include_in_schema=False)
LOW = Badge("too little: C-STORE is refused until some is free", "bad")


# -- model ---------------------------------------------------------------------------------------------------------


@router.get("/models")
def models(request: Request, signed: Viewer, store: StoreDep) -> Response:
    """The installed bundles: what they are, how good each sub-model is, and their model card."""
    found = request.app.state.models.all(store)
    synthetic = is_synthetic(request, store, ())
    return render(request, "models.html", "Model", models=[model_view(one) for one in found], synthetic=synthetic)


def model_view(model: facts.ModelFacts) -> dict[str, Any]:
    """A bundle for people."""
    return {
        "facts": model,
        "manifest": model.manifest,
        "sub_models": [] if model.manifest is None else [
            {
                "name": " + ".join(one.modalities),
                "lines": [_performance(figures) for figures in one.performance],
            }
            for one in model.manifest.sub_models
        ],
        "golden": golden(model),
        "card": markdown(model.card),
        "short": particulars.short_digest(model.digest),
    }  # fmt: skip


def golden(model: facts.ModelFacts) -> Badge:
    """How the golden case went."""
    if not model.golden:
        return Badge("not run yet with this bundle; it is run at the start of what runs the jobs", "warn")
    return Badge(f"{model.golden} ({views.moment(model.golden_at)})", "good")  # a worker with a bad one does not start


def _performance(figures: PerformanceFacts) -> dict[str, str]:
    """One line of the table of a sub-model.

    >>> line = _performance(PerformanceFacts(endpoint="OS", horizon_months=12, auc=0.7, auc_lower=0.62, auc_upper=0.77,
    ...                                      patients=240, events=95))
    >>> line["auc"], line["cohort"]
    ('0.70 (0.62 to 0.77)', '240 patients, 95 events')
    """
    auc = "not evaluable" if figures.auc is None else f"{figures.auc:.2f}"
    if figures.auc is not None and figures.auc_lower is not None and figures.auc_upper is not None:
        auc += f" ({figures.auc_lower:.2f} to {figures.auc_upper:.2f})"
    return {
        "what": f"{figures.endpoint} {figures.horizon_months} months",
        "auc": auc,
        "calibration": "" if figures.observed_expected is None else f"{figures.observed_expected:.2f}",
        "hazard": "" if figures.hazard_ratio is None else f"{figures.hazard_ratio:.2f}",
        "cohort": f"{figures.patients} patients, {figures.events} events",
    }


def markdown(text: str) -> str:
    r"""A model card as HTML: CommonMark with tables, no HTML of its own, no pictures, headings below the page's own.

    >>> markdown("# Card <b> ![p](http://elsewhere/p.png)")
    '<h2>Card &lt;b&gt; !<a href="http://elsewhere/p.png" rel="noreferrer">p</a></h2>\n'
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(text)
    for token in _all(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
        if token.type == "link_open":
            token.attrSet("rel", "noreferrer")
    return str(reader.renderer.render(tokens, reader.options, {}))


def _all(tokens: list[Token]) -> list[Token]:
    return [inner for token in tokens for inner in (token, *(token.children or ()))]


# -- system --------------------------------------------------------------------------------------------------------


@router.get("/system")
def system(request: Request, signed: Viewer, store: StoreDep, spool: SpoolDep, settings: SettingsDep) -> Response:
    """The node as it is now."""
    found = facts.system(settings, spool, store, VERSION)
    synthetic = is_synthetic(request, store, ())
    return render(request, "system.html", "System", **system_view(found), synthetic=synthetic, live=True)


def system_view(system: facts.SystemFacts) -> dict[str, Any]:
    """Disk, queue, peers and worker for people."""
    disk, queue = system.disk, system.queue
    used = disk.total - disk.free
    return {
        "system": system,
        "disk": {
            "used": round(100 * used / disk.total) if disk.total else 0,
            "mark": round(100 * (disk.total - disk.reserve) / disk.total, 2) if disk.total else 100,
            "text": f"{gigabytes(disk.free)} free of {gigabytes(disk.total)}",
            "reserve": gigabytes(disk.reserve),
            "state": LOW if disk.low else Badge("enough", "good"),
        },
        "queue": [
            {
                "state": state.capitalize(),
                "meaning": views.STAGES[state],
                "count": queue.counts.get(state, 0),
                "oldest": views.ago(queue.oldest_seconds[state]) if state in queue.oldest_seconds else "",
            }
            for state in State
        ],
        "peers": [_peer(peer, system.at) for peer in system.peers],
        "processes": {
            "Worker": _process(system.worker, system.worker_alive, system.at),
            "Jobs": _process(system.runner, system.runner_alive, system.at),
        },
        "refused": {name: Badge(f"a reload was refused: {why}", "bad") for name, why in system.refused.items()},
    }


def gigabytes(number: float) -> str:
    """Bytes for people.

    >>> gigabytes(1_500_000_000), gigabytes(20_000_000)
    ('1.5 GB', '20 MB')
    """
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _process(one: Component | None, alive: bool, now: float) -> dict[str, Any]:
    if one is None:
        return {"state": Badge("has never run here", "bad"), "isolation": None, "facts": {}, "started": "", "seen": ""}
    told = one.facts
    isolated = Badge(str(told.get("isolation", "not known")), "good" if told.get("isolated") else "warn")
    shown = {"Executor": told.get("executor"), "Model bundle": particulars.short_digest(str(told.get("bundle", "")))}
    waits = told.get("waits")
    well = Badge(f"no job can be started: {waits}", "bad") if waits else Badge("at work", "good")
    return {
        "state": well if alive else _ended(one),
        "isolation": isolated if "isolation" in told else None,
        "facts": {name: str(value) for name, value in shown.items() if value} | {"Version": one.version},
        "started": views.moment(one.started_at),
        "seen": f"{views.ago(now - one.seen_at)} ago",
    }


def _ended(one: Component) -> Badge:
    if one.ended_at is not None:
        return Badge(f"stopped {views.moment(one.ended_at)}", "bad")
    return Badge("not heard of; see that it runs", "bad")


def _peer(peer: facts.PeerFacts, now: float) -> dict[str, Any]:
    does = [word for word, true in (("sends", peer.sends), ("gets results", peer.receives_results)) if true]
    contacts = [
        {"kind": kind, **_contact(contact, now)}
        for kind, contact in (("received", peer.received), ("delivered", peer.delivered), ("C-ECHO", peer.echo))
    ]
    if peer.trouble:
        contacts[1] |= {"badge": Badge("since then: not delivered", "bad"), "detail": peer.trouble}
    return {
        "name": peer.name,
        "where": peer.where or "not in the settings",
        "does": ", ".join(does),
        "contacts": contacts,
    }


def _contact(contact: Contact | None, now: float) -> dict[str, Any]:
    """When, and whether it went well."""
    if contact is None:
        return {"when": "never", "badge": None, "detail": ""}
    badge = Badge("well", "good") if contact.well else Badge("failed", "bad")
    return {"when": f"{views.ago(now - contact.at)} ago", "badge": badge, "detail": contact.detail}
