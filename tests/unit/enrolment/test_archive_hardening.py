"""Archives that somebody made to do harm: each is refused, whatever its headers say."""

import io
import struct
import zipfile
import zlib

import pytest
from clouddeploy_runtime.enrolment import archive
from clouddeploy_runtime.enrolment.errors import EnrolmentFault


def reading(tmp_path, data, *, is_expected=lambda _: True):
    path = tmp_path / "some.zip"
    path.write_bytes(data)
    return archive.read(path, "SIGNED", is_expected=is_expected)


def refusal(tmp_path, data):
    with pytest.raises(EnrolmentFault) as caught:
        reading(tmp_path, data)
    assert caught.value.error_code == "INVALID_SIGNED_ZIP"
    return caught.value.why


def zipped(*members, compression=zipfile.ZIP_DEFLATED, mode=0o100600):
    """Makes an archive; a member is a name, or a name and its content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for member in members:
            name, content = member if isinstance(member, tuple) else (member, b"hello")
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name  # ZipInfo's constructor would tidy the name up
            info.external_attr = mode << 16
            info.compress_type = compression
            made.writestr(info, content)
    return buffer.getvalue()


def test_an_archive_of_ours_is_read_as_it_was_written(tmp_path):
    members = {"a": b"1", "kit/startup/b.json": b"2" * 100_000}
    data = archive.write(members)
    assert reading(tmp_path, data) == members
    assert data == archive.write(members)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "kit/../../x",
        "kit/./x",
        "kit//x",
        "kit/",
        "..",
        "kit\\x",
        "C:\\x",
        "a\tb",
        "\x1b[2Jx",
        "ä",
        "x" * 256,
        "",
    ],
)
def test_a_member_whose_name_is_not_plain(tmp_path, name):
    assert "is not a plain name" in refusal(tmp_path, zipped(name))


def test_a_name_is_never_shown_in_a_way_that_steers_a_terminal(tmp_path):
    assert "\x1b" not in refusal(tmp_path, zipped("\x1b[2Jx"))


def test_a_name_with_a_nul_is_not_cut_there(tmp_path):
    data = zipped("rootCA.pemXevil").replace(b"rootCA.pemXevil", b"rootCA.pem\0evil")
    assert "is not a plain name" in refusal(tmp_path, data)


@pytest.mark.parametrize(
    ("mode", "kind"), [(0o120777, "link"), (0o040755, "folder"), (0o020666, "device"), (0o010600, "pipe")]
)
def test_a_member_that_is_no_regular_file(tmp_path, mode, kind):
    assert "is not a regular file" in refusal(tmp_path, zipped("x", mode=mode)), kind


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(tmp_path):
    assert "is in it twice" in refusal(tmp_path, zipped(("x", b"good"), ("x", b"evil")))


def test_too_many_members(tmp_path):
    names = [f"x{number}" for number in range(archive.MAX_MEMBERS + 1)]
    assert "201 members" in refusal(tmp_path, zipped(*names))


def test_a_member_that_says_it_is_too_large(tmp_path):
    assert "is too large" in refusal(tmp_path, zipped(("x", b"0" * (archive.MAX_MEMBER + 1))))


def test_many_members_that_are_too_large_together(tmp_path):
    members = [(f"x{number}", b"0" * archive.MAX_MEMBER) for number in range(9)]
    assert "is too large" in refusal(tmp_path, zipped(*members))


def test_a_file_that_is_too_large_is_not_even_unpacked(tmp_path):
    assert "more than 4 MiB" in refusal(tmp_path, b"PK" + bytes(archive.MAX_ARCHIVE))


def test_a_bomb_whose_header_lies_about_its_size(tmp_path):
    """64 MiB that claim to be five bytes: no more than those five are unpacked, and their checksum is wrong."""
    content = bytes(64 << 20)
    data = zipped(("x", content))
    lie = data.replace(struct.pack("<L", len(content)), struct.pack("<L", 5))
    assert lie.count(struct.pack("<L", 5)) >= 2
    assert "not a sound archive" in refusal(tmp_path, lie)


def test_a_header_that_promises_more_than_there_is(tmp_path):
    data = zipped(("x", b"hello"), compression=zipfile.ZIP_STORED)
    assert refusal(tmp_path, data.replace(struct.pack("<L", 5), struct.pack("<L", 500)))


def test_an_offset_that_no_file_has(tmp_path):
    """A zip64 field that says the member begins at 2⁶³."""
    name, content = b"x", b"hello"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0x21, zlib.crc32(content), 5, 5, 1, 0) + name + content
    extra = struct.pack("<2HQ", 1, 8, 1 << 63)
    central = struct.pack(
        "<4s4B4H3L5H2L", b"PK\1\2", 45, 3, 45, 0, 0, 0, 0, 0x21, zlib.crc32(content), 5, 5, 1, 12, 0, 0, 0, 0, 2**32 - 1
    )
    central += name + extra
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    assert refusal(tmp_path, local + central + end)


def test_an_encrypted_member(tmp_path):
    data = bytearray(zipped("x"))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    assert "is encrypted" in refusal(tmp_path, bytes(data))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_is_not_used_here(tmp_path, compression):
    assert "compressed in a way" in refusal(tmp_path, zipped("x", compression=compression))


def test_a_member_that_is_called_otherwise_in_its_own_header(tmp_path):
    data = zipped("good").replace(b"good", b"evil", 1)
    assert "not a sound archive" in refusal(tmp_path, data)


@pytest.mark.parametrize("mark", ["RSA PRIVATE KEY-----", "PRIVATE KEY-----", "OPENSSH PRIVATE KEY-----"])
def test_a_private_key_under_any_name(tmp_path, mark):
    data = zipped(("site.yaml", f"# -----BEGIN {mark}\n".encode()))
    with pytest.raises(EnrolmentFault) as caught:
        reading(tmp_path, data, is_expected=lambda _: False)
    assert caught.value.error_code == "PRIVATE_KEY_IN_ZIP"


@pytest.mark.parametrize("data", [b"", b"PK", b"hello", zipped("x")[:-1], zipped("x")[:30]])
def test_what_is_no_archive_at_all(tmp_path, data):
    assert refusal(tmp_path, data)


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """Each bit of a whole small archive: the members are as written, or the archive is refused."""
    members = {"a": b"hello", "b": b"world"}
    data = archive.write(members)
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            found = reading(tmp_path, bytes(flipped), is_expected=members.__contains__)
        except EnrolmentFault:
            continue
        assert set(found.items()) <= set(members.items())


def test_every_truncation_is_noticed(tmp_path):
    data = archive.write({"a": b"hello", "b": b"world"})
    for length in range(len(data)):
        assert refusal(tmp_path, data[:length])
