import contextlib
import hashlib

import pytest
from clouddeploy_provision.ca_store import CaStore
from clouddeploy_runtime.enrolment.errors import EnrolmentFault
from clouddeploy_runtime.enrolment.fingerprint import fingerprint, parse
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

HEX = "0a1b" * 16
PAIRS = ":".join(HEX[place : place + 2] for place in range(0, 64, 2))
ONE_FORM = f"SHA256:{PAIRS.upper()}"


@pytest.mark.parametrize(
    "text",
    [
        ONE_FORM,
        f"SHA256:{PAIRS}",
        f"sha256:{HEX}",
        f"SHA256: {PAIRS}",
        f"sha256 Fingerprint={PAIRS}",
        f"SHA256 Fingerprint={PAIRS.upper()}",
        f"SHA-256: {HEX}",
        HEX,
        HEX.upper(),
        PAIRS,
        f"  {HEX}\n",
    ],
)
def test_a_spelling_that_is_accepted(text):
    assert parse(text) == ONE_FORM


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "SHA256:",
        HEX[:-1],
        HEX[:-2],
        f"{HEX}00",
        f"MD5:{PAIRS}",
        f"SHA1 Fingerprint={PAIRS}",
        HEX.replace("0a", "0g", 1),
        PAIRS.replace(":", " "),
        PAIRS.replace(":", "\t", 1),
        PAIRS.replace(":", "", 1),
        f":{PAIRS}",
        f"{PAIRS}:",
        HEX.replace("0", "\u0660"),  # an Arabic-Indic zero
        f"\u017fha256:{HEX}",  # a long s, which is an s without regard to case
    ],
)
def test_a_spelling_that_is_refused(text):
    with pytest.raises(EnrolmentFault) as caught:
        parse(text)
    assert caught.value.error_code == "INVALID_ROOTCA_FINGERPRINT"


def test_it_is_what_openssl_prints(enrolment):
    """The SHA-256 of the DER form, in pairs."""
    root = CaStore(enrolment.ca).certificate()
    assert fingerprint(root) == parse(hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest())


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", "SHA256:", "sha256 Fingerprint="]), st.booleans())
def test_any_fingerprint_survives_any_spelling(value, prefix, has_colons):
    text = value.hex(":") if has_colons else value.hex()
    assert parse(parse(prefix + text)) == f"SHA256:{value.hex(':').upper()}"


@given(st.text() | st.text("0123456789abcdefABCDEF: ", min_size=60, max_size=100))
def test_any_text_is_a_fingerprint_or_refused(text):
    with contextlib.suppress(EnrolmentFault):
        assert len(parse(text)) == len(ONE_FORM)
