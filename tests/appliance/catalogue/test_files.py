"""The mount's verbs on a bare catalogue: the cases that a random walk meets too seldom."""

from __future__ import annotations

import stat

import pytest

from appliance.catalogue import names
from appliance.catalogue.commands import (
    DeleteBucket,
    DeleteObject,
    MakeDirectory,
    MakeLink,
    MakeSpecial,
    PutObject,
    Reap,
    RemoveDirectory,
    Rename,
    RenameObject,
    SetAttributes,
    Unlink,
)
from appliance.errors import Code, StoreError
from appliance.model import IMPLIED, Body, Bucket, Deleted, Node, Precondition
from tests.appliance.catalogue.batches import NOW, Catalogue
from tests.rows import rows


class Tree:
    """One bucket and short verbs on its keys."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.bucket: Bucket = self.catalogue.create_bucket()

    def put(self, key: bytes, data: bytes = b"") -> None:
        """An object whose bytes are its key unless told."""
        data = data or key
        self.catalogue.do(
            PutObject(
                bucket=self.bucket.id,
                root=self.bucket.root,
                copies=1,
                key=key,
                body=Body(len(data), data),
                etag="e",
                packed=b"",
                mode=stat.S_IFREG | 0o644,
                uid=0,
                gid=0,
                mtime_ns=NOW,
                atime_ns=NOW,
                flags=0,
                now_ns=NOW,
                label=b"",
                precondition=None,
            )
        )

    def delete(self, key: bytes) -> Deleted:
        gone: Deleted = self.catalogue.do(
            DeleteObject(bucket=self.bucket.id, root=self.bucket.root, key=key, now_ns=NOW, precondition=None)
        )
        return gone

    def at(self, path: bytes) -> Node | None:
        """The node of a key, or of a directory when it ends with "/"."""
        directories, name = names.split(path)
        if path.endswith(b"/"):
            name = directories.pop()
        parent = names.find_parent(self.catalogue.one, self.catalogue.cache, self.bucket.root, directories)
        return names.node_at(self.catalogue.one, parent, name) if parent is not None else None

    def id(self, path: bytes) -> int:
        if not path:
            return self.bucket.root
        node = self.at(path)
        assert node is not None, path
        return node.id

    def mkdir(self, parent: bytes, name: bytes) -> None:
        self.catalogue.do(MakeDirectory(parent=self.id(parent), name=name, mode=0o755, uid=0, gid=0, now_ns=NOW))

    def rename(
        self,
        parent: bytes,
        name: bytes,
        to: bytes,
        new: bytes,
        *,
        directory: bool = False,
        replace: bool = True,
        exchange: bool = False,
    ) -> None:
        self.catalogue.do(
            Rename(
                parent=self.id(parent),
                name=name,
                directory=directory,
                new_parent=self.id(to),
                new_name=new,
                now_ns=NOW + 1,
                replace=replace,
                exchange=exchange,
            )
        )

    def keys(self) -> dict[bytes, bytes]:
        """Every file by its whole key, with its bytes, by walking entries."""
        found: dict[bytes, bytes] = {}
        todo = [(b"", self.bucket.root)]
        for base, directory in todo:
            for name, number in self.catalogue.every("SELECT name, node FROM entry WHERE parent=?", (directory,)):
                if name.endswith(b"/"):
                    todo.append((base + name, number))
                else:
                    node = names.node_by_id(self.catalogue.one, number)
                    assert node is not None
                    found[base + name] = self.catalogue.read_node(node)
        return found

    def check(self, keys: dict[bytes, bytes]) -> None:
        assert self.keys() == keys
        assert self.catalogue.problems() == []


@pytest.fixture
def tree() -> Tree:
    return Tree()


def refused(code: Code) -> pytest.RaisesExc[StoreError]:
    return pytest.RaisesExc(StoreError, check=lambda error: error.code is code)


# ---------------------------------------------------------------------- rename and exchange


def test_exchange_of_two_files(tree: Tree) -> None:
    tree.put(b"d/a")
    tree.put(b"b")
    tree.rename(b"d/", b"a", b"", b"b", exchange=True)
    tree.check({b"d/a": b"b", b"b": b"d/a"})


def test_exchange_of_two_directories(tree: Tree) -> None:
    tree.put(b"a/x/1")
    tree.put(b"b/2")
    tree.rename(b"", b"a", b"", b"b", directory=True, exchange=True)
    tree.check({b"b/x/1": b"a/x/1", b"a/2": b"b/2"})


def test_exchange_of_a_file_and_a_directory(tree: Tree) -> None:
    tree.put(b"a/1")
    tree.put(b"b")
    tree.rename(b"", b"b", b"", b"a", exchange=True)
    tree.check({b"b/1": b"a/1", b"a": b"b"})


def test_exchange_means_the_target_of_the_same_kind_if_two_share_the_name(tree: Tree) -> None:
    tree.put(b"a/1")
    tree.put(b"b/2")
    tree.put(b"b")
    tree.rename(b"", b"a", b"", b"b", directory=True, exchange=True)
    tree.check({b"b/1": b"a/1", b"a/2": b"b/2", b"b": b"b"})


@pytest.mark.parametrize("directory", [True, False])
def test_exchange_never_covers_a_third(tree: Tree, directory: bool) -> None:
    """Where a file and a directory share the source's name, the target of the other kind has no place to go."""
    tree.put(b"a/1")
    tree.put(b"a")
    if directory:
        tree.put(b"b")
    else:
        tree.put(b"b/2")
    before = tree.keys()
    with refused(Code.EXISTS):
        tree.rename(b"", b"a", b"", b"b", directory=directory, exchange=True)
    tree.check(before)


