import json
from types import SimpleNamespace

import pytest
from azure.core import exceptions
from azure.core.exceptions import ODataV4Format
from clouddeploy_providers import errors
from clouddeploy_providers.azure.errors import InterfaceReserved, translated
from clouddeploy_providers.azure.operations import group_of
from clouddeploy_providers.azure.tag_search import part_of


def raised(error):
    with pytest.raises(errors.ProviderError) as caught, translated("it failed"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.what == "it failed"
    return caught.value


def refusal(code, status, kind=exceptions.HttpResponseError, said="said Azure"):
    text = json.dumps({"error": {"code": code, "message": said}})
    response = SimpleNamespace(status_code=status, reason="Refused", text=lambda: text, body=text.encode)
    error = kind(message=said, response=response)
    error.error = ODataV4Format({"code": code, "message": said}) if code else None
    return error


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SkuNotAvailable", 409, errors.CapacityError),
        ("AllocationFailed", 409, errors.CapacityError),
        ("ZonalAllocationFailed", 409, errors.CapacityError),
        ("OperationNotAllowed", 409, errors.Conflict),
        ("QuotaExceeded", 409, errors.QuotaError),
        ("AuthorizationFailed", 403, errors.AccessDenied),
        ("InvalidAuthenticationToken", 401, errors.AuthenticationError),
        ("TooManyRequests", 429, errors.Throttled),
        ("", 429, errors.Throttled),
        ("", 503, errors.Transient),
        ("SomethingNew", 500, errors.Transient),
        ("SomethingNew", 599, errors.Transient),
        ("AnotherOperationInProgress", 409, errors.Transient),
        # An operation that began well and failed has the status of the question about it.
        ("InternalExecutionError", 200, errors.Transient),
        ("NetworkingInternalOperationError", 200, errors.Transient),
        ("OperationPreempted", 200, errors.Transient),
        ("CanceledAndSupersededDueToAnotherOperation", 200, errors.Transient),
        ("ScopeLocked", 409, errors.InvalidRequest),
        ("InUseSubnetCannotBeDeleted", 400, errors.Conflict),
        ("NicInUse", 400, errors.Conflict),
        ("NicReservedForAnotherVm", 400, InterfaceReserved),
        ("PublicIPAddressCannotBeDeleted", 400, errors.Conflict),
        ("PropertyChangeNotAllowed", 409, errors.Conflict),
        ("", 412, errors.Conflict),
        ("ResourceGroupNotFound", 404, errors.NotFound),
        ("SubscriptionNotFound", 404, errors.InvalidRequest),
        ("MissingSubscriptionRegistration", 409, errors.InvalidRequest),
        ("InvalidParameter", 400, errors.InvalidRequest),
        ("SomethingNew", 418, errors.ProviderError),
    ],
)
def test_a_code_decides_the_class(code, status, kind):
    error = raised(refusal(code, status))
    assert type(error) is kind
    assert "said Azure" in error.why


def test_a_quota_that_arrives_as_a_conflict_is_a_quota():
    """The SDK calls every 409 ResourceExistsError, and the code is also that of a disk in use: only the text tells."""
    said = "Operation could not be completed as it results in exceeding approved Total Regional Cores quota."
    error = raised(refusal("OperationNotAllowed", 409, exceptions.ResourceExistsError, said=said))
    assert type(error) is errors.QuotaError
    assert error.hint


def test_credentials_that_are_refused_say_how_to_get_others():
    error = raised(
        exceptions.ClientAuthenticationError(message="AADSTS7000215: Invalid client secret provided.\nTrace")
    )
    assert type(error) is errors.AuthenticationError
    assert "az login" in error.hint
    assert "\n" not in error.why


@pytest.mark.parametrize("kind", [exceptions.ServiceRequestError, exceptions.ServiceResponseError])
def test_the_network_is_tried_again(kind):
    assert type(raised(kind("connection reset"))) is errors.Transient


def test_the_group_in_an_id_is_found_however_it_is_spelled():
    for word in ("resourceGroups", "resourcegroups", "RESOURCEGROUPS"):
        assert group_of(f"/subscriptions/s/{word}/mine/providers/x/y/z") == "mine"


def test_an_interface_and_a_disk_name_the_machine_they_were_made_for():
    prefix, name = "/subscriptions/s/resourceGroups/g/providers", "cd-p-s-machine-0123abcd"
    for part in (f"Microsoft.Network/networkInterfaces/{name}-nic", f"Microsoft.Compute/disks/{name}-disk"):
        ref = part_of(f"{prefix}/{part}")
        assert (ref.name, ref.id) == (name, f"{prefix}/Microsoft.Compute/virtualMachines/{name}")
    for other in (
        "Microsoft.Network/networkInterfaces/other-nic",
        "Microsoft.Compute/disks/machine-0123abcd-disk",
        "Microsoft.Compute/disks/cd-p-s-address-0123abcd-disk",
        f"Microsoft.Compute/virtualMachines/{name}-nic",
    ):
        assert part_of(f"{prefix}/{other}") is None
