"""The names of the catalogue and of the mount: a bijection (H7)."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.limits import NAME_MAX
from fusefs import tree
from tests.rows import rows

pieces = st.sampled_from(
    [
        b".tierce~",
        b"q~",
        b"f~",
        b"n~",
        b"h~",
        b"%25",
        b"%00",
        b"%FF",
        b"%",
        b"\0",
        b"\xff",
        "é".encode(),
        b".",
        b"a",
        b"x" * 250,
    ]
)
odd = st.lists(pieces, max_size=6).map(b"".join)
catalogue_names = st.one_of(st.binary(max_size=400), st.text(max_size=300).map(str.encode), odd).map(
    lambda name: name.replace(b"/", b"_")
)
mount_names = catalogue_names.map(lambda name: name.replace(b"\0", b"0")[:NAME_MAX]).filter(
    lambda name: name not in (b"", b".", b"..")
)


@given(catalogue_names, st.booleans())
@example(b"", False)
@example(b".", True)
@example(b"\xff" * 300, False)
@example(b".tierce~q~%FF", False)
@example(b".tierce~q~%FF", True)
@example(b".tierce~" + "é".encode() * 200, True)
def test_every_catalogue_name_has_one_mount_name_and_comes_back(name: bytes, shadowed: bool) -> None:
    shown = tree.to_mount(name, shadowed)
    assert 0 < len(shown) <= NAME_MAX
    assert shown not in (b".", b"..")
    assert b"/" not in shown
    assert b"\0" not in shown
    found = tree.from_mount(shown)
    if isinstance(found, tree.Digest):
        assert found.digest == tree.digest(name)
        assert found.shadowed is shadowed
        assert name.startswith(found.start)
    else:
        assert found == tree.Name(name, shadowed)


@given(mount_names)
@example(b".tierce~n~a")
@example(b".tierce~f~a")
@example(b"\xff")
@example(b".tierce~\xff")
def test_a_mount_name_stands_for_one_name_that_shows_as_it_or_for_nothing(name: bytes) -> None:
    found = tree.from_mount(name)
    if isinstance(found, tree.Name):
        assert tree.to_mount(found.name, found.shadowed) == name
        assert b"/" not in found.name


@given(mount_names)
def test_what_a_program_names_becomes_valid_utf8(name: bytes) -> None:
    found = tree.from_mount(name)
    if isinstance(found, tree.Name) and not name.startswith(tree.PREFIX):
        found.name.decode()


@rows(
    ("name", "shadowed", "shown"),
    [
        (b"photo.jpg", False, b"photo.jpg"),
        (b"a", True, b".tierce~f~a"),
        (b"", False, b".tierce~n~"),
        (b"..", False, b".tierce~n~.."),
        (b"50%\0", False, b".tierce~n~50%25%00"),
        (b".tierce~q~%E9t%E9", False, b"\xe9t\xe9"),
        (b".tierce~q~abc", False, b".tierce~n~.tierce~q~abc"),
    ],
)
def test_examples(name: bytes, shadowed: bool, shown: bytes) -> None:
    assert tree.to_mount(name, shadowed) == shown
    assert tree.from_mount(shown) == tree.Name(name, shadowed)


@rows("name", [b".tierce~", b".tierce~x", b".tierce~n~a", b".tierce~n~%2", b".tierce~h~n~00~a", b".tierce~n~%2F"])
def test_a_reserved_name_that_is_no_alias_stands_for_nothing(name: bytes) -> None:
    assert tree.from_mount(name) is None


def test_long_names_that_differ_at_their_end_differ() -> None:
    assert tree.to_mount(b"x" * 300 + b"1") != tree.to_mount(b"x" * 300 + b"2")