def test_exchange_of_a_name_with_itself(tree: Tree) -> None:
    tree.put(b"a/1")
    tree.put(b"a")
    for directory in (True, False):
        tree.rename(b"", b"a", b"", b"a", directory=directory, exchange=True)
    tree.delete(b"a")
    tree.rename(b"", b"a", b"", b"a", directory=True, exchange=True)
    tree.check({b"a/1": b"a/1"})


def test_exchange_into_itself_is_refused(tree: Tree) -> None:
    tree.put(b"a/b/c/1")
    for parent, name, to, new in ((b"", b"a", b"a/b/", b"c"), (b"a/b/", b"c", b"", b"a")):
        with refused(Code.INVALID_ARGUMENT):
            tree.rename(parent, name, to, new, directory=True, exchange=True)
    with refused(Code.NO_SUCH_NODE):
        tree.rename(b"", b"a", b"", b"nowhere", directory=True, exchange=True)
    tree.check({b"a/b/c/1": b"a/b/c/1"})


def test_a_renamed_directory_takes_everything_along(tree: Tree) -> None:
    for key in (b"a/b/1", b"a/b/c/2", b"a/b/"):
        tree.put(key)
    tree.rename(b"a/", b"b", b"", b"z", directory=True)
    tree.check({b"z/1": b"a/b/1", b"z/c/2": b"a/b/c/2", b"z/": b"a/b/"})
    assert tree.at(b"a/") is None  # it was implied by what has left
    node = tree.at(b"z/c/")
    assert node is not None
    assert names.key_of(tree.catalogue.one, node.id, b"2", tree.bucket.root) == b"z/c/2"


def test_a_directory_replaces_only_an_empty_one(tree: Tree) -> None:
    tree.put(b"a/1")
    tree.mkdir(b"", b"b")
    tree.put(b"c/")
    tree.put(b"f")
    with refused(Code.NOT_EMPTY):
        tree.rename(b"", b"a", b"", b"c", directory=True)
    with refused(Code.NOT_A_DIRECTORY):
        tree.rename(b"", b"a", b"", b"f", directory=True)
    with refused(Code.EXISTS):
        tree.rename(b"", b"a", b"", b"b", directory=True, replace=False)
    with refused(Code.IS_A_DIRECTORY):
        tree.rename(b"", b"f", b"", b"b")
    tree.rename(b"", b"a", b"", b"b", directory=True)
    tree.check({b"b/1": b"a/1", b"c/": b"c/", b"f": b"f"})


