import json
from types import SimpleNamespace

import pytest
from azure.core import exceptions
from azure.core.exceptions import ODataV4Format
from clouddeploy_providers import errors
from clouddeploy_providers.azure.errors import translated
from clouddeploy_providers.azure.machines import Machines
from clouddeploy_providers.azure.operations import group_of


def raised(error):
    with pytest.raises(errors.ProviderError) as caught, translated("it failed"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.what == "it failed"
    return caught.value


def refusal(code, status, kind=exceptions.HttpResponseError):
    text = json.dumps({"error": {"code": code, "message": "said Azure"}})
    response = SimpleNamespace(status_code=status, reason="Refused", text=lambda: text, body=text.encode)
    error = kind(message="said Azure", response=response)
    error.error = ODataV4Format({"code": code, "message": "said Azure"}) if code else None
    return error


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SkuNotAvailable", 409, errors.CapacityError),
        ("AllocationFailed", 409, errors.CapacityError),
        ("ZonalAllocationFailed", 409, errors.CapacityError),
        ("OperationNotAllowed", 409, errors.QuotaError),
        ("QuotaExceeded", 409, errors.QuotaError),
        ("AuthorizationFailed", 403, errors.AccessDenied),
        ("InvalidAuthenticationToken", 401, errors.AuthenticationError),
        ("TooManyRequests", 429, errors.Throttled),
        ("", 429, errors.Throttled),
        ("", 503, errors.Transient),
        ("SomethingNew", 500, errors.Transient),
        ("SomethingNew", 599, errors.Transient),
        ("AnotherOperationInProgress", 409, errors.Transient),
        ("InUseSubnetCannotBeDeleted", 400, errors.Conflict),
        ("NicInUse", 400, errors.Conflict),
        ("NicReservedForAnotherVm", 400, errors.Conflict),
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
    error = raised(refusal("OperationNotAllowed", 409, exceptions.ResourceExistsError))
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


def test_an_interface_names_the_machine_it_was_made_for():
    prefix = "/subscriptions/s/resourceGroups/g/providers"
    ref = Machines.of_interface(f"{prefix}/Microsoft.Network/networkInterfaces/m-nic")
    assert (ref.name, ref.id) == ("m", f"{prefix}/Microsoft.Compute/virtualMachines/m")
    assert Machines.of_interface(f"{prefix}/Microsoft.Network/networkInterfaces/other") is None
    assert Machines.of_interface(f"{prefix}/Microsoft.Compute/virtualMachines/m-nic") is None
