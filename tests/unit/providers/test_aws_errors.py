import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError
from clouddeploy_providers import errors
from clouddeploy_providers.aws.errors import code_of, translated


def raised(error):
    with pytest.raises(errors.ProviderError) as caught, translated("it failed"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.what.startswith("it failed")
    return caught.value


def refusal(code, status=400, message="said AWS"):
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(response, "RunInstances")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AuthFailure", 401, errors.AuthenticationError),
        ("ExpiredToken", 400, errors.AuthenticationError),
        ("UnauthorizedOperation", 403, errors.AccessDenied),
        ("InsufficientInstanceCapacity", 500, errors.CapacityError),
        ("InsufficientFreeAddressesInSubnet", 400, errors.CapacityError),
        ("InsufficientVolumeCapacity", 500, errors.CapacityError),
        ("InsufficientAddressCapacity", 500, errors.CapacityError),
        ("VcpuLimitExceeded", 400, errors.QuotaError),
        ("AddressLimitExceeded", 400, errors.QuotaError),
        ("DependencyViolation", 400, errors.Conflict),
        ("IdempotentParameterMismatch", 400, errors.Conflict),
        ("IdempotentInstanceTerminated", 400, errors.Conflict),
        ("RequestLimitExceeded", 503, errors.Throttled),
        ("InternalError", 500, errors.Transient),
        ("InvalidInstanceID.NotFound", 400, errors.NotFound),
        ("InvalidGroup.NotFound", 400, errors.NotFound),
        ("InvalidAMIID.NotFound", 400, errors.InvalidRequest),
        ("InvalidParameterValue", 400, errors.InvalidRequest),
        ("IncorrectInstanceState", 400, errors.Transient),
        ("NoSuchResourceException", 400, errors.NotFound),
        ("VolumeInUse", 400, errors.Conflict),
        ("NeverHeardOf", 502, errors.Transient),
        ("NeverHeardOf", 400, errors.ProviderError),
    ],
)
def test_a_code_decides_the_class(code, status, kind):
    error = raised(refusal(code, status))
    assert type(error) is kind
    assert error.why == f"{code}: said AWS"
    assert error.hint


def test_an_image_of_somebody_else_is_a_wrong_value_and_not_a_wrong_key():
    """EC2 answers with the code of refused credentials, and logging in again would not help."""
    error = raised(refusal("AuthFailure", 401, "Not authorized for images: [ami-0123456789abcdef0]"))
    assert type(error) is errors.InvalidRequest
    assert "ami-0123456789abcdef0" in error.why


def test_the_code_of_an_error_is_known_after_it_has_become_ours():
    assert code_of(raised(refusal("IdempotentInstanceTerminated"))) == "IdempotentInstanceTerminated"
    assert code_of(raised(exceptions.NoCredentialsError())) == ""
    assert code_of(errors.Conflict("of our own")) == ""


@pytest.mark.parametrize(
    "error",
    [
        exceptions.NoCredentialsError(),
        exceptions.ProfileNotFound(profile="p"),
        exceptions.CredentialRetrievalError(provider="sso", error_msg="expired"),
        exceptions.UnauthorizedSSOTokenError(),
        exceptions.TokenRetrievalError(provider="sso", error_msg="expired"),
    ],
)
def test_credentials_that_cannot_be_had_say_how_to_get_them(error):
    ours = raised(error)
    assert type(ours) is errors.AuthenticationError
    assert "AWS_PROFILE" in ours.hint


@pytest.mark.parametrize(
    "error",
    [
        exceptions.EndpointConnectionError(endpoint_url="https://ec2"),
        exceptions.ReadTimeoutError(endpoint_url="https://ec2"),
        exceptions.ConnectionClosedError(endpoint_url="https://ec2"),
        ResponseParserError("Unable to parse response:\n<html>a proxy's page</html>"),
    ],
)
def test_the_network_is_tried_again(error):
    ours = raised(error)
    assert type(ours) is errors.Transient
    assert "<html>" not in ours.why


def test_a_defect_of_ours_passes_through():
    with pytest.raises(KeyError), translated("it failed"):
        raise KeyError("x")