def test_two_names_of_one_file_do_not_replace_each_other(tree: Tree) -> None:
    tree.put(b"a")
    tree.catalogue.do(MakeLink(node=tree.id(b"a"), parent=tree.bucket.root, name=b"b", now_ns=NOW))
    tree.rename(b"", b"a", b"", b"b")
    tree.check({b"a": b"a", b"b": b"a"})


def test_nothing_crosses_buckets(tree: Tree) -> None:
    tree.put(b"a")
    other = tree.catalogue.create_bucket("other")
    with refused(Code.CROSSES_BUCKETS):
        tree.catalogue.do(
            Rename(
                parent=tree.bucket.root,
                name=b"a",
                directory=False,
                new_parent=other.root,
                new_name=b"a",
                now_ns=NOW,
                replace=True,
                exchange=False,
            )
        )
    with refused(Code.CROSSES_BUCKETS):
        tree.catalogue.do(MakeLink(node=tree.id(b"a"), parent=other.root, name=b"a", now_ns=NOW))


# ---------------------------------------------------------------------- directories that come and go


def test_implied_directories_vanish_with_their_last_entry(tree: Tree) -> None:
    tree.put(b"a/b/c/1")
    tree.put(b"a/2")
    assert tree.delete(b"a/b/c/1").found
    assert (tree.at(b"a/b/"), tree.at(b"a/b/c/")) == (None, None)
    assert tree.delete(b"a/2").found
    assert tree.at(b"a/") is None
    tree.check({})


def test_a_touched_directory_is_explicit_and_stays(tree: Tree) -> None:
    tree.put(b"a/b/1")
    node = tree.at(b"a/b/")
    assert node is not None
    assert node.flags & IMPLIED
    tree.catalogue.do(
        SetAttributes(
            node=node.id, now_ns=NOW, mode=0o700, uid=None, gid=None, atime_ns=None, mtime_ns=None, packed=None
        )
    )
    tree.delete(b"a/b/1")
    assert tree.at(b"a/b/") is not None
    tree.check({})


def test_a_held_implied_directory_stays_until_it_is_reaped(tree: Tree) -> None:
    tree.put(b"a/b/1")
    held = tree.id(b"a/b/")
    tree.catalogue.held.add(held)
    tree.delete(b"a/b/1")
    assert tree.at(b"a/b/") is not None
    tree.catalogue.do(Reap(node=held, now_ns=NOW))
    assert tree.at(b"a/b/") is not None
    tree.catalogue.held.clear()
    tree.catalogue.do(Reap(node=held, now_ns=NOW))
    assert tree.at(b"a/") is None
    tree.check({})


def test_a_held_file_keeps_its_bytes_until_it_is_reaped(tree: Tree) -> None:
    tree.put(b"a", b"x" * 3000)
    node = tree.at(b"a")
    assert node is not None
    tree.catalogue.held.add(node.id)
    tree.catalogue.do(Unlink(parent=tree.bucket.root, name=b"a", now_ns=NOW))
    left = names.node_by_id(tree.catalogue.one, node.id)
    assert left is not None
    assert left.links == 0
    with refused(Code.NO_SUCH_NODE):
        tree.catalogue.do(MakeLink(node=node.id, parent=tree.bucket.root, name=b"b", now_ns=NOW))
    tree.catalogue.held.clear()
    tree.catalogue.do(Reap(node=node.id, now_ns=NOW))
    assert names.node_by_id(tree.catalogue.one, node.id) is None
    assert tree.catalogue.one("SELECT count(*) FROM chunk")[0] == 0
    tree.check({})


def test_rmdir_takes_only_the_marker_along(tree: Tree) -> None:
    tree.put(b"a/")
    tree.put(b"b/1")
    with refused(Code.NOT_EMPTY):
        tree.catalogue.do(RemoveDirectory(parent=tree.bucket.root, name=b"b", now_ns=NOW))
    tree.catalogue.do(RemoveDirectory(parent=tree.bucket.root, name=b"a", now_ns=NOW))
    with refused(Code.NO_SUCH_NODE):
        tree.catalogue.do(RemoveDirectory(parent=tree.bucket.root, name=b"a", now_ns=NOW))
    tree.check({b"b/1": b"b/1"})


