"""Every code that a preflight may report: how bad it is, what it means, what to do; docs/preflight.md has it."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Level(StrEnum):
    """How bad it is."""

    FAIL = "fail"
    WARN = "warn"


class Meaning(NamedTuple):
    """One code."""

    level: Level
    text: str
    """What it means."""
    remedy: str
    """What to do."""


_PORT = "Please check the DNS and port."
_PERMISSION = "Please check the user permission."
_UP = "Please check if server is up."
_NEW = "Please download a new package."
_ASK = "Ask the project admin for a new kit."
_ALIKE = "Provision both kits with the same connection_security."
_CLOCK = "Set the clock of this machine, or of the server."


def _fail(text: str, remedy: str) -> Meaning:
    return Meaning(Level.FAIL, text, remedy)


def _warn(text: str, remedy: str) -> Meaning:
    return Meaning(Level.WARN, text, remedy)


CODES: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        # the kit
        "KIT_TAMPERED": _fail(
            "a file of startup/ is not the one that the project signed",
            "Do not start it: get the kit again from the project admin, over a channel you trust.",
        ),
        "KIT_UNUSABLE": _fail("a file of the kit is missing or cannot be read", _NEW),
        "CHECK_BROKE": _fail("a check could not be made, since the kit is not as it should be", _NEW),
        "KEY_PERMISSIONS": _fail(
            "others than its owner may touch the private key", "chmod 600 the key, and ask who read it."
        ),
        "KEY_UNREADABLE": _fail("the private key is missing or is no key", _NEW),
        "KEY_MISMATCH": _fail(
            "the private key is not that of the certificate", "Put the key back that the request was made with."
        ),
        "CERT_FOREIGN": _fail("the certificate was not issued by the kit's root certificate", _NEW),
        "KIT_EXPIRED": _fail("the certificate's time is over", _ASK),
        "KIT_NOT_YET_VALID": _fail("the certificate's time has not begun", "Set this machine's clock."),
        "CERT_EXPIRES_SOON": _warn("the certificate ends within 30 days", _ASK),
        "CERT_EXPIRES_THIS_WEEK": _warn("the certificate ends within 7 days", _ASK),
        "ROOT_EXPIRED": _fail("the root certificate's time is over", _ASK),
        "ROOT_NOT_YET_VALID": _fail("the root certificate's time has not begun", "Set this machine's clock."),
        "ROOT_EXPIRES_SOON": _warn("the root certificate ends within 30 days", _ASK),
        "ROOT_EXPIRES_THIS_WEEK": _warn("the root certificate ends within 7 days", _ASK),
        "KIT_REVOKED": _fail("the certificate was revoked", _ASK),
        "KIT_REPLACED": _fail("a newer kit of this participant has been in use here", "Use the newest kit."),
        "CRL_UNUSABLE": _fail(
            "the list of revoked certificates is missing, too old, or not the project's",
            "Get local/crl.pem from the project admin.",
        ),
        "NAME_NOT_IN_CERT": _fail("the server's certificate lacks the name that clients check", _ASK),
        "ADDRESS_NOT_IN_CERT": _warn(
            "the server's certificate lacks its address; our clients check the name, other tools the address",
            "Add the address to the participant's host_names and provision again.",
        ),
        "SECURITY_UNKNOWN": _fail(
            "connection_security is none that there is", "Change the project file and provision again."
        ),
        "CONNECTION_CLEAR": _warn(
            "nothing is encrypted: everybody on the way can read and change it", "Provision with mtls or tls."
        ),
        "CLEAR_NOT_ALLOWED": _fail(
            "the server does not start without TLS unless this machine allows it",
            'Where a proxy or a tunnel encrypts, put "allow_clear": true into local/comm_config.json.',
        ),
        # local/
        "BAD_SETTINGS": _fail("local/resources.json or local/comm_config.json cannot be used", "Correct the file."),
        "SETTINGS_MISSING": _warn(
            "local/ has no resources.json; the usual values count", "Put local/resources.json.default back."
        ),
        "POLICY_MISSING": _fail(
            "local/ has no authorization.json, so everything is refused", "Put local/authorization.json.default back."
        ),
        "POLICY_BAD": _fail("local/authorization.json cannot be used, so everything is refused", "Correct the file."),
        "PRIVACY_BAD": _fail("local/privacy.json cannot be used, so all jobs are refused", "Correct the file."),
        "BAD_LAUNCHER": _fail("jobs cannot be started as local/resources.json says", "Correct the launcher in it."),
        # the machine
        "PYTHON_VERSION": _fail("Python is older than the runtime needs", "Install a newer Python."),
        "PACKAGE_MISSING": _fail("a package that the runtime needs is missing", "Install clouddeploy-runtime again."),
        "PACKAGE_VERSION": _warn(
            "a package has another version than the runtime asks for", "Install clouddeploy-runtime again."
        ),
        "PORT_UNAVAILABLE": _fail("a port cannot be listened on", _PORT),
        "ADMIN_PORT_UNAVAILABLE": _warn(
            "the kit's own admin port is taken; people come in over the FL port here, so only other programs miss it",
            _PORT,
        ),
        "STORAGE_UNWRITABLE": _fail("a folder for jobs cannot be written", _PERMISSION),
        "WORKSPACE_UNUSABLE": _fail("the folder for jobs, logs and status cannot be written", _PERMISSION),
        "DISK_FULL": _fail("less than 64 MiB or no more files are free where the site works", "Make room."),
        "DISK_LOW": _warn("less than 1 GiB is free where the site works", "Make room."),
        "TEMPORARY_FOLDER_REFUSED": _fail(
            "tensors are to be kept on disk, and the temporary folder is no place for them",
            "Set TMPDIR to a folder on a disk with room for the tensors.",
        ),
        "TEMPORARY_FOLDER_POOR": _warn(
            "tensors beyond the memory budget may find no room in the temporary folder",
            "Set TMPDIR to a folder on a disk with room for the tensors.",
        ),
        "GPUS_MISSING": _warn(
            "the site offers more GPUs than can be used", "See nvidia-smi -L, and num_of_gpus in local/resources.json."
        ),
        "NOT_CONFINED": _warn(
            "jobs can read and change what this user can",
            "Run on a kernel with Landlock (Linux 5.13), and leave `confine` of the launcher on.",
        ),
        # the way to the server
        "NAME_UNKNOWN": _fail("the server's name does not exist", "Please check the DNS, or local/endpoint.json."),
        "RESOLVER_SILENT": _fail("the resolver does not answer", "Please check the DNS of this machine."),
        "SERVER_REFUSES": _fail("nobody listens at the server's port", _UP),
        "SERVER_SILENT": _fail("nothing answers at the server's address: it is off, or a firewall is in between", _UP),
        "SERVER_NO_ROUTE": _fail("there is no way to the server's address", _UP),
        "ADDRESS_UNREACHABLE": _warn(
            "one of the addresses of the server's name does not answer, another does", "Take it out of the DNS."
        ),
        "PROXY_FAILED": _fail(
            "the HTTP proxy does not answer or does not lead to the server",
            "Correct `proxy` in local/comm_config.json, or http_proxy and no_proxy.",
        ),
        "CONNECTION_BROKEN": _fail("the connection to the server breaks", "Please check if a firewall is in between."),
        "TLS_NOT_SPOKEN": _fail("what answers does not speak TLS", _ALIKE),
        "TLS_UNEXPECTED": _fail("the server speaks TLS, and the kit is for none", _ALIKE),
        "MTLS_DEMANDED": _fail("the server demands a certificate in TLS, and the kit shows none", _ALIKE),
        "SERVER_FOREIGN": _fail("the server's certificate is of another authority", "Use the kit of this project."),
        "SERVER_EXPIRED": _fail("the server's certificate's time is over", "Renew the server's kit."),
        "SERVER_NOT_YET_VALID": _fail("the server's certificate's time has not begun", _CLOCK),
        "SERVER_NAME_WRONG": _fail("the server's certificate is for another name", "Check the address in the kit."),
        "SERVER_UNREADABLE": _fail("the server's certificate cannot be read", "Check the address in the kit."),
        "CERT_REFUSED": _fail("the server refuses the kit's certificate", _ASK),
        "SERVER_NOT_PROVEN": _fail(
            "what answers cannot prove that it is the project's server", "Ask the project admin before you go on."
        ),
        "SERVER_REVOKED": _fail("the server's certificate was revoked", "Ask the project admin before you go on."),
        "CLOCK_OFF": _warn("this clock and the server's differ by more than 60 s", _CLOCK),
        "CLOCK_WRONG": _fail("this clock and the server's differ by more than 300 s", _CLOCK),
        # all together
        "CANNOT_LOAD": _fail("the program cannot be loaded", "Please check the error message of dry run."),
    }
)
