"""The command line of a site: run it, check its kit, and get a kit without the private key ever leaving it."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clouddeploy_runtime.errors import ClouddeployError, ExitCode, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouddeploy_runtime.kit import Kit
    from clouddeploy_runtime.preflight.findings import Report

log = logging.getLogger(__name__)

_RUN = {
    "server": "run the federation's server",
    "client": "run the agent of a site",
    "relay": "run a relay between the server and some clients",
}
# Imports stand in the functions, so that --help answers at once and checking a kit needs no grpc.
# ruff: noqa: PLC0415


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse a command line with our exit code: argparse's own, 2, means a failed connection here."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.BAD_INPUT, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="clouddeploy-runtime", description="Runs one site of a federation.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def kit(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("kit", type=Path, metavar="KIT", help="the folder that holds startup/ and local/")

    for name, text in _RUN.items():
        sub = command(name, text)
        kit(sub)
        sub.add_argument("--workspace", type=Path, help="folder for jobs, logs and status; default: <KIT>/workspace")
    works = "where the site works; default: as for start.sh"
    verify = command("verify", "check that a startup kit is as it was signed")
    kit(verify)
    verify.add_argument("--workspace", type=Path, help=works)
    audit = command("audit", "check that an audit log is whole, with what was set aside of it")
    audit.add_argument("action", choices=("verify",))
    audit.add_argument("files", type=Path, nargs="+", metavar="FILE", help="an audit.jsonl")
    audit.add_argument("--known-hash", default="", help="hash of an entry that has to be in it")
    audit.add_argument("--part", action="store_true", help="what was set aside before is elsewhere")
    preflight = command("preflight", "check a startup kit, this machine and the way to the server; changes nothing")
    named = preflight.add_mutually_exclusive_group(required=True)
    named.add_argument("kit", type=Path, nargs="?", metavar="KIT", help="the folder that holds startup/ and local/")
    named.add_argument("-p", "--package-path", "--package_path", type=Path, metavar="KIT", help="the same")
    preflight.add_argument("--workspace", type=Path, help=works)
    preflight.add_argument("--offline", action="store_true", help="connect to nobody")
    preflight.add_argument("--output", choices=("text", "json"), default="text", help="form of the result")
    preflight.add_argument("-v", "--verbose", action="store_true", help="tell what was seen where all is well, too")
    request = command("request", "make a private key here and a request for its certificate, for the project admin")
    for name, text in (
        ("--project", "the project's name"),
        ("--name", "of the participant"),
        ("--org", "organisation"),
    ):
        request.add_argument(name, required=True, help=text)
    request.add_argument("--type", choices=("client", "server", "admin"), default="client", help="of the participant")
    request.add_argument("--role", default="", help="of an admin: org_admin, lead or member")
    request.add_argument("--host-name", action="append", default=[], help="of a server: further name or address")
    request.add_argument("--out", type=Path, default=Path(), help="gets the folder <name>; default: here")
    request.add_argument("--key-algorithm", choices=("ecdsa-p256", "rsa-2048"), default="ecdsa-p256")
    request.add_argument("--force", action="store_true", help="throw an earlier request and its key away")
    package = command("package", "make the startup kit from what the project admin approved")
    package.add_argument("signed_zip", type=Path, metavar="SIGNED.zip")
    package.add_argument("-w", "--workspace", type=Path, default=Path("workspace"), help="where the kit goes")
    package.add_argument("--request-dir", type=Path, help="the folder that `request` made; default: ./<name>")
    package.add_argument(
        "--fingerprint", "--expected-fingerprint", help="of the project's root certificate, told by another way"
    )
    package.add_argument("--trust-on-first-use", action="store_true", help="accept whatever root the archive brings")
    package.add_argument("--force", action="store_true", help="replace a kit that is there already")
    return parser


def _run(given: Any) -> int:
    if given.command in _RUN:
        return _serve(given.command, given.kit, given.workspace)
    if given.command == "verify":
        _verify(given.kit, given.workspace)
    elif given.command == "audit":
        _audit(given)
    elif given.command == "preflight":
        return _preflight(given)
    elif given.command == "request":
        _request(given)
    else:
        _package(given)
    return ExitCode.OK


def _verify(folder: Path, workspace: Path | None) -> None:
    from datetime import UTC, datetime

    from clouddeploy_runtime import expiry
    from clouddeploy_runtime import kit as kits
    from clouddeploy_runtime.kit import memory
    from clouddeploy_runtime.kit.kit import certificate

    kits.verify(folder)  # first: what nobody signed is not parsed either
    kit = kits.load(folder)
    memory.check(kit, workspace)
    sys.stdout.write(f"The kit of {kit.name} (project {kit.project}) is as it was signed.\n")
    notice = expiry.notice("Its certificate", certificate(kit.cert_file).not_valid_after_utc, datetime.now(UTC))
    if notice is not None:
        sys.stderr.write(f"Warning: {notice.text}\n")


def _audit(given: Any) -> None:
    from clouddeploy_runtime import audit_chain

    for file in given.files:
        found = audit_chain.verify(file, known=given.known_hash, is_part=given.part)
        sys.stdout.write(f"{file}: {found.entries} entries, the chain is whole. Last hash: {found.last_hash}\n")


def _preflight(given: Any) -> int:
    from clouddeploy_runtime.preflight import package, text

    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # what it would write to the terminal is a line of the table
    report: Report | None = None
    refusal: ClouddeployError | None = None
    try:
        folder = given.kit if given.kit is not None else given.package_path
        report = package.check(folder, workspace=given.workspace, offline=given.offline)
        refusal = report.refusal
    except ClouddeployError as exc:
        refusal = exc
    if given.output == "json":
        sys.stdout.write(text.envelope(report, refusal) + "\n")
        return refusal.exit_code if refusal is not None else ExitCode.OK
    if report is not None:
        sys.stdout.write(text.table(report, is_verbose=given.verbose) + "\n")
    if refusal is not None:
        raise refusal
    return ExitCode.OK


def _serve(command: str, folder: Path, workspace: Path | None) -> int:
    from clouddeploy_runtime import kit as kits

    kits.verify(folder)
    kit = kits.load(folder)
    if kit.kind != command:
        raise kits.KitError(
            f"{folder} is the kit of a {kit.kind}", why=f"a {command} was asked for", hint=f"Run `{kit.kind}`."
        )
    # Job processes are started with vfork and exec; gRPC's fork handlers would only write warnings.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # What the site has installed for jobs beforehand; this process has it from nowhere, since it runs nobody's code.
    os.environ.setdefault("CLOUDDEPLOY_CUSTOM_PATH", f"/local/custom:{(kit.local / 'custom').resolve()}")
    from clouddeploy_runtime import heap

    heap.use_one_arena()
    if command == "server":
        from clouddeploy_runtime import handshakes

        handshakes.watch()
    else:
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

    from clouddeploy_runtime import lifecycle
    from clouddeploy_runtime import logging as runtime_logging

    place = workspace if workspace is not None else folder / "workspace"
    with lifecycle.only_one(place):
        faulthandler.enable(sys.stderr)
        runtime_logging.configure(place, kit.local)
        try:
            return _run_parent(command, kit, place.resolve())
        except lifecycle.RestartRequested as exc:
            log.info("%s: %s", exc.what, exc.why)
            return lifecycle.RESTART_STATUS
        except ClouddeployError as exc:
            log.error("The %s ends: %s", command, exc)  # noqa: TRY400 - a message for people
            raise
        except Exception:
            log.critical("A defect ended the %s", command, exc_info=True)
            raise


def _run_parent(command: str, kit: Kit, place: Path) -> int:
    import asyncio

    if command == "server":
        from clouddeploy_runtime.server.parent import serve as run_server

        asyncio.run(run_server(kit, place))
    elif command == "relay":
        from clouddeploy_runtime.relay.parent import serve as run_relay

        asyncio.run(run_relay(kit, place))
    else:
        from clouddeploy_runtime.client.agent import serve as run_client

        asyncio.run(run_client(kit, place))
    return ExitCode.OK


def _request(given: Any) -> None:
    from clouddeploy_runtime import keys
    from clouddeploy_runtime.enrolment import formats, request

    site = formats.Site(
        project=given.project,
        name=given.name,
        org=given.org,
        type=given.type,
        role=given.role,
        host_names=tuple(given.host_name),
    )
    made = request.make(site, given.out, algorithm=keys.KeyAlgorithm(given.key_algorithm), force=given.force)
    sys.stdout.write(
        f"Send {made.archive} to the project admin; keep {made.folder}, the private key in it is yours alone.\n"
        f"SHA-256 of its public key, which the project admin sees too: {made.public_key_sha256}\n"
    )


def _package(given: Any) -> None:
    from clouddeploy_runtime.enrolment import packaging

    made = packaging.package(
        given.signed_zip,
        given.workspace,
        request_dir=given.request_dir,
        expected_fingerprint=given.fingerprint,
        trust_on_first_use=given.trust_on_first_use,
        force=given.force,
    )
    sys.stdout.write(f"The kit of {made.name} is in {made.kit}; its root certificate has {made.rootca_fingerprint}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the one place that turns errors into a message and an exit code."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except ClouddeployError as exc:
        for part in (f"Error: {exc.what}", f"  Why: {exc.why}", f"  Hint: {exc.hint}"):
            if not part.endswith(": "):
                sys.stderr.write(printable(part) + "\n")
        return exc.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as exc:  # the process's edge
        log.debug("A defect ended the process", exc_info=True)
        sys.stderr.write(f"Error: {type(exc).__name__}: {exc}\n  Why: a defect of this program\n")
        sys.stderr.write("  Hint: please report it, with log.txt\n")
        return ExitCode.INTERNAL
