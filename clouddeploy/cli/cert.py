"""`cert …` and `package`: certificates, their life cycle, and kits of sites that keep their own key."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from clouddeploy_provision import approval, certificate_authority, certificates, reference_state, site_file
from clouddeploy_provision import project as project_file
from clouddeploy_provision.certificate_authority import Phase
from clouddeploy_provision.drafts import Renewal
from clouddeploy_provision.provisioner import Options
from clouddeploy_provision.provisioner import provision as make_kits
from clouddeploy_runtime import keys
from clouddeploy_runtime import kit as kits
from clouddeploy_runtime.enrolment import packaging
from clouddeploy_runtime.enrolment import request as requests
from clouddeploy_runtime.errors import ClouddeployError

from clouddeploy.cli.authority import DEFAULT_WORKSPACE, ca_option, folder_of, passphrase, passphrase_options
from clouddeploy.cli.main import CommandGroup, command_options
from clouddeploy.errors import ConfigError, PartialFailure

if TYPE_CHECKING:
    from clouddeploy_provision.certificate_authority import CertificateStatus

    from clouddeploy.cli.main import Session

_FILE = click.Path(path_type=Path)
_ALGORITHM = click.option(
    "--key-algorithm",
    type=click.Choice([one.value for one in keys.KeyAlgorithm]),
    default="ecdsa-p256",
    help="Of the key.",
)

_TIMEOUT = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the running server.",
)


@click.group(cls=CommandGroup)
def cert() -> None:
    """Certificates: what expires when, renewal, revocation, and requests of sites that keep their own key."""


@cert.command("init")
@click.option("--profile", type=_FILE, required=True, help="The project's profile: name, server, scheme.")
@click.option("-o", "--output-dir", "out", type=_FILE, required=True, help="Where the authority is kept.")
@click.option("--org", default="", help="The organisation that runs it.")
@click.option(
    "--valid-days", "days", type=click.IntRange(1, 36_500), default=certificates.ROOT_DAYS, help="Of the root."
)
@click.option("--deploy-version", "version", default="00", help="Number of the prod_NN folder of its kits.")
@click.option("--force", is_flag=True, help="Replace an authority of another version; the old one is kept aside.")
@_ALGORITHM
@passphrase_options
@command_options
def init(session: Session, profile: Path, out: Path, key_algorithm: str, **given: Any) -> None:
    """Start a certificate authority whose kits are made from requests."""
    read = approval.read_profile(profile)
    secret = passphrase(session, given, folder=out, is_new=True)
    made = certificate_authority.init(read, out, passphrase=secret, algorithm=keys.KeyAlgorithm(key_algorithm), **given)
    root = certificate_authority.require(out).certificate()
    data = {
        "ca_cert": str(out / "rootCA.pem"),
        "project": made.project,
        "provision_version": made.provision_version,
        "rootca_fingerprint_sha256": made.rootCA_fingerprint,
        "subject_cn": made.project,
        "valid_until": root.not_valid_after_utc.isoformat(),
        "project_profile": msgspec.to_builtins(made.project_profile),
    }
    text = f"The authority of {made.project} is in {out}.\nFingerprint of its root: {made.rootCA_fingerprint}"
    session.output.result(data, text)


@cert.command("request")
@click.option(
    "-p", "--participant", "file", type=_FILE, required=True, help="Project-shaped file with one participant."
)
@click.option("--out", type=_FILE, default=Path(), help="Gets the folder <name>; default: here.")
@click.option("--force", is_flag=True, help="Throw an earlier request and its private key away.")
@_ALGORITHM
@command_options
def request(session: Session, file: Path, out: Path, force: bool, key_algorithm: str) -> None:
    """Make a private key here and a request for its certificate."""
    site = site_file.read(file)
    made = requests.make(site, out, algorithm=keys.KeyAlgorithm(key_algorithm), force=force)
    data = {
        "request_dir": str(made.folder),
        "request_zip": str(made.archive),
        "request_id": made.request_id,
        "public_key_sha256": made.public_key_sha256,
    }
    text = f"Send {made.archive} to the project admin; keep {made.folder}, the private key in it is yours alone."
    session.output.result(data, text)


@cert.command("approve")
@click.argument("request_zip", type=_FILE)
@ca_option
@click.option("--profile", type=_FILE, help="The project's profile; default: what the authority knows.")
@click.option("--out", type=_FILE, help="Folder of the answer; default: beside the request.")
@click.option(
    "--valid-days", "days", type=click.IntRange(1, 36_500), default=approval.APPROVED_DAYS, help="Of the certificate."
)
@click.option("--force", is_flag=True, help="Approve although the name has a valid certificate.")
@passphrase_options
@command_options
def approve(session: Session, request_zip: Path, ca: Path | None, profile: Path | None, **given: Any) -> None:
    """Answer a site's request with a signed kit that lacks only the site's key."""
    folder = folder_of(ca)
    read = approval.read_profile(profile) if profile is not None else None
    secret = passphrase(session, given, folder=folder)
    made = approval.approve(request_zip, folder, passphrase=secret, profile=read, **given)
    data = {
        "signed_zip": str(made.archive),
        "name": made.name,
        "kind": made.kind,
        "org": made.org,
        "role": made.role,
        "serial": made.serial,
        "valid_until": made.not_after.isoformat(),
        "host_names": list(made.host_names),
        "public_key_sha256": made.public_key_sha256,
        "rootca_fingerprint_sha256": made.rootca_fingerprint,
    }
    names = f", also {', '.join(made.host_names)}," if made.host_names else ""
    text = (
        f"Approved {made.kind} {made.name}{names} of {made.org} until {made.not_after:%Y-%m-%d}: send {made.archive}.\n"
        f"Its key has SHA-256 {made.public_key_sha256}; the site's request printed the same.\n"
        f"Tell the site this fingerprint by another way: {made.rootca_fingerprint}"
    )
    session.output.result(data, text)


@cert.command("list")
@ca_option
@click.option("--expiring", type=click.IntRange(0), help="Only what ends within this many days.")
@command_options
def listing(session: Session, ca: Path | None, expiring: int | None) -> None:
    """Show every certificate, what ends first first."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - only here

    found = certificate_authority.listing(folder_of(ca))
    if expiring is not None:
        end = datetime.now(UTC) + timedelta(days=expiring)
        found = [one for one in found if one.not_after <= end and one.state not in {"revoked", "replaced"}]
    data = [{**asdict(one), "not_after": one.not_after.isoformat()} for one in found]
    session.output.result({"certificates": data}, _table(found))


