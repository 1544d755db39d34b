"""XML in and out (pure).

Out: answers are f-strings around `escape`.  That is several times faster than building a tree, and safe because every
text passes the one function below.  In: a locked-down expat: no document type, hence no entities, bounded depth and
count, no processing instructions; a document's size was bounded by whoever read it (limits.XML_MAX) and is checked
again.  What a document may contain is said by its reader with `Element.only`, and an unknown element is refused: a typo
in a document must not pass as if it had not been written.

Not known here: what any document means.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Callable, Iterable
from typing import Final

from appliance.limits import XML_MAX
from s3front.errors import S3Error

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
PROLOGUE: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
PARSE_INLINE_MAX: Final = 8 * 1024  # parsing takes some 20 us a KiB: more would hold the loop, and goes to a thread
DEPTH_MAX: Final = 16  # S3's deepest document has 8 levels
ELEMENTS_MAX: Final = 64_000  # the longest document has 10,000 parts of five elements

# Everything that must not stand in text as it is.  XML 1.0 has no way to write most control characters; AWS writes
# them as character references all the same, and clients that care ask for encoding-type=url.
_UNSAFE: Final = re.compile('[&<>"\x00-\x08\x09\x0a\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]')
_ILLEGAL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# A quick look at a key's bytes: anything here needs the careful way.  (0xED and 0xEF begin the odd three-byte forms.)
UNSAFE_BYTES: Final = re.compile(b'[&<>"\x00-\x1f\x7f\xed\xef]')
_NAMED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
# What encoding-type=url leaves as it is, and how it writes each byte of a key.
_URL_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/*-_.~"
_URL: Final = {byte: chr(byte) if byte in _URL_PLAIN else f"%{byte:02X}" for byte in range(256)}


def _reference(match: re.Match[str]) -> str:
    character = match[0]
    return _NAMED.get(character) or f"&#x{ord(character):x};"


def escape(text: str) -> str:
    """Text as element content or attribute value."""
    return _UNSAFE.sub(_reference, text) if _UNSAFE.search(text) else text


def escape_legal(text: str) -> str:
    """Like `escape`, but what XML 1.0 cannot hold becomes U+FFFD: for errors, which every client must read."""
    return escape(_ILLEGAL.sub("\ufffd", text))


def escape_key(key: bytes) -> str:
    """A key as element content.  Keys are UTF-8; should one not be, its odd bytes are shown as \\xNN."""
    return escape(key.decode("utf-8", "backslashreplace"))


def needs_no_escape(text: bytes) -> bool:
    """Whether `bytes.decode` does what `escape_key` would."""
    if UNSAFE_BYTES.search(text):
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def url_key(key: bytes) -> str:
    """A key under encoding-type=url.  A space is %20, which every client decodes (AWS writes `+`)."""
    return key.decode("latin-1").translate(_URL)  # half the cost of urllib's


def quickest(write: Callable[[bytes], str], keys: Iterable[bytes]) -> Callable[[bytes], str]:
    """`write`, which is `escape_key` or `url_key`, or `bytes.decode` if that writes every one of these keys as it does:
    for most keys one look at all of them is enough."""
    text = b"/".join(keys)
    plain = needs_no_escape(text) if write is escape_key else not text.translate(None, _URL_PLAIN)
    return bytes.decode if plain else write


def document(root: str, content: str) -> bytes:
    """A whole answer in S3's namespace."""
    return f'{PROLOGUE}<{root} xmlns="{NAMESPACE}">{content}</{root}>'.encode()


def long_document(root: str, head: str, pieces: list[bytes], tail: str) -> bytes:
    """The same, of a content in encoded pieces: a long text costs each time it is copied."""
    start = f'{PROLOGUE}<{root} xmlns="{NAMESPACE}">{head}'.encode()
    return b"".join([start, *pieces, f"{tail}</{root}>".encode()])


def element(name: str, text: str) -> str:
    """One leaf, escaped."""
    return f"<{name}>{escape(text)}</{name}>"


def optional(name: str, text: str) -> str:
    """One leaf, or nothing for an empty text."""
    return f"<{name}>{escape(text)}</{name}>" if text else ""


class Element:
    """One element of a request: its local name, its own text, its children in order."""

    __slots__ = ("children", "name", "pieces", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.pieces: list[str] = []  # of the text, until the element ends
        self.children: list[Element] = []

    def only(self, *names: str) -> Element:
        """Refuses a child with any other name, and text between children.  Returns itself."""
        for child in self.children:
            if child.name not in names:
                raise malformed(f"The element {child.name} is not expected in {self.name}.")
        if self.children and self.text.strip():
            raise malformed(f"Text is not expected in {self.name}.")
        return self

    def all(self, name: str) -> list[Element]:
        """The children of that name."""
        return [child for child in self.children if child.name == name]

    def get(self, name: str) -> str | None:
        """The text of the only child of that name; None without one.  Raises MalformedXML for two or a nested one."""
        found = [child for child in self.children if child.name == name]
        if not found:
            return None
        if len(found) > 1 or found[0].children:
            raise malformed(f"The element {name} must occur once and contain text.")
        return found[0].text

    def need(self, name: str) -> str:
        """Like `get`, but the child must be there."""
        text = self.get(name)
        if text is None:
            raise malformed(f"The element {name} is missing in {self.name}.")
        return text


def parse(document: bytes, root: str, limit: int = XML_MAX) -> Element:
    """The tree of a request's document whose root is `root` (in S3's namespace or none).  Raises MalformedXML."""
    if len(document) > limit:
        raise S3Error("MaxMessageLengthExceeded")
    builder = _Builder()
    try:
        builder.parser.Parse(document, True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        # ValueError and LookupError: an encoding that Python knows but expat cannot use, or that nobody knows
        raise malformed() from error
    tree = builder.root
    if tree is None or tree.name != root:
        raise malformed(f"The root element must be {root}.")
    return tree


def malformed(message: str = "") -> S3Error:
    """MalformedXML; AWS's sentence first, what is wrong after it."""
    error = S3Error("MalformedXML")
    return S3Error("MalformedXML", f"{error.message}: {message}") if message else error


class _Builder:
    """Collects expat's events into Elements and refuses what S3 documents never have."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self.stack: list[Element] = []
        self.count = 0
        self.parser = parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.SetParamEntityParsing(xml.parsers.expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.characters
        parser.StartDoctypeDeclHandler = self.refuse
        parser.EntityDeclHandler = self.refuse
        parser.UnparsedEntityDeclHandler = self.refuse
        parser.ExternalEntityRefHandler = self.refuse
        parser.ProcessingInstructionHandler = self.refuse

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if namespace not in ("", NAMESPACE):
            raise malformed("The namespace is not S3's.")
        self.count += 1
        if len(self.stack) >= DEPTH_MAX or self.count > ELEMENTS_MAX:
            raise malformed("The document is too deep or too long.")
        node = Element(local)
        if self.stack:
            self.stack[-1].children.append(node)
        else:
            self.root = node
        self.stack.append(node)

    def end(self, name: str) -> None:
        node = self.stack.pop()
        node.text = "".join(node.pieces)  # joined once: text between thousands of children must not be copied each time
        node.pieces.clear()

    def characters(self, text: str) -> None:
        self.stack[-1].pieces.append(text)

    def refuse(self, *parameters: object) -> int:
        raise malformed("Document types, entities and processing instructions are not accepted.")
