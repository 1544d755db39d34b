"""The S3 door without sockets: raw signed requests, or a whole boto3 client, into the application in this process."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

import boto3
import botocore.awsrequest
import botocore.config
import trio

from appliance.model import AccessKey
from s3front.app import S3App, s3_app
from s3front.sigv4 import format_timestamp
from tests.models import boxes
from tests.s3front.memory_store import MemoryStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

KEY, SECRET, REGION = "AKIATEST", "secret+/=", "eu-test-1"
READER, SCOPED = "AKIAREADER", "AKIASCOPED"
NOW = 1_700_000_000
HOST = "s3.test:9000"
WEBSITES = "sites.test"
EMPTY = hashlib.sha256(b"").hexdigest()


class Answer(NamedTuple):
    """What the client saw."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The S3 code of an error."""
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return found[1].decode() if found else ""


class _RealStore(boxes.Box):
    """The real store over memory devices, its threads as in the daemon, its loop in a thread of its own."""

    def _open(self) -> None:
        self._context = boxes.store_over(self.devices, self.database, threaded=True)
        self.store = self.run(self._context.__aenter__)


class Box:
    """A store with one owner's keys and the application over it.  `seen` collects what was observed.

    `real` puts the real store (or a given one) in the place of its double; then the box is a context manager, and its
    end is an audit.
    """

    def __init__(
        self, *, domain: str | None = None, region: str = REGION, now: float = NOW, real: bool | boxes.Box = False
    ) -> None:
        self._real = _RealStore().__enter__() if real is True else real or None
        self.store: MemoryStore = MemoryStore() if self._real is None else cast(Any, self._real.store)
        self.seen: list[tuple[str, int, float, int, int, str]] = []
        self.now = now
        self._turn = threading.Lock()  # boto3's transfers come from several threads
        self.region = region
        self.app: S3App = s3_app(
            self.store,  # type: ignore[arg-type]  # the mount's verbs are missing
            region=region,
            unseal=lambda key: SECRET,
            domain=domain,
            website_domain=WEBSITES,
            clock=lambda: self.now,
            observe=lambda *seen: self.seen.append(seen),
        )
        self.run(self.store.put_access_key, AccessKey(KEY, "main", "owner", 0, b"sealed"))
        self.run(self.store.put_access_key, AccessKey(READER, "reader", "owner", 0, b"sealed-2", read_only=True))
        self.run(self.store.put_access_key, AccessKey(SCOPED, "scoped", "owner", 0, b"sealed-3", buckets=("b",)))
        self.run(self.store.create_bucket, "b", "owner")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._real is not None:
            try:
                report = self._real.audit(verify=True)
                assert report.clean, report.problems
            finally:
                self._real.__exit__(*exc)

    def run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """`await function(*arguments)` where the store lives."""
        if self._real is not None:
            return self._real.run(function, *arguments)
        return trio.run(function, *arguments)

    def send(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        key: str = KEY,
        payload: str = "",
        sign: bool = True,
        pieces: int = 1,
    ) -> Answer:
        """One request.  `path` and `query` are as on the wire, percent-encoded; the body comes in `pieces` messages."""
        fields = {"host": HOST, "x-amz-date": format_timestamp(int(self.now)).decode()}
        fields |= {name.lower(): value for name, value in (headers or {}).items()}
        fields["x-amz-content-sha256"] = payload or hashlib.sha256(body).hexdigest()
        if body or method in ("PUT", "POST"):
            fields.setdefault("content-length", str(len(body)))
        if sign:
            fields["authorization"] = self.authorization(method, path, query, fields, key)
        return self.raw(method, path, query, [(n.encode(), v.encode()) for n, v in fields.items()], body, pieces)

    def authorization(self, method: str, path: str, query: str, fields: dict[str, str], key: str) -> str:
        """The Authorization header, by the book."""
        names = sorted(n for n in fields if n in ("host", "content-md5") or n.startswith("x-amz-"))
        pairs = sorted(pair.partition("=")[::2] for pair in query.split("&")) if query else []
        canonical = "\n".join(
            [
                method,
                path,
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{' '.join(fields[name].split())}" for name in names),
                "",
                ";".join(names),
                fields["x-amz-content-sha256"],
            ]
        )
        stamp = fields["x-amz-date"]
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        secret = ("AWS4" + SECRET).encode()
        for part in scope.split("/"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        signature = hmac.digest(secret, text.encode(), "sha256").hex()
        return f"AWS4-HMAC-SHA256 Credential={key}/{scope},SignedHeaders={';'.join(names)},Signature={signature}"

    def raw(
        self,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes = b"",
        pieces: int = 1,
        app: Any = None,
    ) -> Answer:
        """One ASGI conversation."""
        step = max(1, -(-len(body) // pieces))
        parts = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("192.0.2.1", 40000),
            "server": ("192.0.2.2", 9000),
            "extensions": {},
        }
        status = 0
        answered: dict[str, str] = {}
        content = bytearray()

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                assert not status
                status = message["status"]
                for name, value in message["headers"]:
                    assert name == name.lower()
                    assert name.decode() not in answered, name
                    assert not re.search(rb"[\x00-\x1f\x7f]", value), (name, value)
                    answered[name.decode()] = value.decode()
            else:
                content.extend(message.get("body", b""))

        with self._turn:
            self.run(app or self.app, scope, receive, send)
            if self._real is None:
                assert self.store.open_readers == 0
                assert self.store.open_ingests == 0
        return Answer(status, answered, bytes(content))


@contextlib.contextmanager
def boto(box: Box, **settings: Any) -> Iterator[S3Client]:
    """A boto3 client whose requests go to the application instead of a socket.  It signs by the real clock."""
    box.now = time.time()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{HOST}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name=box.region,
        config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, **settings),
    )

    def answer(request: Any, **_: Any) -> Any:
        url = urllib.parse.urlsplit(request.url)
        body = request.body
        if body is None:
            body = b""
        elif hasattr(body, "read"):
            body = body.read()
        elif isinstance(body, str):
            body = body.encode()
        fields = [(n.lower().encode(), v if isinstance(v, bytes) else v.encode()) for n, v in request.headers.items()]
        if not any(name == b"host" for name, _ in fields):
            fields.append((b"host", url.netloc.encode()))
        got = box.raw(request.method, url.path, url.query, fields, bytes(body))
        headers: Any = botocore.awsrequest.HeadersDict(got.headers)  # what botocore itself makes
        return botocore.awsrequest.AWSResponse(request.url, got.status, headers, _Raw(got.body))

    client.meta.events.register("before-send.s3", answer)
    try:
        yield client
    finally:
        client.close()


class _Raw:
    """What botocore reads a body from."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self._body

    def read(self, amount: int | None = None) -> bytes:
        taken, self._body = (self._body, b"") if amount is None else (self._body[:amount], self._body[amount:])
        return taken
