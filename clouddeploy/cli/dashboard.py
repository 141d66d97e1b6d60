"""`dashboard init | start | stop | status | reset-second-factor`."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clouddeploy.cli import dashboard_cloud
from clouddeploy.cli import dashboard_variables as variables
from clouddeploy.cli.authority import passphrase_options
from clouddeploy.cli.deploy import endpoints_option, ssh_cidr_option
from clouddeploy.cli.main import CommandGroup, command_options
from clouddeploy.errors import ConfigError
from clouddeploy.secrets import PASSPHRASE_VARIABLE, Secret, ca_passphrase

if TYPE_CHECKING:
    from collections.abc import Callable

    from clouddeploy.cli.main import Session
    from clouddeploy.dashboard.desk import Desk
    from clouddeploy.dashboard.oidc import Provider
    from clouddeploy.dashboard.process import Running

HTTPS_PORT, LOCAL_PORT = 443, 8443
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - people come from elsewhere
_PARTS = 3
_EXTRA = frozenset(
    {"sqlalchemy", "alembic", "starlette", "uvicorn", "jinja2", "argon2", "python_multipart", "pyzipper", "segno"}
)


def _folder_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "-f",
        "--folder",
        type=click.Path(path_type=Path),
        default=Path("dashboard"),
        show_default=True,
        help="Its database, certificate authority, kits and logs.",
    )(function)


def _seed_options(function: Callable[..., None]) -> Callable[..., None]:
    cred = click.option(
        "--cred",
        metavar="EMAIL:PASSWORD:ORG",
        help=f"Of the first project admin; others can see it in the list of processes, so rather set "
        f"{variables.CREDENTIAL[0]}, or answer what is asked.",
    )
    environment = click.option(
        "-e", "--env", "pairs", metavar="VAR=VALUE", multiple=True, help="Variable for the dashboard."
    )
    passphrase = click.option(
        "--passphrase",
        metavar="TEXT",
        help=f"Of the certificate authority; others can see it in the list of processes, so rather set "
        f"{PASSPHRASE_VARIABLE}, or use --passphrase-file.",
    )
    return cred(environment(passphrase(function)))


def _cloud_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--cloud", type=click.Choice(("azure", "aws")), help="On a machine of its own there."),
            click.option(
                "--open-to", "sources", multiple=True, metavar="CIDR", help="With --cloud: whose browsers reach it."
            ),
            click.option("--region", "--location", "place", help="With --cloud: where its machine is."),
            click.option("--size", help="With --cloud: the cloud's name of a machine size."),
            click.option("--name", "names", multiple=True, help="With --cloud: a name for its own certificate."),
            ssh_cidr_option,
            endpoints_option,
            click.option(
                "-y", "--yes", is_flag=True, help="With --cloud: do not ask before creating what costs money."
            ),
        )
    ):
        function = option(function)
    return function


@click.group(cls=CommandGroup)
def dashboard() -> None:
    """Invite people, approve them and their sites, and hand out kits, in a browser."""


@dashboard.command()
@_folder_option
@_seed_options
@passphrase_options
@command_options
def init(session: Session, folder: Path, **given: Any) -> None:
    """Make the dashboard's folder and its first project admin; start nothing."""
    given["secrets"] = _secret_variables(session, given.pop("pairs"))
    desk, password = _prepared(session, folder, given)
    desk.database.close()
    data = {"folder": str(folder), "password": password}
    session.output.result(data, "\n".join([f"The dashboard's folder is {folder}.", *_told_password(password)]))


