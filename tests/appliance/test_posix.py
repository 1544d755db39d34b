"""POSIX attributes in S3's metadata: what is believed of what a client says."""

from __future__ import annotations

import pytest

from appliance import posix


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("1000", 1000), ("4294967294", 2**32 - 2), ("4294967295", None), ("4294967296", None), ("-1", None)],
)
def test_the_number_that_chown_takes_for_nobody_is_no_owner(text: str, number: int | None) -> None:
    """The kernel has no user 2**32 - 1: whatever was his could neither be written nor given to anybody."""
    assert posix.parse_id(text) == number
    assert posix.read({"uid": text, "gid": text}) == ({} if number is None else {"uid": number, "gid": number})
