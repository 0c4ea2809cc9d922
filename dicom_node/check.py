"""`prognode check`: walks what the node stands on, in order, and explains each failure with its remedy."""

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from analysis.contract import REASONS, FailureReason
from config.planning import ANY
from config.settings import Settings
from dicom_node import (
    candidates,
    check_machine,
    check_peers,
    clinical_codes,
    clinical_table,
    fhir_in,
    hl7_in,
    job,
    secrets,
    syslog_out,
)
from dicom_node.executors.choice import chosen
from dicom_node.executors.contract import Executor, NotStarted
from dicom_node.finding import Finding as Finding
from dicom_node.workitem import ConfigError, StageError
from models.bundle import DEMO, BundleError, load
from reports import fonts
from reports.language import speaker

PACKAGES = ("dicom_node", "analysis", "reports", "config", "models")
DISTRIBUTION = "prognode"


def check(settings: Settings, *, store_test: bool = False) -> Iterator[Finding]:
    """Look at each thing in turn; nothing is made or changed, but for `store_test`: a test object at each PACS."""
    yield _packages()
    yield from check_machine.spool(settings)
    yield check_machine.clock()
    yield from check_machine.ports(settings)
    yield from check_machine.running(settings)
    jobs = _executor(settings)
    yield from _bundles(settings, jobs)
    yield _isolation(settings, jobs)
    yield _language(settings)
    yield _patterns(settings)
    yield from _rules(settings)
    yield from _clinical(settings)
    yield from _secrets(settings)
    yield from _collector(settings)
    yield from check_peers.own_certificates(settings)
    as_heard = check_peers.as_heard(settings)
    yield check_peers.ae_title(as_heard)
    yield check_peers.callers(settings)
    yield from check_peers.peers(as_heard, store_test=store_test)
    yield from check_peers.hl7(settings)
    yield from _hl7_listener(settings)


def settings_in_force(where: str, remedy: str) -> Finding:
    """Which settings all of it goes by; `remedy`: how to use others that are at hand."""
    return Finding("settings.file", True, where, remedy)


def _packages() -> Finding:
    """The five packages have short names: another distribution may have overwritten one of them."""
    owners = importlib.metadata.packages_distributions()
    foreign = {name: owners.get(name, []) for name in PACKAGES if set(owners.get(name, [])) - {DISTRIBUTION}}
    if foreign:
        return Finding(
            "installation.packages",
            False,
            f"also shipped by another distribution: {foreign}",
            "install Prognode into a virtual environment of its own",
        )
    return Finding("installation.packages", True, "each belongs to Prognode alone")


def _executor(settings: Settings) -> Executor | NotStarted:
    """What runs the jobs, tried where they run: an engine's daemon may see another /tmp than we."""
    spool = settings.node.spool
    try:
        return chosen(settings.job, spool if spool.is_dir() else None)
    except NotStarted as error:
        return error


def _bundles(settings: Settings, jobs: Executor | NotStarted) -> Iterator[Finding]:
    """The node's own and those of the rules."""
    tried: set[str] = set()
    named = {rule.bundle: f"of rule {rule.name}" for rule in reversed(settings.rules) if rule.bundle is not None}
    for folder, about in {settings.bundle or DEMO: "", **named}.items():
        try:
            bundle = load(folder)
        except BundleError as error:
            remedy = "install the bundle again, or correct `bundle` in the settings"
            yield Finding("bundle.files", False, str(error), remedy, about)
            continue
        name, version, digest, synthetic = bundle.identity
        note = "; SYNTHETIC - NOT FOR CLINICAL USE" if synthetic else ""
        yield Finding("bundle.files", True, f"{name} {version}, sha256 {digest[:16]}{note}", about=about)
        if digest in tried:
            continue
        tried.add(digest)
        if isinstance(jobs, NotStarted):
            text, remedy = f"the golden case waits ({jobs})", REASONS[FailureReason.JOB_NOT_STARTED].remedy
            yield Finding("bundle.golden_case", False, text, remedy, about)
            continue
        try:
            yield Finding(
                "bundle.golden_case", True, job.verify_golden(bundle, jobs).removeprefix("golden case: "), about=about
            )
        except StageError as error:
            yield Finding("bundle.golden_case", False, str(error), error.hint, about)


def _language(settings: Settings) -> Finding:
    """Whether the reports can be drawn in their language, and whether anybody has read its translation."""
    voice = speaker(settings.report.language)
    try:
        fonts.check(voice.code)
    except fonts.FontMissing as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("report.language", False, what, remedy)
    if voice.reviewed:
        return Finding("report.language", True, voice.name)
    said = f"{voice.name}, translated by machine: no clinician who speaks it has reviewed it"
    return Finding("report.language", True, said)


