"""The rules of the house, read off the source: which room imports which, what pure rooms must not know, sizes."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.rows import rows

HOUSE: Final = Path(__file__).parent.parent
SOURCES: Final = sorted(path for room in ("appliance", "fusefs", "s3front") for path in (HOUSE / room).rglob("*.py"))
TESTS: Final = sorted((HOUSE / "tests").rglob("*.py"))
SCRIPTS: Final = sorted(path for path in (HOUSE / "scripts").glob("*") if path.is_file())
OWN: Final = ("appliance", "fusefs", "s3front")

OPEN: Final = {
    "appliance.errors",
    "appliance.limits",
    "appliance.model",
    "appliance.posix",
    "appliance.authority",
    "appliance.access.acl",
    "appliance.access.actions",
    "appliance.access.blocks",
    "appliance.access.conditions",
    "appliance.access.patterns",
    "appliance.access.policy",
    "appliance.lifecycle",
    "appliance.lock",
    "appliance.quota",
    "appliance.settings",
}
"""Nouns, errors, bounds, modes, who may do what: open to every room; they know nothing of ours but each other."""

# Room -> what of ours it may import besides itself and OPEN.  A room is the longest matching prefix of a module's name.
ARROWS: Final[dict[str, set[str]]] = {
    "appliance.access": set(),
    "appliance.space": set(),
    "appliance.ondisk": set(),
    "appliance.device": {"appliance.ondisk"},
    "appliance.catalogue": set(),
    "appliance.durable": set(),
    "appliance.engine": {
        "appliance.space",
        "appliance.ondisk",
        "appliance.device",
        "appliance.catalogue",
        "appliance.durable",
    },
    "appliance.upkeep": {
        "appliance.engine",
        "appliance.space",
        "appliance.ondisk",
        "appliance.device",
        "appliance.catalogue",
    },
    "appliance.upkeep.expiry": {"appliance.store"},
    "appliance.upkeep.calm": set(),
    "appliance.upkeep.fold": {
        "appliance.upkeep.calm",
        "appliance.store",
        "appliance.engine",
        "appliance.device",
        "appliance.catalogue",
    },
    "appliance.verbs": {"appliance.engine", "appliance.catalogue", "appliance.encryption"},
    "appliance.store": {
        "appliance.verbs",
        "appliance.engine",
        "appliance.catalogue",
        "appliance.device",
        "appliance.ondisk",
    },
    "appliance.opening": {
        "appliance.store",
        "appliance.engine",
        "appliance.catalogue",
        "appliance.device",
        "appliance.credentials",
        "appliance.encryption",
    },
    "appliance.credentials": {"appliance.durable"},
    "appliance.encryption": {"appliance.credentials"},
    "appliance.rotation": {"appliance.credentials", "appliance.store"},
    "appliance.config": set(),
    "appliance.logs": set(),
    "appliance.metrics": {"appliance.store"},
    "appliance.notify": set(),
    "appliance.chores": {"appliance.store"},
    "appliance.premount": {
        "appliance.config",
        "appliance.notify",
        "appliance.mountpoints",
        "appliance.connections",
    },
    "appliance.connections": set(),
    "appliance.mountpoints": {"appliance.connections"},
    "appliance.mounting": {
        "appliance.config",
        "appliance.control",
        "appliance.mountpoints",
        "appliance.connections",
    },
    "appliance.control": set(),
    "appliance.terminal": set(),
    "appliance.invocation": {"appliance.config", "appliance.control"},
    "appliance.formatting": {"appliance.engine", "appliance.device", "appliance.ondisk"},
    "appliance.administration": {
        "appliance.store",
        "appliance.control",
        "appliance.metrics",
        "appliance.credentials",
        "appliance.rotation",
    },
    "appliance.daemon": {"appliance", "fusefs", "s3front"},
    "appliance.cli": {"appliance", "fusefs.interposed"},
    "s3front": {"appliance.store", "appliance.credentials", "appliance.encryption"},
    "fusefs": {"appliance.store", "appliance.mountpoints", "appliance.connections"},
}

PURE: Final = (
    "appliance.access",
    "appliance.lock",
    "appliance.quota",
    "appliance.space",
    "appliance.ondisk",
    "appliance.model",
    "appliance.errors",
    "appliance.limits",
    "appliance.posix",
    "appliance.authority",
    "appliance.lifecycle",
    "s3front.expiry",
    "s3front.lifecycle_document",
    "s3front.sigv4",
    "s3front.aws_chunked",
    "s3front.conditions",
    "s3front.ranges",
    "s3front.xml",
    "s3front.metadata",
    "s3front.post_policy",
    "s3front.router",
    "s3front.head",
    "s3front.checksums",
    "s3front.cors",
    "s3front.tagging",
    "s3front.target",
    "s3front.website",
    "fusefs.tree",
    "fusefs.inodes",
    "fusefs.dirty",
    "fusefs.pieces",
    "fusefs.windows",
)
"""Same input, same output: tested without a loop, a clock, a file or a device."""

IMPURE: Final = {"trio", "sqlite3", "os", "time", "random", "threading", "socket", "subprocess", "asyncio"}

LINES_MAX: Final = 600

# What must not be left behind, written so that this file does not contain it.
FORBIDDEN: Final = re.compile(
    r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b"  # promises
    r"|/ho" + r"me/\w|/Us" + r"ers/\w|/ro" + r"ot/|/wo" + r"rk/"  # a developer's machine
    r"|\bNotImpl" + r"ementedError\b|pytest\.mark\.sk" + r"ip\b|pytest\.mark\.xf" + r"ail\b"
)


def module_name(path: Path) -> str:
    """appliance/engine/commit.py -> appliance.engine.commit."""
    parts = list(path.relative_to(HOUSE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# A statement begins its line (ruff: E401, E702), and parses alone: the syntax trees of whole files take seconds.
IMPORT: Final = re.compile(r"^[ \t]*((?:from[ \t]+\S+[ \t]+import|import)\b(?:[^\n(]*\([^)]*\)|[^\n]*))", re.MULTILINE)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Full names of what a file imports at any depth, TYPE_CHECKING blocks included: an arrow is an arrow."""
    statements = IMPORT.findall(path.read_text("utf-8"))
    return frozenset(_imports(ast.parse("\n".join(statements)), path))


