"""What mount(8) may ask for, and how the kernel says what is mounted."""

from __future__ import annotations

import pytest

from appliance.errors import StoreError
from appliance.mounting import ALWAYS, bucket_of, options_of
from appliance.mountpoints import FLAGS, Mounted, parse
from tests.rows import rows


@rows(
    "text, flags, own",
    [
        ("", 0, {}),
        ("defaults,_netdev,rw,nofail,x-systemd.requires=tierce.service,comment=ours", 0, {}),
        ("ro,noexec", FLAGS["ro"] | FLAGS["noexec"], {}),
        ("ro,,noatime,nodiratime", FLAGS["ro"] | FLAGS["noatime"] | FLAGS["nodiratime"], {}),
        ("uid=1000,gid=0,umask=077", 0, {"uid": 1000, "gid": 0, "umask": 0o77}),
        ("suid,dev", 0, {}),  # never of a FUSE mount
    ],
)
def test_options_are_understood(text: str, flags: int, own: dict[str, int]) -> None:
    options = options_of([text])
    assert (options.flags, options.own) == (ALWAYS | flags, own)


def test_options_come_in_several_pieces_and_find_the_daemon() -> None:
    options = options_of(["ro,allow_other", "config=/etc/other.toml,state_dir=/srv/box"])
    assert options.finding == {"config": "/etc/other.toml", "state_dir": "/srv/box"}
    assert options.allow_other
    assert options.flags & FLAGS["ro"]


@rows(
    "text, said",
    [
        ("nosiud", "did you mean nosuid?"),
        ("readonly", "unknown option readonly"),
        ("uidd=5", "did you mean uid=?"),
        ("uid", "uid needs a value"),
        ("ro=1", "ro takes no value"),
        ("uid=anna", "uid=anna is no number"),
        ("uid=-1", "uid=-1 is no number"),
        ("umask=9", "umask=9 is no umask"),
        ("umask=01777", "is no umask"),
    ],
)
def test_a_misspelt_option_is_an_error(text: str, said: str) -> None:
    with pytest.raises(StoreError) as caught:
        options_of([f"rw,{text}"])
    assert said in caught.value.message


def test_a_source_is_all_or_a_bucket() -> None:
    for source, bucket in (
        ("tierce", ""),
        ("tierce#", ""),
        ("none", ""),
        ("tierce#photos", "photos"),
        ("photos", "photos"),
    ):
        assert bucket_of(source) == bucket


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    line = (
        r"530 29 0:57 /pho\040tos /mnt/a\011b\134c ro,nosuid,relatime shared:1 master:2 - fuse.tierce tierce "
        "rw,user_id=4243,group_id=7,default_permissions"
    )
    flags = FLAGS["ro"] | FLAGS["nosuid"]
    assert parse(line) == Mounted("/mnt/a\tb\\c", "/pho tos", "0:57", "fuse.tierce", flags, (4243, 7))
    assert parse("24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw").flags == 0
