"""Freeing in bounded steps: a name goes at once, many bytes go batch by batch, and every state between is sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.catalogue import content, names
from appliance.catalogue.commands import CopyObject, CopyRange, Reap, WriteFile
from appliance.catalogue.content import MAPPED, WHOLE, Content, Maker
from appliance.catalogue.database import Rows
from appliance.catalogue.nodes import put_node
from appliance.catalogue.schema import ENTRY
from appliance.errors import Code
from appliance.model import Body, Node, SharedRange
from tests.appliance.catalogue.batches import NOW, Catalogue
from tests.appliance.catalogue.test_files import Tree, refused

STEP = 3


@pytest.fixture
def tree() -> Tree:
    return Tree()


def pieces(tx: Rows, count: int) -> Content:
    """A flat map of `count` chunks of a few KiB."""
    maker = Maker(1, 0, b"")
    chunks = [content.add_body(tx, Body(3000, bytes(3000)), maker, inline=False).ref for _ in range(count)]
    return content.add_map(tx, [(at * 3000, 3000, WHOLE, chunk, 0) for at, chunk in enumerate(chunks)])


def keep(tree: Tree, name: bytes, make: Callable[[Rows], Content], size: int) -> Node:
    """A file of this content."""

    def work(tx: Rows) -> None:
        made = make(tx)
        number = tx.new_id()
        node = Node(
            number, 0o100644, 0, 0, 1, size, 1, 1, 1, 1, 1, "e", made.kind, made.ref, b"", 0, b"", tree.bucket.id
        )
        put_node(tx, node)
        tx.put(ENTRY, (tree.bucket.root, name, number))
        tx.charge(tree.bucket.id, 1, size)

    tree.catalogue.within(work)
    found = tree.at(name)
    assert found is not None
    return found


def left(catalogue: Catalogue) -> tuple[int, int, int]:
    """How many slices, chunks and maps there are."""
    counts = [catalogue.one(f"SELECT count(*) FROM {table}")[0] for table in ("slice", "chunk", "map")]
    return counts[0], counts[1], counts[2]


def reap_all(catalogue: Catalogue) -> int:
    """Every step, each of which leaves a sound catalogue; how many there were."""
    steps = 0
    while catalogue.reaps:
        before = left(catalogue)
        catalogue.do(Reap(node=catalogue.reaps.pop(0), now_ns=NOW))
        after = left(catalogue)
        assert before[0] - after[0] <= STEP, "no step frees more than it may"
        assert after < before, "every step frees something"
        assert not catalogue.problems()
        steps += 1
    return steps


def test_a_large_file_goes_by_steps(tree: Tree) -> None:
    catalogue = tree.catalogue
    catalogue.drops = STEP
    node = keep(tree, b"large", lambda tx: pieces(tx, 10), 30_000)
    assert tree.delete(b"large").found
    assert tree.at(b"large") is None
    assert catalogue.reaps == [node.id]
    assert left(catalogue) == (7, 7, 1)
    assert catalogue.one("SELECT objects, bytes FROM usage WHERE bucket=?", (tree.bucket.id,)) == (0, 0)
    remains = names.node_by_id(catalogue.one, node.id)
    assert remains is not None
    assert (remains.links, remains.generation) == (0, node.generation + 1)
    assert not catalogue.problems()
    assert reap_all(catalogue) == 3
    assert left(catalogue) == (0, 0, 0)
    assert names.node_by_id(catalogue.one, node.id) is None


def test_what_is_being_freed_is_no_source(tree: Tree) -> None:
    catalogue = tree.catalogue
    catalogue.drops = STEP
    node = keep(tree, b"large", lambda tx: pieces(tx, 10), 30_000)
    tree.delete(b"large")
    copy: dict[str, Any] = {"root": tree.bucket.root, "copies": 1, "key": b"copy", "packed": None, "posix": None}
    with refused(Code.NO_SUCH_NODE):
        catalogue.do(
            CopyObject(
                source=node.id,
                generation=node.generation,
                bucket=tree.bucket.id,
                now_ns=NOW,
                label=b"",
                precondition=None,
                **copy,
            )
        )


def written(tree: Tree, node: Node, size: int, cut: int | None, *punched: tuple[int, int]) -> WriteFile:
    """A change of a file without bytes of its own."""
    return WriteFile(
        node=node.id,
        create=None,
        bucket=tree.bucket.id,
        copies=1,
        mode=node.mode,
        uid=0,
        gid=0,
        atime_ns=1,
        mtime_ns=1,
        now_ns=NOW,
        size=size,
        cut=cut,
        chunks=(),
        slices=(),
        packed=None,
        etag="f",
        label=b"",
        punched=punched,
    )


def copied_range(tree: Tree, source: Node, target: Node) -> CopyRange:
    """All of one file over the beginning of another."""
    change = written(tree, target, max(source.size, target.size), None, (0, source.size))
    return CopyRange(change=change, shared=SharedRange(source.id, 0, 0, source.size, False))


@pytest.mark.parametrize("held", [False, True])
def test_no_range_is_shared_of_what_has_lost_its_name(tree: Tree, *, held: bool) -> None:
    """What was freed of it already would be zeros in the copy.  Whoever has it open copies the bytes."""
    catalogue = tree.catalogue
    catalogue.drops = STEP
    source = keep(tree, b"large", lambda tx: pieces(tx, 10), 30_000)
    target = keep(tree, b"target", lambda tx: pieces(tx, 12), 36_000)
    if held:
        catalogue.held.add(source.id)
    tree.delete(b"large")
    assert left(catalogue) == ((22, 22, 2) if held else (19, 19, 2)), "of what is held all is there still"
    with refused(Code.CONFLICT):
        catalogue.do(copied_range(tree, source, target))
    assert tree.at(b"target") == target
    assert not catalogue.problems()


def test_a_composed_map_goes_by_steps_and_shared_bytes_stay(tree: Tree) -> None:
    catalogue = tree.catalogue
    catalogue.drops = STEP
    shared = keep(tree, b"shared", lambda tx: pieces(tx, 5), 15_000)

    def composed(tx: Rows) -> Content:
        content.share(tx, MAPPED, shared.ref)
        maker = Maker(1, 0, b"")
        small = content.add_body(tx, Body(3000, bytes(3000)), maker, inline=False)
        own = pieces(tx, 8)
        slices = [
            (0, 15_000, MAPPED, shared.ref, 0),
            (15_000, 3000, WHOLE, small.ref, 0),
            (18_000, 24_000, MAPPED, own.ref, 0),
        ]
        return content.add_map(tx, slices)

    keep(tree, b"joined", composed, 42_000)
    assert not catalogue.problems()
    tree.delete(b"joined")
    assert reap_all(catalogue) == 3
    assert left(catalogue) == (5, 5, 1)
    assert catalogue.one("SELECT refs FROM map WHERE id=?", (shared.ref,)) == (1,)
    assert not catalogue.problems()


def test_bytes_without_a_node_get_one_to_be_reaped(tree: Tree) -> None:
    """A part that is replaced, a file that is emptied: nothing with a name is left to hold the rest."""
    catalogue = tree.catalogue
    catalogue.drops = STEP
    node = keep(tree, b"file", lambda tx: pieces(tx, 10), 30_000)
    catalogue.do(written(tree, node, 0, 0))
    emptied = tree.at(b"file")
    assert emptied is not None
    assert (emptied.size, emptied.ref) == (0, 0)
    assert len(catalogue.reaps) == 1
    assert catalogue.reaps != [node.id]
    assert not catalogue.problems()
    reap_all(catalogue)
    assert left(catalogue) == (0, 0, 0)
    assert catalogue.one("SELECT count(*) FROM node WHERE links=0") == (0,)


def test_one_batch_frees_so_much_however_many_commands_it_has(tree: Tree) -> None:
    catalogue = tree.catalogue
    catalogue.drops = STEP
    nodes = [keep(tree, name, lambda tx: pieces(tx, 2), 6000) for name in (b"a", b"b", b"c")]
    tx = catalogue.batch()
    for node in nodes:
        content.drop_node(tx, node)
        tx.delete(ENTRY, (tree.bucket.root, {nodes[0].id: b"a", nodes[1].id: b"b", nodes[2].id: b"c"}[node.id]))
        tx.charge(tree.bucket.id, -1, -6000)
    catalogue.finish(tx)
    assert catalogue.reaps == [nodes[1].id, nodes[2].id]
    assert left(catalogue) == (3, 3, 2)
    reap_all(catalogue)
    assert left(catalogue) == (0, 0, 0)