def _patterns(settings: Settings) -> Finding:
    try:
        for plan in (settings.plan, *(rule.plan for rule in settings.rules)):
            candidates.choose((), plan)
    except ConfigError as error:
        return Finding("plan.patterns", False, str(error), "correct [plan] roi_name_patterns and roi_exclude_patterns")
    return Finding("plan.patterns", True, ", ".join(settings.plan.roi_name_patterns))


def _rules(settings: Settings) -> Iterator[Finding]:
    if settings.rules:
        said = [
            f"{rule.name} ({', '.join(rule.calling_ae_titles)}{', shadow' if rule.shadow else ''})"
            for rule in settings.rules
        ]
        if not any(ANY in rule.calling_ae_titles for rule in settings.rules):
            said.append("all others: as without rules")
        yield Finding("rules", True, f"in this order: {'; '.join(said)}")


def _clinical(settings: Settings) -> Iterator[Finding]:
    """Where clinical values come from: the mapping of codes, the site's table, FHIR servers."""
    try:
        codes = clinical_codes.load(settings.clinical.codes)
        yield Finding("clinical.codes", True, f"{len(codes.variables)} variables")
    except ConfigError as error:
        yield Finding("clinical.codes", False, str(error), "correct [clinical] codes")
    looks: list[tuple[str, str, Callable[[], str]]] = [
        ("fhir.server", server.name, partial(fhir_in.look, server)) for server in settings.fhir_servers
    ]
    if settings.clinical.table is not None:
        looks.insert(0, ("clinical.table", "", lambda: _table(settings)))
    for identifier, about, look in looks:
        try:
            yield Finding(identifier, True, look(), about=about)
        except StageError as error:
            yield Finding(identifier, False, str(error), error.hint, about)


def _hl7_listener(settings: Settings) -> Iterator[Finding]:
    if settings.hl7.listen:
        try:
            encrypted = hl7_in.server_context(settings.hl7) is not None
        except ConfigError as error:
            yield Finding("hl7.listener", False, str(error), "correct the files in [hl7]")
        else:
            where = f"{settings.hl7.host}:{settings.hl7.port}"
            yield Finding("hl7.listener", True, f"{'MLLPS' if encrypted else 'MLLP, in clear'} on {where}")


def _table(settings: Settings) -> str:
    clinical_table.check(settings.clinical)
    return f"{settings.clinical.table} can be read"


def _secrets(settings: Settings) -> Iterator[Finding]:
    """Tokens, passwords and private keys: in files that nobody else can read."""
    files = sorted(set(_secret_files(settings)))
    wrong = 0
    for path in files:
        try:
            secrets.secret_file(path)
        except ConfigError as error:
            wrong += 1
            text, _, remedy = str(error).partition("; ")
            yield Finding("secrets.file", False, text, remedy)
    if files and not wrong:
        yield Finding("secrets.files", True, f"{len(files)} file{'' if len(files) == 1 else 's'}, read by nobody else")


def _secret_files(settings: Any) -> Iterator[Path]:
    """Every setting that names a file with a secret."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in ("private_key", "client_secret_file", "token_file") and value is not None:
            yield value
        for each in value if isinstance(value, tuple) else (value,):
            if is_dataclass(each):
                yield from _secret_files(each)


def _collector(settings: Settings) -> Iterator[Finding]:
    """The collector of audit messages, where one is configured."""
    syslog = settings.audit.syslog
    if syslog.host:
        why = syslog_out.why_unreachable(settings)
        remedy = (
            "correct [audit.syslog], or start the collector; until then the messages wait in the spool" if why else ""
        )
        yield Finding(
            "audit.collector", not why, f"{syslog.host}:{syslog.port} {why or 'takes TLS connections'}", remedy
        )


def _isolation(settings: Settings, found: Executor | NotStarted) -> Finding:
    if isinstance(found, NotStarted):
        return Finding("job.isolation", False, f"no job can be started: {found}", "see [job] executor in the settings")
    well = not found.missing or settings.job.isolation == "preferred"
    remedy = (
        "give the unit prognode-job@ the limits of [job] in the settings (docs/deployment.md, Jobs as units)"
        if settings.job.executor == "systemd"
        else "install bubblewrap and libseccomp2, run the service as a user of its own, allow it namespaces"
    )
    return Finding(
        "job.isolation",
        well,
        f"{found.text}; memory {settings.job.memory_bytes / 1e9:.0f} GB, {settings.job.wall_clock_seconds:.0f} s",
        "" if well else remedy,
    )