def test_names_are_free_or_taken(tree: Tree) -> None:
    tree.put(b"a")
    tree.put(b"d/1")
    for name in (b"a", b"d"):
        with refused(Code.EXISTS):
            tree.mkdir(b"", name)
        with refused(Code.EXISTS):
            tree.catalogue.do(
                MakeSpecial(parent=tree.bucket.root, name=name, mode=stat.S_IFLNK, uid=0, gid=0, now_ns=NOW)
            )
        with refused(Code.EXISTS):
            tree.catalogue.do(MakeLink(node=tree.id(b"a"), parent=tree.bucket.root, name=name, now_ns=NOW))
    with refused(Code.NOT_A_DIRECTORY):
        tree.catalogue.do(MakeDirectory(parent=tree.id(b"a"), name=b"x", mode=0o755, uid=0, gid=0, now_ns=NOW))


def test_odd_segments_are_directories_like_others(tree: Tree) -> None:
    keys = [b"a//b", b"/lead", b"a/../c", b"./x", b"d/", b"d//", b"e" * 300 + b"/f"]
    for key in keys:
        tree.put(key)
    tree.check({key: key for key in keys})
    for key in keys:
        assert tree.delete(key).found
    tree.check({})
    assert tree.catalogue.one("SELECT count(*) FROM entry")[0] == 0


# ---------------------------------------------------------------------- buckets


def test_a_bucket_with_only_empty_directories_can_go(tree: Tree) -> None:
    tree.mkdir(b"", b"a")
    tree.mkdir(b"a/", b"b")
    tree.mkdir(b"a/b/", b"c")
    tree.mkdir(b"", b"z")
    tree.catalogue.do(DeleteBucket(name="bucket", now_ns=NOW))
    for table in ("bucket", "entry", "node"):
        assert tree.catalogue.one(f"SELECT count(*) FROM {table}")[0] == 0
    assert tree.catalogue.problems() == []
    with refused(Code.NO_SUCH_BUCKET):
        tree.put(b"late")


def test_a_bucket_with_a_deep_object_stays(tree: Tree) -> None:
    tree.mkdir(b"", b"a")
    tree.put(b"a/b/1")
    with refused(Code.BUCKET_NOT_EMPTY):
        tree.catalogue.do(DeleteBucket(name="bucket", now_ns=NOW))
    tree.check({b"a/b/1": b"a/b/1"})


# ---------------------------------------------------------------------- what S3 cannot see, and S3's own rename


def link(tree: Tree, name: bytes) -> None:
    tree.catalogue.do(MakeSpecial(parent=tree.bucket.root, name=name, mode=stat.S_IFLNK, uid=0, gid=0, now_ns=NOW))


