"""What an extended attribute of ours shows of an object."""

from __future__ import annotations

import stat

from appliance.model import Attributes, Node, pack_attributes
from fusefs import xattrs
from s3front import tagging


def test_tags_are_shown_as_s3_spells_them_and_never_listed() -> None:
    for tags, value in (
        ({}, None),
        ({"a": ""}, b"a="),
        ({"place": "a/b c", "köln": "1+1=2"}, b"place=a%2Fb%20c&k%C3%B6ln=1%2B1%3D2"),
    ):
        packed = pack_attributes(Attributes(tags=tags))
        node = Node(1, stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, 0, 0, 0, 1, "e", 0, 0, b"", 0, packed)
        assert xattrs.shown(node, b"user.tierce.tags") == value
        assert tagging.from_header(value or b"") == tags
        assert xattrs.names(node.attributes) == []
