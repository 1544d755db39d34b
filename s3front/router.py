"""From a request's shape to the name of one S3 operation (pure).

S3 has no paths of its own beyond /bucket/key: what is asked for is said by the method, the level, and at most one
*sub-resource*, a query parameter such as `?acl` or `?uploads`.  (Parts have `uploadId`; a copy has a header.)
Everything is a table.  Operations declare the routes they serve; `ABSENT` names those of S3 that nothing here serves,
so that they answer NotImplemented instead of being taken for something else: a `PUT /b/k?tagging` must never replace
the object k.  A query parameter that is nobody's sub-resource is only a parameter.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from s3front.errors import S3Error, invalid_argument


class Level(enum.Enum):
    """What a path names."""

    __hash__ = object.__hash__  # members are singletons; Enum's own is a call of Python in every look-up

    SERVICE = "service"
    BUCKET = "bucket"
    OBJECT = "object"


class Route(NamedTuple):
    """One row: `query` is the sub-resource that must be there, `header` the header."""

    method: str
    level: Level
    query: str = ""
    header: bytes = b""


COPY_SOURCE: Final = b"x-amz-copy-source"
T = TypeVar("T")

# Every query parameter by which S3 tells operations apart.  `list-type` chooses between two answers to one question.
SUBRESOURCES: Final = frozenset(
    {
        "abac", "accelerate", "acl", "analytics", "annotation", "append", "attributes", "cors", "delete",
        "encryption", "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "list-type", "location",
        "logging", "metadataAnnotationTable", "metadataConfiguration", "metadataInventoryTable",
        "metadataJournalTable", "metadataTable", "metrics", "notification", "object-lock", "ownershipControls",
        "policy", "policyStatus", "publicAccessBlock", "renameObject", "replication", "requestPayment", "restore",
        "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads", "versioning", "versions",
        "website",
    }
)  # fmt: skip

_B: Final = Level.BUCKET
_O: Final = Level.OBJECT

# S3's operations that are not here.  The PUTs and DELETEs of configurations whose GET tells a client "unset".
ABSENT: Final[dict[tuple[str, Level, str], str]] = {
    ("GET", _B, "abac"): "GetBucketAbac",
    ("PUT", _B, "abac"): "PutBucketAbac",
    ("GET", _O, "annotation"): "GetObjectAnnotation",
    ("PUT", _O, "annotation"): "PutObjectAnnotation",
    ("DELETE", _O, "annotation"): "DeleteObjectAnnotation",
    ("PUT", _B, "analytics"): "PutBucketAnalyticsConfiguration",
    ("DELETE", _B, "analytics"): "DeleteBucketAnalyticsConfiguration",
    ("PUT", _O, "encryption"): "UpdateObjectEncryption",
    ("PUT", _B, "intelligent-tiering"): "PutBucketIntelligentTieringConfiguration",
    ("DELETE", _B, "intelligent-tiering"): "DeleteBucketIntelligentTieringConfiguration",
    ("PUT", _B, "inventory"): "PutBucketInventoryConfiguration",
    ("DELETE", _B, "inventory"): "DeleteBucketInventoryConfiguration",
    ("GET", _B, "metadataConfiguration"): "GetBucketMetadataConfiguration",
    ("POST", _B, "metadataConfiguration"): "CreateBucketMetadataConfiguration",
    ("DELETE", _B, "metadataConfiguration"): "DeleteBucketMetadataConfiguration",
    ("PUT", _B, "metadataAnnotationTable"): "UpdateBucketMetadataAnnotationTableConfiguration",
    ("PUT", _B, "metadataInventoryTable"): "UpdateBucketMetadataInventoryTableConfiguration",
    ("PUT", _B, "metadataJournalTable"): "UpdateBucketMetadataJournalTableConfiguration",
    ("GET", _B, "metadataTable"): "GetBucketMetadataTableConfiguration",
    ("POST", _B, "metadataTable"): "CreateBucketMetadataTableConfiguration",
    ("DELETE", _B, "metadataTable"): "DeleteBucketMetadataTableConfiguration",
    ("PUT", _B, "metrics"): "PutBucketMetricsConfiguration",
    ("DELETE", _B, "metrics"): "DeleteBucketMetricsConfiguration",
    ("PUT", _B, "replication"): "PutBucketReplication",
    ("DELETE", _B, "replication"): "DeleteBucketReplication",
    ("POST", _O, "restore"): "RestoreObject",
    ("POST", _O, "select"): "SelectObjectContent",
    ("GET", _B, "session"): "CreateSession",
}

_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})


class Router(Generic[T]):
    """The table of what is served.  `T` is whatever the caller calls an operation."""

    def __init__(self, routes: Iterable[tuple[Route, T]]) -> None:
        self._plain: dict[tuple[str, Level], T] = {}
        self._by_query: dict[tuple[str, Level, str], T] = {}
        self._copies: dict[tuple[str, Level, str], T] = {}
        for route, operation in routes:
            place = (route.method, route.level, route.query)
            assert route.header in (b"", COPY_SOURCE), route
            assert not route.query or route.query in SUBRESOURCES, route
            table = self._copies if route.header else self._by_query
            assert place not in table, route
            assert route.header or place not in ABSENT, route
            table[place] = operation
            if not route.query and not route.header:
                self._plain[route.method, route.level] = operation

    def find(self, method: str, level: Level, query: Mapping[str, str], headers: Mapping[bytes, bytes]) -> T:
        """The operation.  Raises NotImplemented, MethodNotAllowed, InvalidArgument (two sub-resources)."""
        name = ""
        if query:
            found = query.keys() & SUBRESOURCES
            if found:
                if len(found) > 1:
                    names = ",".join(sorted(found))
                    raise invalid_argument("Conflicting query string parameters: " + names, "ResourceType", names)
                (name,) = found
        elif COPY_SOURCE not in headers:
            operation = self._plain.get((method, level))
            if operation is not None:
                return operation
        place = (method, level, name)
        chosen = self._copies.get(place) if COPY_SOURCE in headers else None
        if chosen is None:
            chosen = self._by_query.get(place)
        if chosen is not None:
            return chosen
        if place in ABSENT:
            raise S3Error("NotImplemented", details=(("Operation", ABSENT[place]),))
        if name and method in _KNOWN_METHODS and not self._serves(level, name):
            raise S3Error("NotImplemented", details=(("ResourceType", name.upper()),))
        allowed = sorted({m for m, of, by in self._by_query if of is level and by == name})
        raise S3Error(
            "MethodNotAllowed",
            details=(("Method", method), ("ResourceType", name.upper() or level.name)),
            headers=((b"allow", ", ".join(allowed).encode()),),  # RFC 9110 §15.5.6: must be there
        )

    def _serves(self, level: Level, name: str) -> bool:
        return any((method, level, name) in self._by_query for method in _KNOWN_METHODS)

    def names(self) -> list[tuple[Route, T]]:
        """Every route that is served, for documents and tests."""
        found = [(Route(*place), operation) for place, operation in self._by_query.items()]
        return found + [(Route(*place, COPY_SOURCE), operation) for place, operation in self._copies.items()]