@dashboard.command()
@_folder_option
@click.option("--local", "is_local", is_flag=True, help="127.0.0.1 only, without HTTPS, until Ctrl-C; to try it out.")
@click.option("--foreground", is_flag=True, help="Stay, for systemd or a container; ends with a signal.")
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), help=f"Default: {HTTPS_PORT}, with --local {LOCAL_PORT}; 0: any."
)
@click.option("--host", default=_EVERYWHERE, show_default=True, help="Address of this machine to listen on.")
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    metavar="CIDR",
    help="Proxy whose X-Forwarded-For says where a request comes from; may be repeated.",
)
@click.option(
    "--connections-per-address",
    "per_address",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Connections that one address may have at once; behind a trusted proxy, requests.",
)
@click.option(
    "--deploy-from",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder whose files a deploy file that is sent in may name; may be repeated.",
)
@_cloud_options
@_seed_options
@passphrase_options
@command_options
def start(
    session: Session,
    folder: Path,
    *,
    is_local: bool,
    foreground: bool,
    port: int | None,
    host: str,
    proxies: tuple[str, ...],
    per_address: int,
    **given: Any,
) -> None:
    """Start the dashboard, by HTTPS; the first time, make its folder."""
    given["secrets"] = _secret_variables(session, given.pop("pairs"))
    _load()
    wanted = {name: given.pop(name) for name in dashboard_cloud.OPTIONS}
    if wanted["cloud"]:
        if given.pop("deploy_from"):
            raise ConfigError("--deploy-from is refused", why="it names a folder of this machine", hint="leave it out")
        dashboard_cloud.start(session, folder, wanted, secrets=lambda: _secrets(session, folder, given))
        return
    from clouddeploy.dashboard import process  # noqa: PLC0415 - an extra, and slow to load
    from clouddeploy.dashboard.web import addresses, connections  # noqa: PLC0415

    found = process.running(folder)
    if found is not None:
        raise ConfigError("the dashboard runs already", why=found.url, hint=f"clouddeploy dashboard stop -f {folder}")
    addresses.networks(proxies)  # a mistake shows before anything is made
    provider = _provider(given["secrets"])
    desk, password = _prepared(session, folder, given)
    for line in _told_password(password):
        session.output.say(line)
    place = process.Where(
        process.LOCALHOST if is_local else host,
        _port(port, is_local=is_local),
        is_local,
        proxies,
        connections.Bounds(per_address=per_address),
    )
    if is_local or foreground:
        logging.getLogger().setLevel(logging.INFO)
        process.serve(desk, place, ready=lambda told: session.output.say(_told(told)), provider=provider)
        session.output.result({"running": False}, "The dashboard has ended.")
        return
    desk.database.close()  # a connection must not be in two processes

    def run(ready: Callable[[Running], None]) -> None:
        logging.basicConfig(level=logging.INFO, force=True, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        process.serve(desk, place, ready=ready, provider=provider)

    told = process.detached(folder, run)
    session.output.result({"running": True, **asdict(told), "password": password}, _told(told))


@dashboard.command()
@_folder_option
@command_options
def stop(session: Session, folder: Path) -> None:
    """End the dashboard of a folder."""
    _load()
    from clouddeploy.dashboard import process  # noqa: PLC0415 - an extra

    found = process.stop(folder)
    session.output.result({"running": False, "pid": found.pid}, "The dashboard has ended.")


@dashboard.command()
@_folder_option
@command_options
def status(session: Session, folder: Path) -> None:
    """Say whether the dashboard of a folder runs, and where."""
    _load()
    from clouddeploy.dashboard import process  # noqa: PLC0415 - an extra

    found = process.running(folder)
    if found is None:
        session.output.result({"running": False}, "The dashboard does not run.")
        return
    session.output.result({"running": True, **asdict(found)}, _told(found))


@dashboard.command("reset-second-factor")
@click.argument("email")
@_folder_option
@passphrase_options
@command_options
def reset_second_factor(session: Session, email: str, folder: Path, **given: Any) -> None:
    """Turn off the second factor of EMAIL, who has lost it; for who has the dashboard's folder."""
    _load()
    from clouddeploy.dashboard import logins, opening, people, second_factor  # noqa: PLC0415 - an extra

    given["secrets"] = variables.take_secrets()
    secret = _passphrase(session, folder, given)
    url = variables.first(given["secrets"], variables.DATABASE)
    desk = opening.open_desk(folder, passphrase=secret, url=url)
    try:
        with desk.visit() as visit:
            user = people.of_email(visit, email)
            second_factor.forget(visit.db, user.id)
            logins.end_all(visit.db, user.id)
            visit.note("reset_second_factor", user=user.email, detail="at the machine")
    finally:
        desk.database.close()
    session.output.result({"email": user.email}, f"{user.email} logs in with the password alone from now on.")


def _load() -> None:
    """Says what to install when the extra is missing."""
    try:
        import clouddeploy.dashboard.process  # noqa: F401, PLC0415 - whether it can be
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        hint = "pip install 'clouddeploy[dashboard]'"
        raise ConfigError("the dashboard is not installed", why=f"{error.name} is missing", hint=hint) from error


def _provider(secrets: dict[str, str]) -> Provider | None:
    """Returns who vouches for people, when the variables name somebody."""
    values = [secrets.get(name) or os.environ.get(name, "") for name in variables.OIDC]
    if not any(values):
        return None
    missing = [name for name, value in zip(variables.OIDC, values, strict=True) if not value]
    if missing:
        raise ConfigError("the login provider is not known", why=f"{', '.join(missing)} missing", hint="set all four")
    if not all(map(find_spec, ("authlib", "joserfc", "requests"))):
        raise ConfigError(
            "the login provider cannot be used", why="a package is missing", hint="pip install 'clouddeploy[oidc]'"
        )
    from clouddeploy.dashboard.oidc import Provider  # noqa: PLC0415 - an extra

    issuer, client_id, client_secret, callback = values
    return Provider(issuer, client_id, Secret(client_secret), callback)


def _secrets(session: Session, folder: Path, given: dict[str, Any]) -> tuple[str, str, str]:
    """Returns passphrase and first admin for a machine of a cloud, and the password that was made for them, if any."""
    from clouddeploy.dashboard import passwords  # noqa: PLC0415 - an extra

    passphrase = _passphrase(session, folder, given).reveal()
    cred = given.pop("cred") or variables.first(given["secrets"], variables.CREDENTIAL)
    email, password, org = _credential(session, cred)
    made = "" if password else passwords.made()
    passwords.check(password or made, email=email)
    return passphrase, f"{email}:{password or made}:{org}", made


def _prepared(session: Session, folder: Path, given: dict[str, Any]) -> tuple[Desk, str]:
    """Opens the folder, with a first admin if there is none; returns the password that was made for them, if any."""
    _load()
    from clouddeploy.dashboard import opening, passwords, people  # noqa: PLC0415 - an extra

    opening.make_folder(folder)
    secret = _passphrase(session, folder, given)
    desk = opening.open_desk(
        folder,
        passphrase=secret,
        url=variables.first(given["secrets"], variables.DATABASE),
        deploy_from=given.pop("deploy_from", ()),
    )
    cred = given.pop("cred")
    if cred:
        session.output.say(f"--cred shows the password to everybody on this machine; rather {variables.CREDENTIAL[0]}.")
    if people.has_any(desk):
        return desk, ""
    email, password, org = _credential(session, cred or variables.first(given["secrets"], variables.CREDENTIAL))
    made = "" if password else passwords.made()
    people.seed(desk, email, password or made, org)
    return desk, made


def _passphrase(session: Session, folder: Path, given: dict[str, Any]) -> Secret:
    file, use_keyring = given.pop("passphrase_file"), given.pop("keyring")
    shown = given.pop("passphrase", None)
    if shown:
        session.output.say(f"--passphrase shows it to everybody on this machine; rather {PASSPHRASE_VARIABLE}.")
        return Secret(shown)
    value = variables.first(given["secrets"], variables.PASSPHRASE) if file is None else ""
    if value:
        return Secret(value)
    return ca_passphrase(
        file=file,
        may_ask=session.may_ask,
        confirm=not list(folder.glob("workspace/*/state/rootCA.pem")),
        keyring_entry=str(folder.resolve()) if use_keyring else None,
    )


def _credential(session: Session, given: str) -> tuple[str, str, str]:
    """Returns e-mail, password and organisation of the first admin; an empty password is made."""
    if given:
        email, _, rest = given.partition(":")
        password, _, org = rest.rpartition(":")  # a password may have colons, the others have none
        if not email or not org or not password:
            raise ConfigError(
                "the first admin is not understood", why="it is not EMAIL:PASSWORD:ORG", hint="name all three"
            )
        return email, password, org
    if not session.may_ask:
        raise ConfigError(
            "there is no project admin yet",
            why="nobody can be asked who it is",
            hint=f"set {variables.CREDENTIAL[0]} to EMAIL:PASSWORD:ORG",
        )
    email = click.prompt("E-mail of the project admin", err=True)
    return email, "", click.prompt("Organisation", err=True)


def _secret_variables(session: Session, pairs: tuple[str, ...]) -> dict[str, str]:
    """Sets variables that were given as words, and takes what is secret out of the environment."""
    for name in variables.set_from(pairs):
        session.output.say(f"-e {name} shows its value to everybody on this machine; rather export it.")
    return variables.take_secrets()


def _port(given: int | None, *, is_local: bool) -> int:
    if given is not None:
        return given
    value = os.environ.get(variables.PORT, "")
    return int(value) if value.isdecimal() else LOCAL_PORT if is_local else HTTPS_PORT


def _told_password(password: str) -> list[str]:
    return [f"Password of the project admin, shown this once: {password}"] if password else []


def _told(told: Running) -> str:
    lines = [f"The dashboard is at {told.url}"]
    if told.fingerprint:
        lines.append(f"SHA-256 of its certificate: {told.fingerprint}")
    if told.is_own:
        lines.append("It signed that itself, so a browser warns: compare these numbers with the browser's.")
    if not told.fingerprint:
        lines.append("Without HTTPS, for this machine only: for development and tests.")
    return "\n".join(lines)