def _imports(tree: ast.Module, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the arrows"
            assert node.module
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


MODULES: Final = {module_name(path) for path in (*SOURCES, *TESTS)}


def within(name: str, room: str) -> bool:
    """Whether a module is the room or lies in it."""
    return name == room or name.startswith(room + ".")


def room_of(name: str) -> str | None:
    """The room that a module belongs to."""
    return max((room for room in ARROWS if within(name, room)), key=len, default=None)


def relative(path: Path) -> str:
    """The test id of a file."""
    return str(path.relative_to(HOUSE))


@rows("path", SOURCES, ids=relative)
def test_arrows_point_inward(path: Path) -> None:
    name = module_name(path)
    if path.name == "__init__.py":
        return  # covered by test_init_files_are_empty
    ours = {imported for imported in imports(path) if imported.partition(".")[0] in OWN}
    if name in OPEN:
        assert ours <= OPEN
        return
    room = room_of(name)
    assert room, f"{name} belongs to no room: add it to ARROWS with what it may import"
    allowed = {room} | OPEN | ARROWS[room]
    wrong = {imported for imported in ours if not any(within(imported, other) for other in allowed)}
    assert not wrong, f"{name} must not import {sorted(wrong)}"


@rows("path", SOURCES, ids=relative)
def test_nothing_but_the_command_line_imports_the_daemon(path: Path) -> None:
    if module_name(path) not in ("appliance.cli", "appliance.daemon"):
        assert not {name for name in imports(path) if within(name, "appliance.daemon")}


def test_there_is_no_circle() -> None:
    """Every file can be read after those it names, even if it names them for their types alone."""
    graph = {module_name(path): imports(path) & MODULES for path in SOURCES}
    assert circle(graph) == []


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that lead back to the first of them; [] if none do."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_every_arrow_starts_at_a_room_that_exists() -> None:
    """A room that is gone or renamed would leave its rule guarding nothing."""
    modules = {module_name(path) for path in SOURCES}
    for room in (*ARROWS, *OPEN, *PURE):
        assert any(within(module, room) for module in modules), f"no module {room}"


@rows("path", [p for p in SOURCES if any(within(module_name(p), room) for room in PURE)], ids=relative)
def test_pure_rooms_know_no_world(path: Path) -> None:
    wrong = {name for name in imports(path) if name.partition(".")[0] in IMPURE}
    assert not wrong, f"{relative(path)} is pure and must not import {sorted(wrong)}"


@rows("path", SOURCES, ids=relative)
def test_modules_say_what_they_are_for(path: Path) -> None:
    if path.name != "__init__.py":
        assert re.match(r'r?"""\S', path.read_text("utf-8")), "a module starts with its purpose"


def test_no_file_is_too_long_to_read() -> None:
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in (*SOURCES, *TESTS)}
    assert not {name: length for name, length in lengths.items() if length > LINES_MAX}


def test_init_files_are_empty() -> None:
    """An __init__.py that imports would hide arrows and make every import of a room cost all of it."""
    assert not [relative(path) for path in (*SOURCES, *TESTS) if path.name == "__init__.py" and path.stat().st_size]


def test_nothing_is_left_behind() -> None:
    rooms = [path for path in HOUSE.iterdir() if path.is_dir() and not path.name.startswith((".", "var"))]
    documents = [*HOUSE.glob("*.md"), *(path for room in rooms for path in room.rglob("*.md"))]
    for path in (*SOURCES, *TESTS, *SCRIPTS, *documents, HOUSE / "pyproject.toml", HOUSE / ".ci" / "run"):
        found = FORBIDDEN.search(path.read_text("utf-8"))
        assert not found, f"{relative(path)}: {found.group()}"


def test_the_rules_catch_what_they_forbid(tmp_path: Path) -> None:
    """The readers above are themselves checked: a rule that never fires is no rule."""
    source = tmp_path / "module.py"
    source.write_text("def f():\n    import trio.lowlevel\n    from appliance.engine import commit\n")
    assert "trio.lowlevel" in set(imports(source))
    assert any(name.startswith("appliance.engine") for name in imports(source))
    assert FORBIDDEN.search("# TO" + "DO: later")
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert room_of("appliance.engine.commit") == "appliance.engine"