@rows("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o600, stat.S_IFSOCK | 0o600, stat.S_IFBLK | 0o600])
def test_what_is_no_file_is_nothing_to_s3(mode: int) -> None:
    """It is not deleted by its key, meets no condition, and gives way to an object as a name does."""
    tree = Tree()
    tree.catalogue.do(
        MakeSpecial(parent=tree.bucket.root, name=b"link", mode=mode, rdev=0x103, uid=1, gid=2, now_ns=NOW)
    )
    made = tree.at(b"link")
    assert made is not None
    assert (made.mode, made.ref, made.uid, made.gid, made.links, made.size) == (mode, 0x103, 1, 2, 1, 0)
    number = tree.id(b"link")
    assert not tree.delete(b"link").found
    assert tree.id(b"link") == number
    for condition, code in ((Precondition(if_match="*"), Code.NO_SUCH_KEY), (Precondition(if_none_match="*"), None)):
        command = PutObject(
            bucket=tree.bucket.id,
            root=tree.bucket.root,
            copies=1,
            key=b"link",
            body=Body(1, b"x"),
            etag="e",
            packed=b"",
            mode=stat.S_IFREG | 0o644,
            uid=0,
            gid=0,
            mtime_ns=NOW,
            atime_ns=NOW,
            flags=0,
            now_ns=NOW,
            label=b"",
            precondition=condition,
        )
        if code is not None:
            with refused(code):
                tree.catalogue.do(command)
        else:
            tree.catalogue.do(command)
    tree.check({b"link": b"x"})


def give(tree: Tree, key: bytes, new_key: bytes, condition: Precondition | None = None, generation: int = 1) -> None:
    command = RenameObject(
        bucket=tree.bucket.id,
        root=tree.bucket.root,
        key=key,
        source=tree.id(key),
        generation=generation,
        new_key=new_key,
        now_ns=NOW + 1,
        precondition=condition,
    )
    tree.catalogue.do(command)


def test_an_object_gets_another_key(tree: Tree) -> None:
    tree.put(b"a/b/1")
    before = tree.at(b"a/b/1")
    give(tree, b"a/b/1", b"a/c/d/2")
    assert tree.at(b"a/b/") is None  # it was only implied
    give(tree, b"a/c/d/2", b"a/c/d")
    tree.put(b"x", b"gone")
    link(tree, b"link")
    give(tree, b"a/c/d", b"x")
    give(tree, b"x", b"link", Precondition(if_none_match="*"))
    give(tree, b"link", b"link")
    tree.check({b"link": b"a/b/1"})
    after = tree.at(b"link")
    assert before is not None
    assert after is not None
    assert (after.id, after.written_ns, after.etag) == (before.id, before.written_ns, before.etag)


def test_what_is_not_given_another_key(tree: Tree) -> None:
    tree.put(b"a")
    tree.put(b"b")
    with refused(Code.PRECONDITION_FAILED):
        give(tree, b"a", b"b", Precondition(if_none_match="*"))
    with refused(Code.NO_SUCH_KEY):
        give(tree, b"a", b"c", Precondition(if_match="*"))
    with refused(Code.NO_SUCH_NODE):
        give(tree, b"a", b"c", generation=2)
    tree.check({b"a": b"a", b"b": b"b"})


def links(tree: Tree, *paths: bytes) -> list[int]:
    nodes = [names.node_by_id(tree.catalogue.one, tree.id(path)) for path in paths]
    return [node.links for node in nodes if node is not None]


def test_a_directory_has_a_link_for_each_subdirectory(tree: Tree) -> None:
    """ "." and its name make two, and each subdirectory's ".." one more (stat(2), st_nlink); files make none."""
    for name in (b"a", b"b"):
        tree.mkdir(b"", name)
        tree.mkdir(name + b"/", b"c")
    tree.put(b"a/file")
    tree.put(b"b/x/y/key")
    assert links(tree, b"", b"a/", b"b/", b"b/x/", b"b/x/y/") == [4, 3, 4, 3, 2]
    tree.delete(b"b/x/y/key")  # and the directories that only it implied
    assert links(tree, b"", b"a/", b"b/") == [4, 3, 3]
    tree.rename(b"a/", b"c", b"b/", b"d", directory=True)
    assert links(tree, b"", b"a/", b"b/") == [4, 2, 4]
    tree.rename(b"b/", b"c", b"b/", b"d", directory=True)  # over an empty one, in one place
    assert links(tree, b"", b"a/", b"b/", b"b/d/") == [4, 2, 3, 2]
    tree.rename(b"b/", b"d", b"b/", b"e", directory=True)
    assert links(tree, b"b/", b"b/e/") == [3, 2]
    tree.rename(b"b/", b"e", b"a/", b"file", directory=True, exchange=True)  # a directory with a file
    assert links(tree, b"", b"a/", b"b/") == [4, 3, 2]
    tree.mkdir(b"b/", b"g")
    tree.rename(b"b/", b"g", b"a/", b"file", directory=True, exchange=True)  # with another directory
    assert links(tree, b"a/", b"b/") == [3, 3]
    tree.rename(b"b/", b"g", b"a/", b"file", directory=True)  # over an empty one elsewhere
    assert links(tree, b"a/", b"b/") == [3, 2]
    tree.catalogue.do(RemoveDirectory(parent=tree.id(b"a/"), name=b"file", now_ns=NOW))
    assert links(tree, b"", b"a/", b"b/") == [4, 2, 2]
    tree.check({b"b/e": b"a/file"})
