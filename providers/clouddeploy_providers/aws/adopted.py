"""An instance that exists already and is named in the deploy file: used as it is, never changed, never deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.aws import instances
from clouddeploy_providers.errors import InvalidRequest
from clouddeploy_providers.reach import JUMP, REACHED, check_login, inside, jump_outputs
from clouddeploy_providers.resources import Check, Kind, ResourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clouddeploy_providers.endpoints import SshEndpoint

SSH_PORT = "22"


def require_settings(settings: Mapping[str, str]) -> None:
    """Refuses an adopted machine without what it is reached by.

    Raises:
        InvalidRequest: names every setting that is missing.
    """
    missing = [key for key in REACHED if not settings.get(key)]
    if missing:
        raise InvalidRequest(
            f"the machine {settings['machine_id']} lacks {', '.join(missing)}",
            why="it was not made here, so its account, its key and its host key are not known",
            hint="add them in the deploy file; `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints `SHA256:…`",
        )
    check_login(settings, f"the machine {settings['machine_id']}")
    jump_outputs(settings, f"the machine {settings['machine_id']}")


def ref_of(settings: Mapping[str, str], name: str) -> ResourceRef:
    """Returns the machine's reference as the settings alone know it."""
    reach = {key: settings[key] for key in REACHED} | jump_outputs(settings, settings["machine_id"])
    return ResourceRef(Kind.MACHINE, name, settings["machine_id"], {**reach, "ssh_port": SSH_PORT}, is_adopted=True)


def read(ec2: Any, ref: ResourceRef, *, instead: SshEndpoint | None) -> ResourceRef | None:
    """Returns the machine as EC2 sees it; None when it does not exist any more.

    Args:
        ec2: the client.
        ref: what the settings or the last run said.
        instead: the host that a rehearsal has put in its place, since an emulated account has no instances of others.
    """
    if instead is not None:
        outputs = {
            "address": instead.address,
            "private_address": instead.address,
            "ssh_port": str(instead.port),
            "user": instead.user,
            "identity_file": instead.identity_file,
            "host_key": instead.host_key,
            "power": "running",
        }
        return replace(ref, outputs=outputs)
    instance = instances.read(ec2, ref.id)
    if instance is None:
        return None
    return replace(ref, outputs={**inside(instances.ref_of(instance).outputs, ref.outputs), **_kept(ref)})


def check(ref: ResourceRef | None, machine_id: str) -> list[Check]:
    """Reports a machine that does not exist or does not run; starting it would be a change."""
    if ref is None:
        problem = f"there is no instance {machine_id} here, or it is terminated"
        return [Check("machine", ok=False, problem=problem, hint="correct `machine_id` or `region`")]
    if ref.outputs["power"] != "running":
        hint = "start it; it was here before the deployment, so it is never changed"
        return [Check("machine", ok=False, problem=f"the instance {machine_id} is stopped", hint=hint)]
    return []


def _kept(ref: ResourceRef) -> dict[str, str]:
    """Returns those outputs that only the deploy file knows."""
    return {key: ref.outputs[key] for key in (*REACHED, *JUMP, "ssh_port") if key in ref.outputs}
