"""AWS: a moto server over HTTP whose instances are real hosts, with what moto leaves out and the engine relies on."""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.endpoints import AwsEndpoint

from clouddeploy_rehearsal import signature, user_data
from clouddeploy_rehearsal.addresses import public
from clouddeploy_rehearsal.faults import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clouddeploy_rehearsal.faults import Faults
    from clouddeploy_rehearsal.fleet import Fleet

KEY_ID = "AKIAREHEARSAL0000000"
SECRET = "rehearsal-secret-access-key-of-no-account"  # noqa: S105 - opens nothing but this emulator
ACCOUNT = "123456789012"
PARAMETERS = {
    f"/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id": f"ami-0ub24042026{arch}a"
    for arch in ("amd64", "arm64")
}
NO_TOKENS = (None, "", "ABCDE")
"""What moto passes on when the caller gave no client token."""
USER = "ubuntu"
"""The account of Canonical's images, for user data that names none."""
PENDING, RUNNING, TERMINATED = ("pending", 0), ("running", 16), ("terminated", 48)


class AwsCloud:
    """The emulated AWS of one world; at most one at a time, since it changes moto itself."""

    def __init__(self, fleet: Fleet, faults: Faults, *, addresses: Iterator[str] | None = None) -> None:
        os.environ["MOTO_AMIS_PATH"] = str(resources.files("clouddeploy_rehearsal").joinpath("amis.json"))
        for name in ("ENABLE_AMI_VALIDATION", "EC2_ENABLE_INSTANCE_TYPE_VALIDATION"):
            os.environ[f"MOTO_{name}"] = "1"
        self.created = 0
        self._fleet = fleet
        self._faults = faults
        self._counter = Counter(faults)
        self._tokens: dict[tuple[str, str] | None, tuple[str, Any]] = {}
        self._public = addresses or public("aws")
        self._born: dict[str, float] = {}
        self._threads: list[threading.Thread] = []
        # Taken for what decides by an instance's state and for changes of a host, so that neither is seen half done.
        self._lock = threading.RLock()
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
        for boot in self._threads:
            boot.join()  # what is still starting would outlive the world
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
            found += [f"aws volume {one}" for one in backend.volumes]
            found += [f"aws key-pair {one}" for one in backend.key_pairs]
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
                    value=PARAMETERS[name],
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
            def refuse(refusal: signature.Refusal) -> Iterable[bytes]:
                start_response(refusal.status, [("Content-Type", refusal.content_type)])
                return [refusal.body]

            time.sleep(self._faults.latency_s)
            refusal = signature.check(environ, key_id=KEY_ID, secret=SECRET)
            if refusal is not None:
                return refuse(refusal)
            fault = self._counter.next()
            if fault == "throttle":
                service = signature.service_of(environ)
                code = "RequestLimitExceeded" if service == "ec2" else "ThrottlingException"
                return refuse(signature.refusal(service, "503 Service Unavailable", code, "Request limit exceeded."))
            if fault == "drop":
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionAbortedError("dropped on request")
            return application(environ, start_response)

        return guarded

    def _patch(self) -> None:  # noqa: C901, PLR0915 - a list of replacements, each a few lines
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
        addresses = elastic_ip_addresses.ElasticAddressBackend
        associate, disassociate = addresses.associate_address, addresses.disassociate_address
        groups = security_groups.SecurityGroupBackend
        authorize, revoke = groups.authorize_security_group_ingress, groups.revoke_security_group_ingress
        delete_group = groups.delete_security_group

        def run_instances(backend: Any, image_id: str, count: int, given: Any, names: list[str], **rest: Any) -> Any:
            size, token = rest.get("instance_type"), rest.get("client_token")
            if size in self._faults.no_capacity:
                raise CapacityError(str(size))
            # All that a second call with the same token must repeat.
            request = repr((image_id, count, given, names, sorted(rest.items())))
            named = (backend.region_name, str(token)) if token not in NO_TOKENS else None
            with self._lock:
                if named in self._tokens:
                    before, made = self._tokens[named]
                    if before != request:
                        raise MismatchError
                    return made
                made = run(backend, image_id, count, given, names, **rest)
                if named:
                    self._tokens[named] = (request, made)
                for instance in made.instances:
                    self.created += 1
                    self._born[instance.id] = time.monotonic()
                    _set_state(instance, PENDING)
            for instance in made.instances:
                boot = threading.Thread(target=self._boot, args=(instance,), daemon=True, name=instance.id)
                boot.start()
                self._threads.append(boot)
            return made

        def terminate_instance(instance: Any, *arguments: Any, **rest: Any) -> Any:
            with self._lock:
                result = terminate(instance, *arguments, **rest)
                # moto forgets to free the address; a terminated instance has none.
                for address in instance.ec2_backend.addresses:
                    if address.instance is instance:
                        address.instance = address.eni = address.association_id = None
            self._fleet.kill(instance.id)
            return result

        def associate_address(backend: Any, *arguments: Any, **rest: Any) -> Any:
            address = associate(backend, *arguments, **rest)
            self._settle(backend)
            return address

        def disassociate_address(backend: Any, *arguments: Any, **rest: Any) -> None:
            disassociate(backend, *arguments, **rest)
            self._settle(backend)

        def authorize_ingress(backend: Any, *arguments: Any, **rest: Any) -> Any:
            result = authorize(backend, *arguments, **rest)
            self._settle(backend)
            return result

        def revoke_ingress(backend: Any, *arguments: Any, **rest: Any) -> Any:
            result = revoke(backend, *arguments, **rest)
            self._settle(backend)
            return result

        def delete_security_group(backend: Any, name: str | None = None, group_id: str | None = None) -> None:
            for instance in _living(backend):
                if group_id in {group.id for group in _groups(instance)}:
                    raise DependencyViolationError(f"resource {group_id} has a dependent object")
            delete_group(backend, name, group_id)

        self._replace(instances.InstanceBackend, "run_instances", run_instances)
        self._replace(instances.Instance, "terminate", terminate_instance)
        self._replace(instances.InstanceBackend, "all_reservations", self._lagging())
        self._replace(addresses, "associate_address", associate_address)
        self._replace(addresses, "disassociate_address", disassociate_address)
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
        return next(self._public)

    def _lagging(self) -> Callable[..., Any]:
        """Returns a list of instances in which a new one does not show for a while."""
        from moto.ec2.models.instances import InstanceBackend  # noqa: PLC0415

        everything = InstanceBackend.all_reservations

        def all_reservations(backend: Any, filters: Any = None) -> list[Any]:
            then = time.monotonic() - self._faults.lag_s
            found = []
            for each in everything(backend, filters):
                each.instances = [one for one in each.instances if self._born.get(one.id, 0.0) <= then]
                if each.instances:
                    found.append(each)
            return found

        return all_reservations

    def _boot(self, instance: Any) -> None:
        try:
            text = base64.b64decode(str(instance.user_data or "")).decode()
            pair = instance.ec2_backend.key_pairs.get(instance.key_name)
            keys = (pair.material_public.decode().strip(),) if pair else ()
            given = user_data.parse(text, user=USER, authorized_keys=keys)
            self._fleet.boot(
                instance.id,
                name="ip-" + instance.private_ip.replace(".", "-"),
                addresses=_addresses(instance),
                user_data=given,
                rules=_rules(instance),
            )
            with self._lock:
                is_wanted = instance._state.name == "pending"  # noqa: SLF001
                if is_wanted:
                    # Rules and addresses may have changed while it was starting.
                    self._settle(instance.ec2_backend)
                    _set_state(instance, RUNNING)
            if not is_wanted:
                self._fleet.kill(instance.id)
        except (RuntimeError, ValueError, OSError) as error:
            instance._reason = f"Server.InternalError: {error}"  # noqa: SLF001
            _set_state(instance, TERMINATED)

    def _settle(self, backend: Any) -> None:
        """Gives every running host the addresses and the firewall that EC2 says it has."""
        with self._lock:
            for instance in _living(backend):
                host = self._fleet.host(instance.id)
                if host is not None:
                    wanted = _addresses(instance)
                    for address in wanted:
                        if address not in host.addresses:
                            host.add_address(address)
                    for address in [one for one in host.addresses if one not in wanted]:
                        host.remove_address(address)
                    host.set_rules(_rules(instance))


def _set_state(instance: Any, state: tuple[str, int]) -> None:
    instance._state.name, instance._state.code = state  # noqa: SLF001


def _living(backend: Any) -> list[Any]:
    everything = [one for each in backend.reservations.values() for one in each.instances]
    return [one for one in everything if one._state.name != "terminated"]  # noqa: SLF001


def _addresses(instance: Any) -> list[str]:
    """Returns private and public address; the last is where the instance's own traffic comes from."""
    return [address for address in (instance.private_ip, instance.public_ip) if address]


def _groups(instance: Any) -> list[Any]:
    return list(instance.security_groups) or [group for nic in instance.nics.values() for group in nic.group_set]


def _rules(instance: Any) -> list[tuple[int, int, str]]:
    found = []
    for group in _groups(instance):
        for rule in group.ingress_rules:
            block = rule.ip_range.get("CidrIp") if isinstance(rule.ip_range, dict) else rule.ip_range
            if block and str(rule.ip_protocol) == "tcp":
                found.append((int(rule.from_port), int(rule.to_port), str(block)))
            elif block and str(rule.ip_protocol) == "-1":
                found.append((0, 65535, str(block)))
    return found