@cert.command("renew")
@click.argument("names", nargs=-1, required=True)
@click.option("-p", "--project-file", "--project_file", "file", type=_FILE, required=True, help="The project file.")
@click.option("-w", "--workspace", type=_FILE, default=DEFAULT_WORKSPACE, help="Where results go.")
@click.option("--new-key", is_flag=True, help="Make a new private key too.")
@click.option("-c", "--custom-folder", "--custom_folder", "custom", type=_FILE, default=Path(), help="Own builders.")
@passphrase_options
@command_options
def renew(  # noqa: PLR0917 - click gives them by name
    session: Session, names: tuple[str, ...], file: Path, workspace: Path, new_key: bool, custom: Path, **given: Any
) -> None:
    """Make the certificates of participants anew, in a new result; all other kits stay as they are."""
    from clouddeploy_provision.builders.catalogue import Custom  # noqa: PLC0415 - only here

    project = project_file.load(file, custom=Custom(custom))
    folder = workspace / project.name / "state"
    secret = passphrase(session, given, folder=certificate_authority.require(folder).folder)
    options = Options(custom=Custom(custom), renewal=Renewal(frozenset(names), new_key))
    report = make_kits(project, workspace, passphrase=secret, options=options)
    data = {"result": str(report.result), "created": list(report.created), "reissued": list(report.reissued)}
    text = f"New kits of {', '.join(names)} are in {report.result}; their old certificates stay valid until they end."
    session.output.result(data, text)


@cert.command("revoke")
@click.argument("names", nargs=-1, required=True)
@ca_option
@click.option("--reason", type=click.Choice(sorted(certificates.REASONS)), default="unspecified", help="Why.")
@click.option("--serial", help="Only the certificate with this serial number, of one participant.")
@click.option("--admin-kit", type=_FILE, help="Tell the running server at once, with this admin's kit.")
@_TIMEOUT
@passphrase_options
@command_options
def revoke(
    session: Session, names: tuple[str, ...], ca: Path | None, serial: str | None, admin_kit: Path | None, **given: Any
) -> None:
    """Revoke every valid certificate of participants."""
    if serial is not None and len(names) != 1:
        raise ConfigError("--serial goes with one name", why=f"{len(names)} were given", hint="revoke one by one")
    folder = folder_of(ca)
    if admin_kit is not None:
        _check_admin(admin_kit)  # before anything is revoked
    secret, timeout_s = passphrase(session, given, folder=folder), given.pop("timeout_s")
    crl = certificate_authority.revoke(folder, names, passphrase=secret, serial=serial, **given)
    is_pushed = _push_revocation(admin_kit, crl, names, timeout_s) if admin_kit is not None else False
    path = folder / "crl.pem"
    after = (
        "The server has it and tells every site."
        if is_pushed
        else f"It takes effect when the server has {path}: with --admin-kit, as local/crl.pem of its kit, or by apply."
    )
    session.output.result(
        {"revoked": list(names), "crl": str(path), "pushed": is_pushed}, f"Revoked {', '.join(names)}. {after}"
    )


