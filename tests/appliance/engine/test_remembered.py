"""What the loop remembers of the catalogue is what the catalogue would say, whichever moment of a COMMIT it asks in."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from appliance.catalogue.schema import ENTRY, NODE
from appliance.engine.remembered import ABSENT, HEAVY, Commit, Remembered
from appliance.model import BodyKind, Node

DIRECTORIES, NAMES, NUMBERS = (1, 2, 3), (b"a", b"b", b"d/"), (10, 11, 12)


def node(number: int, size: int) -> Node:
    return Node(number, 0o100644, 0, 0, 1, size, 0, 0, 0, 0, 0, "", BodyKind.EMPTY, 0, b"", 0, b"")


def row(found: Node) -> tuple[object, ...]:
    return *(getattr(found, field) for field in Node.__struct_fields__), 0


changes = st.lists(
    st.one_of(
        st.tuples(
            st.just("name"), st.sampled_from(DIRECTORIES), st.sampled_from(NAMES), st.sampled_from((0, *NUMBERS))
        ),
        st.tuples(st.just("node"), st.sampled_from(NUMBERS), st.integers(0, 9), st.booleans()),
    ),
    max_size=4,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), changes),
        st.just(("finish",)),
        st.just(("deliver",)),
        st.tuples(st.just("look"), st.sampled_from(DIRECTORIES), st.sampled_from(NAMES)),
        st.tuples(st.just("look up"), st.sampled_from(NUMBERS)),
        st.tuples(st.just("list"), st.sampled_from(DIRECTORIES)),
    ),
    max_size=40,
)


class Catalogue:
    """The rows, with a reader that asks memory first, as the engine does.  Directory 3 is made by the mount."""

    def __init__(self, limit: int) -> None:
        self.rows = Remembered(limit)
        self.rows.know(3, {})
        self.names: dict[tuple[int, bytes], int] = {}
        self.nodes: dict[int, Node] = {}
        self.under_way: tuple[Commit, list[tuple[object, ...]]] | None = None
        self.untold = 0

    def begin(self, made: list[tuple[object, ...]]) -> None:
        images: dict[tuple[object, ...], tuple[object, ...] | None] = {}
        for kind, *what in made:
            if kind == "name":
                parent, name, number = what
                images[ENTRY.number, parent, name] = (parent, name, number, 0) if number else None
            else:
                number, size, gone = what
                assert isinstance(number, int)
                assert isinstance(size, int)
                images[NODE.number, number] = None if gone else row(node(number, size))
        self.under_way = self.rows.begin(images), made
        self.untold += 1

    def finish(self) -> None:
        assert self.under_way is not None
        commit, made = self.under_way
        for kind, *what in made:
            if kind == "name":
                self.names[what[0], what[1]] = what[2]  # type: ignore[index,assignment]
            elif what[2]:
                self.nodes.pop(what[0], None)  # type: ignore[call-overload]
            else:
                self.nodes[what[0]] = node(what[0], what[1])  # type: ignore[index,arg-type]
        commit.done = True
        self.under_way = None

    def look(self, parent: int, name: bytes) -> None:
        there = self.names.get((parent, name), 0)
        number = self.rows.entry(parent, name)
        if number is None:
            found = self.nodes.get(there)
            if found is not None or not there:
                self.rows.put(parent, name, found)
        else:
            assert number == (there or ABSENT)

    def list(self, parent: int) -> None:
        self.rows.know(parent, {name: number for (at, name), number in self.names.items() if at == parent and number})

    def look_up(self, number: int) -> None:
        found = self.rows.node(number)
        if found is not None:
            assert found == self.nodes.get(number)
        elif number in self.nodes:
            self.rows.put_node(self.nodes[number])


@given(steps, st.sampled_from((1, 1000)))
def test_memory_says_what_the_catalogue_says(steps: list[tuple[object, ...]], limit: int) -> None:
    catalogue = Catalogue(limit)
    for what, *arguments in steps:
        if what == "begin" and catalogue.under_way is None:
            catalogue.begin(*arguments)  # type: ignore[arg-type]
        elif what == "finish" and catalogue.under_way is not None:
            catalogue.finish()
        elif what == "deliver" and catalogue.untold > (catalogue.under_way is not None):
            catalogue.rows.deliver(1)
            catalogue.untold -= 1
        elif what == "look":
            catalogue.look(*arguments)  # type: ignore[arg-type]
        elif what == "list":
            catalogue.list(*arguments)  # type: ignore[arg-type]
        elif what == "look up":
            catalogue.look_up(*arguments)  # type: ignore[arg-type]


def test_a_directory_that_was_just_made_is_known_whole() -> None:
    rows = Remembered()
    assert rows.entry(3, b"a") is None
    rows.know(3, {})
    assert rows.entry(3, b"a") == ABSENT
    commit = rows.begin({(ENTRY.number, 3, b"a"): (3, b"a", 10, 0)})
    assert rows.entry(3, b"a") is None, "before the COMMIT is over, only the catalogue can tell"
    assert rows.entry(3, b"b") == ABSENT
    commit.done = True
    assert rows.entry(3, b"a") == 10
    rows.deliver(1)
    assert rows.entry(3, b"a") == 10
    rows.begin({(ENTRY.number, 3, b"a"): None}).done = True
    assert rows.entry(3, b"a") == ABSENT
    rows.deliver(1)
    assert rows.entry(3, b"a") == ABSENT


def test_what_is_heavy_is_not_remembered() -> None:
    """A file may have 64 KiB of attributes, and many files may."""
    rows = Remembered()
    light = node(10, 1)
    rows.put_node(light)
    rows.begin({(NODE.number, 10): row(msgspec.structs.replace(light, packed=bytes(HEAVY + 1)))}).done = True
    rows.deliver(1)
    assert rows.node(10) is None
    rows.put_node(light)
    rows.put_node(msgspec.structs.replace(light, data=bytes(HEAVY), packed=b"x"))
    assert rows.node(10) is None
