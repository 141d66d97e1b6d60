"""AWS: a moto server over HTTP whose instances are real hosts, with what moto leaves out and the engine relies on."""

from __future__ import annotations

import base64
import functools
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from clouddeploy_providers.endpoints import AwsEndpoint

from clouddeploy_rehearsal import aws_account, aws_instances, calls, signature, user_data
from clouddeploy_rehearsal.addresses import public
from clouddeploy_rehearsal.aws_services import Services
from clouddeploy_rehearsal.faults import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

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
    """The emulated AWS of one world; at most one at a time, since it changes moto itself.

    Args:
        fleet: the hosts that its instances are.
        faults: what goes wrong.
        addresses: public ones to give out.
        denied: what no policy allows the caller, e.g. `ec2:RunInstances`, `servicequotas:GetServiceQuota`.
    """

    def __init__(
        self,
        fleet: Fleet,
        faults: Faults,
        *,
        addresses: Iterator[str] | None = None,
        denied: Collection[str] = (),
    ) -> None:
        os.environ["MOTO_AMIS_PATH"] = str(resources.files("clouddeploy_rehearsal").joinpath("amis.json"))
        self.created = 0
        self._fleet = fleet
        self._faults = faults
        self.counter = Counter(faults)
        self.denied = set(denied)
        self.services = Services()
        self._tokens: dict[tuple[str, str] | None, tuple[str, Any]] = {}
        self._public = addresses or public("aws")
        self._born: dict[str, float] = {}
        self._threads: list[threading.Thread] = []
        # Taken for what decides by an instance's state and for changes of a host, so that neither is seen half done.
        self._lock = threading.RLock()
        # moto's dictionaries do not stand being changed while another request reads them.
        self._one_by_one = threading.Lock()
        self._undo: list[Callable[[], None]] = []
        self._server: Any = None

    def start(self) -> AwsEndpoint:
        """Starts the server and returns how to reach it."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
        from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: PLC0415 - these take a second to import

        class Quiet(WSGIRequestHandler):
            disable_nagle_algorithm = True  # as at Azure's

            def log(self, type: str, message: str, *args: Any) -> None:
                """Writes no access log."""

        self._patch()
        application = DomainDispatcherApplication(create_backend_app)
        # It would look through moto's folders at every request, and keep all others waiting.
        application.get_backend_for_host = functools.cache(application.get_backend_for_host)
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

    def lend_network(self, region: str, *, vpc_id: str = "", subnet_id: str = "") -> None:
        """Makes a network of somebody else exist, that a deploy file names; what is there already stays.

        Args:
            region: of the site.
            vpc_id: as the deploy file has it; empty: it names a subnet only.
            subnet_id: as the deploy file has it; empty: it names a VPC only, which gets one in each zone.
        """
        from moto.ec2.models import ec2_backends  # noqa: PLC0415

        with self._lock:
            aws_account.lend_network(ec2_backends[ACCOUNT][region], vpc_id=vpc_id, subnet_id=subnet_id)

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

            def dropped(environ: dict[str, Any]) -> ConnectionAbortedError:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return ConnectionAbortedError("dropped on request")

            time.sleep(self._faults.latency_s)
            refusal = signature.check(environ, key_id=KEY_ID, secret=SECRET)
            if refusal is not None:
                return refuse(refusal)
            call, service = calls.aws(environ), signature.service_of(environ)
            fault = self.counter.next(call)
            if fault == "throttle":
                code = "RequestLimitExceeded" if service == "ec2" else "ThrottlingException"
                form = "ssm" if service in aws_account.JSON_SERVICES else service
                return refuse(signature.refusal(form, "503 Service Unavailable", code, "Request limit exceeded."))
            if fault == "drop":
                raise dropped(environ)
            if f"{service}:{call}" in self.denied:
                return refuse(aws_account.denial(service, f"{service}:{call}"))
            with self._one_by_one:
                answer = self._own(service, call, environ, start_response) or application(environ, start_response)
            if self.counter.loses_answer(call):
                raise dropped(environ)
            return answer

        return guarded

    def _own(
        self, service: str, call: str, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes] | None:
        """Returns the answer of a service that moto lacks."""
        found = self.services.answer(service, call, environ)
        if found is None:
            return None
        status, body = found
        start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(body).encode()]

    def _patch(self) -> None:  # noqa: C901, PLR0915 - a list of replacements, each a few lines
        from moto import settings  # noqa: PLC0415
        from moto.core import responses  # noqa: PLC0415
        from moto.ec2.exceptions import DependencyViolationError, EC2ClientError  # noqa: PLC0415
        from moto.ec2.models import (  # noqa: PLC0415
            elastic_ip_addresses,
            elastic_network_interfaces,
            instance_types,
            instances,
            route_tables,
            security_groups,
        )

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

        class EndedError(EC2ClientError):
            code = 400

            def __init__(self) -> None:
                super().__init__("IdempotentInstanceTerminated", "The token's instance is terminated.")

        run, terminate = instances.InstanceBackend.run_instances, instances.Instance.terminate
        start, stop = instances.Instance.start, instances.Instance.stop
        addresses = elastic_ip_addresses.ElasticAddressBackend
        associate, disassociate = addresses.associate_address, addresses.disassociate_address
        groups = security_groups.SecurityGroupBackend
        authorize, revoke = groups.authorize_security_group_ingress, groups.revoke_security_group_ingress
        delete_group = groups.delete_security_group

        def run_instances(backend: Any, image_id: str, count: int, given: Any, names: list[str], **rest: Any) -> Any:
            size, token = rest.get("instance_type"), rest.get("client_token")
            if not self._faults.has_capacity(
                str(size), place=backend.region_name, zone=aws_instances.zone_of(backend, rest)
            ):
                raise CapacityError(str(size))
            # All that a second call with the same token must repeat.
            request = repr((image_id, count, given, names, sorted(rest.items())))
            named = (backend.region_name, str(token)) if token not in NO_TOKENS else None
            with self._lock:
                if named in self._tokens:
                    before, made = self._tokens[named]
                    if before != request:
                        raise MismatchError
                    if all(one._state.name == "terminated" for one in made.instances):  # noqa: SLF001
                        raise EndedError
                    return made
                made = run(backend, image_id, count, given, names, **rest)
                if named:
                    self._tokens[named] = (request, made)
                for instance in made.instances:
                    self.created += 1
                    self._born[instance.id] = time.monotonic()
                    aws_instances.set_state(instance, PENDING)
            for instance in made.instances:
                self._boot_beside(instance)
            return made

        def start_instance(instance: Any) -> Any:
            before = start(instance)
            aws_instances.keep_elastic(instance)
            if self._fleet.host(instance.id) is None:  # it has switched itself off, and its disk went with the host
                aws_instances.set_state(instance, PENDING)
                self._boot_beside(instance)
            self._settle(instance.ec2_backend)
            return before

        def stop_instance(instance: Any) -> Any:
            before = stop(instance)
            aws_instances.keep_elastic(instance)
            self._settle(instance.ec2_backend)
            return before

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
            for instance in aws_instances.living(backend):
                if group_id in {group.id for group in aws_instances.groups_of(instance)}:
                    raise DependencyViolationError(f"resource {group_id} has a dependent object")
            delete_group(backend, name, group_id)

        # moto would look through all members of a class at every request.
        self._replace(responses, "method_names_from_class", functools.cache(responses.method_names_from_class))
        # Not by the environment, which moto reads when it is imported, by whomever that is.
        self._replace(settings, "ENABLE_AMI_VALIDATION", True)
        self._replace(settings, "EC2_ENABLE_INSTANCE_TYPE_VALIDATION", True)
        self._replace(instances.InstanceBackend, "run_instances", run_instances)
        self._replace(instances.Instance, "terminate", terminate_instance)
        self._replace(instances.Instance, "start", start_instance)
        self._replace(instances.Instance, "stop", stop_instance)
        self._replace(instances.InstanceBackend, "all_reservations", self._lagging())
        self._replace(addresses, "associate_address", associate_address)
        self._replace(addresses, "disassociate_address", disassociate_address)
        self._replace(groups, "authorize_security_group_ingress", authorize_ingress)
        self._replace(groups, "revoke_security_group_ingress", revoke_ingress)
        self._replace(groups, "delete_security_group", delete_security_group)
        routes, types = route_tables.RouteBackend, instance_types.InstanceTypeBackend
        self._replace(routes, "describe_route_tables", aws_account.with_way_out(routes.describe_route_tables))
        self._replace(types, "describe_instance_types", aws_account.listed(types.describe_instance_types))
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
            found = []
            for each in everything(backend, filters):
                each.instances = [one for one in each.instances if not self._faults.hides(self._born.get(one.id, 0.0))]
                if each.instances:
                    found.append(each)
            return found

        return all_reservations

    def _boot_beside(self, instance: Any) -> None:
        boot = threading.Thread(target=self._boot, args=(instance,), daemon=True, name=instance.id)
        boot.start()
        self._threads.append(boot)

    def _boot(self, instance: Any) -> None:
        try:
            text = base64.b64decode(str(instance.user_data or "")).decode()
            pair = instance.ec2_backend.key_pairs.get(instance.key_name)
            keys = (pair.material_public.decode().strip(),) if pair else ()
            given = user_data.parse(text, user=USER, authorized_keys=keys)
            self._fleet.boot(
                instance.id,
                name="ip-" + instance.private_ip.replace(".", "-"),
                addresses=aws_instances.addresses_of(instance),
                user_data=given,
                rules=aws_instances.rules_of(instance),
                switched_off=lambda: aws_instances.switched_off(instance),
            )
            with self._lock:
                is_wanted = instance._state.name == "pending"  # noqa: SLF001
                if is_wanted:
                    # Rules and addresses may have changed while it was starting.
                    self._settle(instance.ec2_backend)
                    aws_instances.set_state(instance, RUNNING)
            if not is_wanted:
                self._fleet.kill(instance.id)
        except (RuntimeError, ValueError, OSError) as error:
            instance._reason = f"Server.InternalError: {error}"  # noqa: SLF001
            aws_instances.set_state(instance, TERMINATED)

    def _settle(self, backend: Any) -> None:
        """Gives every running host the addresses and the firewall that EC2 says it has."""
        with self._lock:
            for instance in aws_instances.living(backend):
                host = self._fleet.host(instance.id)
                if host is not None:
                    wanted = aws_instances.addresses_of(instance)
                    for address in wanted:
                        if address not in host.addresses:
                            host.add_address(address)
                    for address in [one for one in host.addresses if one not in wanted]:
                        host.remove_address(address)
                    host.set_rules(aws_instances.rules_of(instance))