@cert.command("push-crl")
@ca_option
@click.option("--admin-kit", type=_FILE, required=True, help="Kit of an admin.")
@_TIMEOUT
@command_options
def push_crl(session: Session, ca: Path | None, admin_kit: Path, timeout_s: float) -> None:
    """Bring the running server the list of revoked certificates."""
    folder = folder_of(ca)
    crl = certificate_authority.signed_list(folder)
    _check_admin(admin_kit)
    is_newer = _push(admin_kit, crl, timeout_s)
    text = "The server has it and tells every site." if is_newer else "The server had it already."
    session.output.result({"crl": str(folder / "crl.pem"), "pushed": is_newer}, text)


@cert.command("rollover")
@click.argument("phase", type=click.Choice([one.value for one in Phase]))
@ca_option
@passphrase_options
@command_options
def rollover(session: Session, phase: str, ca: Path | None, **given: Any) -> None:
    """Exchange the root certificate: start, switch, finish; provision and hand out kits after each."""
    folder = folder_of(ca)
    secret = passphrase(session, given, folder=folder)
    mark = certificate_authority.rollover(folder, Phase(phase), passphrase=secret)
    text = f"Done: {phase}. The root that signs now has {mark}.\nNow provision, and hand out every kit first."
    session.output.result({"phase": phase, "rootca_fingerprint_sha256": mark}, text)


@cert.command("import")
@click.argument("file", type=_FILE)
@click.option("-o", "--output-dir", "out", type=_FILE, help="Of the new authority; default: the folder of FILE.")
@passphrase_options
@command_options
def import_(session: Session, file: Path, out: Path | None, **given: Any) -> None:
    """Take over the root certificate of the reference's state/cert.json."""
    folder = out if out is not None else file.parent
    secret = passphrase(session, given, folder=folder, is_new=True)
    count = reference_state.import_reference(file, folder, passphrase=secret)
    text = (
        f"The root of {file} is in {folder} now, encrypted; {count} certificates are known.\n"
        "The imported file still has every key in plain text: store it safely or delete it."
    )
    session.output.result({"folder": str(folder), "certificates": count}, text)


@click.command()
@click.argument("signed_zip", type=_FILE)
@click.option("-w", "--workspace", type=_FILE, default=DEFAULT_WORKSPACE, help="Where the kit goes.")
@click.option("--request-dir", type=_FILE, help="The folder that `cert request` made; default: ./<name>.")
@click.option(
    "--fingerprint", "--expected-fingerprint", "fingerprint", help="Of the project's root, told by another way."
)
@click.option("--trust-on-first-use", is_flag=True, help="Accept whatever root the archive brings.")
@click.option("--force", is_flag=True, help="Replace a kit that is there already.")
@command_options
def package(session: Session, signed_zip: Path, workspace: Path, fingerprint: str | None, **given: Any) -> None:
    """Make the startup kit from what the project admin approved and the private key that is here."""
    made = packaging.package(signed_zip, workspace, expected_fingerprint=fingerprint, **given)
    data = {
        "kit": str(made.kit),
        "project": made.project,
        "name": made.name,
        "rootca_fingerprint_sha256": made.rootca_fingerprint,
    }
    session.output.result(data, f"The kit of {made.name} is in {made.kit}; its root has {made.rootca_fingerprint}")


def _check_admin(admin_kit: Path) -> None:
    kits.verify(admin_kit)
    kind = kits.load(admin_kit).kind
    if kind is not kits.Kind.ADMIN:
        raise ConfigError(f"{admin_kit} cannot be used", why=f"it is the kit of a {kind}", hint="name an admin's kit")


def _push_revocation(admin_kit: Path, crl: bytes, names: tuple[str, ...], timeout_s: float) -> bool:
    """Brings the server a list that was just made; when that fails, says what is done already and what is not."""
    try:
        return _push(admin_kit, crl, timeout_s)
    except ClouddeployError as error:
        raise PartialFailure(
            f"{', '.join(names)} revoked, but the running server does not know of it",
            why=str(error),
            hint="bring it the list: clouddeploy cert push-crl",
        ) from error


def _push(admin_kit: Path, crl: bytes, timeout_s: float) -> bool:
    from clouddeploy_runtime.admin.session import AdminSession  # noqa: PLC0415 - only who pushes needs gRPC

    with AdminSession(kits.load(admin_kit), timeout_s=timeout_s) as admin:
        return admin.update_crl(crl)


def _table(found: list[CertificateStatus]) -> str:
    rows = [("NAME", "KIND", "ORG", "ROLE", "STATE", "UNTIL", "SERIAL")]
    rows += [
        (one.name, one.kind, one.org, one.role, one.state, f"{one.not_after:%Y-%m-%d}", one.serial) for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
