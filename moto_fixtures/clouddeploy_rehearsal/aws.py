"""AWS: a moto server over HTTP whose instances are real hosts, with what moto leaves out and the engine relies on."""

from __future__ import annotations

import base64
import itertools
import os
import threading
import time
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.endpoints import AwsEndpoint

from clouddeploy_rehearsal import user_data
from clouddeploy_rehearsal.faults import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.fleet import Fleet

KEY_ID = "AKIAREHEARSAL0000000"
SECRET = "rehearsal-secret-access-key-of-no-account"  # noqa: S105 - opens nothing but this emulator
ACCOUNT = "123456789012"
IMAGE = "ami-0ub24042026amd64a"
PARAMETERS = tuple(
    f"/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id"
    for arch in ("amd64", "arm64")
)
ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>{code}</Code>'
    "<Message>{message}</Message></Error>"
    "</Errors><RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
)
PENDING, RUNNING, TERMINATED = ("pending", 0), ("running", 16), ("terminated", 48)


class AwsCloud:
    """The emulated AWS of one world; at most one at a time, since it changes moto itself."""

    def __init__(self, fleet: Fleet, faults: Faults) -> None:
        os.environ["MOTO_AMIS_PATH"] = str(resources.files("clouddeploy_rehearsal").joinpath("amis.json"))
        for name in ("ENABLE_AMI_VALIDATION", "EC2_ENABLE_INSTANCE_TYPE_VALIDATION"):
            os.environ[f"MOTO_{name}"] = "1"
        self.created = 0
        self._fleet = fleet
        self._faults = faults
        self._counter = Counter(faults)
        self._tokens: dict[str, tuple[str, Any]] = {}
        self._public = itertools.count(10)
        self._undo: list[Callable[[], None]] = []
        self._server: Any = None

    def start(self) -> AwsEndpoint:
        """Starts the server and returns how to reach it."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
        from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: PLC0415 - these take a second to import

        class Quiet(WSGIRequestHandler):
            def log(self, type: str, message: str, *args: Any) -> None:
                """Writes no access log."""

        self._patch()
        application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._guarded(application), threaded=True, request_handler=Quiet)
        threading.Thread(target=self._server.serve_forever, daemon=True, name="aws").start()
        self._seed()
        return AwsEndpoint(url=f"http://127.0.0.1:{self._server.port}", access_key_id=KEY_ID, secret_access_key=SECRET)

    def close(self) -> None:
        """Stops the server and gives moto back as it was, without what the world made."""
        from moto.ec2.models import ec2_backends  # noqa: PLC0415
        from moto.ssm.models import ssm_backends  # noqa: PLC0415

        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        for undo in reversed(self._undo):
            undo()
        for backends in (ec2_backends, ssm_backends):
            backends.reset()

    def resources(self) -> list[str]:
        """Returns what exists, asked of the backends behind the API."""
        from moto.ec2.models import ec2_backends  # noqa: PLC0415

        found = []
        for backend in ec2_backends[ACCOUNT].values():
            instances = [one for each in backend.reservations.values() for one in each.instances]
            found += [f"aws instance {one.id}" for one in instances if one._state.name != "terminated"]  # noqa: SLF001
            found += [f"aws address {one.allocation_id}" for one in backend.addresses]
            groups = [group for each in backend.groups.values() for group in each.values()]
            found += [f"aws security-group {group.id}" for group in groups if group.name != "default"]
        return found

    def _seed(self) -> None:
        from moto.ssm.models import Parameter, ssm_backends  # noqa: PLC0415

        # PutParameter refuses names below /aws, so public parameters are put behind it, where a region is first asked.
        original = ssm_backends[ACCOUNT]["us-east-1"].__class__.get_parameter

        def get_parameter(backend: Any, name: str) -> Any:
            if name in PARAMETERS and name not in backend._parameters:  # noqa: SLF001
                made = Parameter(
                    account_id=ACCOUNT,
                    name=name,
                    value=IMAGE,
                    parameter_type="String",
                    description="",
                    allowed_pattern=None,
                    keyid=None,
                    last_modified_date=datetime.now(UTC),
                    version=1,
                    data_type="aws:ec2:image",
                )
                backend._parameters[name].append(made)  # noqa: SLF001
            return original(backend, name)

        self._replace(ssm_backends[ACCOUNT]["us-east-1"].__class__, "get_parameter", get_parameter)

    def _guarded(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """Refuses foreign credentials as EC2 does, and shows the faults."""

        def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            def refuse(status: str, code: str, message: str) -> Iterable[bytes]:
                start_response(status, [("Content-Type", "text/xml")])
                return [ERROR.format(code=code, message=message).encode()]

            time.sleep(self._faults.latency_s)
            if f"Credential={KEY_ID}/" not in environ.get("HTTP_AUTHORIZATION", ""):
                return refuse(
                    "401 Unauthorized", "AuthFailure", "AWS was not able to validate the provided access credentials"
                )
            fault = self._counter.next()
            if fault == "throttle":
                return refuse("503 Service Unavailable", "RequestLimitExceeded", "Request limit exceeded.")
            if fault == "drop":
                environ["werkzeug.socket"].close()
                return []
            return application(environ, start_response)

        return guarded

    def _patch(self) -> None:  # noqa: C901 - a list of replacements, each a few lines
        from moto.ec2.exceptions import DependencyViolationError, EC2ClientError  # noqa: PLC0415
        from moto.ec2.models import elastic_ip_addresses, elastic_network_interfaces, instances, security_groups  # noqa: PLC0415

        class CapacityError(EC2ClientError):
            code = 500

            def __init__(self, size: str) -> None:
                super().__init__(
                    "InsufficientInstanceCapacity", f"We currently do not have sufficient {size} capacity."
                )

        class MismatchError(EC2ClientError):
            code = 400

            def __init__(self) -> None:
                super().__init__("IdempotentParameterMismatch", "The token was used before with other parameters.")

        run, terminate = instances.InstanceBackend.run_instances, instances.Instance.terminate
        associate = elastic_ip_addresses.ElasticAddressBackend.associate_address
        groups = security_groups.SecurityGroupBackend
        authorize, revoke = groups.authorize_security_group_ingress, groups.revoke_security_group_ingress
        delete_group = groups.delete_security_group

        def run_instances(backend: Any, image_id: str, count: int, given: Any, names: list[str], **rest: Any) -> Any:
            size, token = rest.get("instance_type"), rest.get("client_token")
            if size in self._faults.no_capacity:
                raise CapacityError(str(size))
            request = f"{image_id} {count} {given} {size}"
            if token in self._tokens:
                before, made = self._tokens[token]
                if before != request:
                    raise MismatchError
                return made
            made = run(backend, image_id, count, given, names, **rest)
            if token:
                self._tokens[token] = (request, made)
            for instance in made.instances:
                self.created += 1
                _set_state(instance, PENDING)
                threading.Thread(target=self._boot, args=(instance,), daemon=True, name=instance.id).start()
            return made

        def terminate_instance(instance: Any, *arguments: Any, **rest: Any) -> Any:
            result = terminate(instance, *arguments, **rest)
            self._fleet.kill(instance.id)
            return result

        def associate_address(backend: Any, *arguments: Any, **rest: Any) -> Any:
            address = associate(backend, *arguments, **rest)
            host = self._fleet.host(address.instance.id) if address.instance else None
            if host is not None and address.public_ip not in host.addresses:
                host.add_address(address.public_ip)
            return address

        def authorize_ingress(backend: Any, *arguments: Any, **rest: Any) -> Any:
            result = authorize(backend, *arguments, **rest)
            self._apply_rules(backend)
            return result

        def revoke_ingress(backend: Any, *arguments: Any, **rest: Any) -> Any:
            result = revoke(backend, *arguments, **rest)
            self._apply_rules(backend)
            return result

        def delete_security_group(backend: Any, name: str | None = None, group_id: str | None = None) -> None:
            for instance in _living(backend):
                if group_id in {group.id for group in _groups(instance)}:
                    raise DependencyViolationError(f"resource {group_id} has a dependent object")
            delete_group(backend, name, group_id)

        self._replace(instances.InstanceBackend, "run_instances", run_instances)
        self._replace(instances.Instance, "terminate", terminate_instance)
        self._replace(elastic_ip_addresses.ElasticAddressBackend, "associate_address", associate_address)
        self._replace(groups, "authorize_security_group_ingress", authorize_ingress)
        self._replace(groups, "revoke_security_group_ingress", revoke_ingress)
        self._replace(groups, "delete_security_group", delete_security_group)
        self._replace(elastic_network_interfaces, "random_public_ip", self._next_public)
        self._replace(elastic_ip_addresses, "random_ip", self._next_public)

    def _replace(self, owner: Any, name: str, new: Any) -> None:
        old = getattr(owner, name)
        setattr(owner, name, new)
        self._undo.append(lambda: setattr(owner, name, old))

    def _next_public(self) -> str:
        """Addresses of RFC 5737 TEST-NET-2, which no real machine has."""
        return f"198.51.100.{next(self._public)}"

    def _boot(self, instance: Any) -> None:
        try:
            text = base64.b64decode(str(instance.user_data or "")).decode()
            given = user_data.parse(text if text.startswith("#cloud-config") else str(instance.user_data))
            time.sleep(self._faults.lag_s)
            addresses = [address for address in (instance.public_ip, instance.private_ip) if address]
            self._fleet.boot(
                instance.id,
                name="ip-" + instance.private_ip.replace(".", "-"),
                addresses=list(reversed(addresses)),
                user_data=given,
                rules=_rules(instance),
            )
            if instance._state.name == "pending":  # noqa: SLF001
                _set_state(instance, RUNNING)
            else:
                self._fleet.kill(instance.id)
        except (RuntimeError, ValueError, OSError) as error:
            instance._reason = f"Server.InternalError: {error}"  # noqa: SLF001
            _set_state(instance, TERMINATED)

    def _apply_rules(self, backend: Any) -> None:
        for instance in _living(backend):
            host = self._fleet.host(instance.id)
            if host is not None:
                host.set_rules(_rules(instance))


def _set_state(instance: Any, state: tuple[str, int]) -> None:
    instance._state.name, instance._state.code = state  # noqa: SLF001


def _living(backend: Any) -> list[Any]:
    everything = [one for each in backend.reservations.values() for one in each.instances]
    return [one for one in everything if one._state.name != "terminated"]  # noqa: SLF001


def _groups(instance: Any) -> list[Any]:
    return list(instance.security_groups) or [group for nic in instance.nics.values() for group in nic.group_set]


def _rules(instance: Any) -> list[tuple[int, int, str]]:
    found = []
    for group in _groups(instance):
        for rule in group.ingress_rules:
            block = rule.ip_range.get("CidrIp") if isinstance(rule.ip_range, dict) else rule.ip_range
            if block and str(rule.ip_protocol) == "tcp":
                found.append((int(rule.from_port), int(rule.to_port), str(block)))
    return found
