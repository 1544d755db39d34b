"""Website hosting's configuration, and what a visitor's request turns into under it (pure).

A website is a bucket seen by browsers: a path that ends with "/" means the index document below it, errors are HTML,
and routing rules redirect, either at once by the beginning of the key or after an error by its status.  This module
reads the configuration, finds the rule, builds Location and the error page; fetching objects is website_door.py's.

Sources: Amazon S3 API Reference, PutBucketWebsite; User Guide, "Hosting a static website", "Configuring an index
document", "Configuring a custom error document", "Syntax for specifying redirection rules".
"""

from __future__ import annotations

import functools
import html
import http
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

from s3front import xml
from s3front.errors import S3Error, invalid_argument
from s3front.xml import Element

RULES_MAX: Final = 50
DOCUMENT_MAX: Final = 128 * 1024  # AWS's bound


class Redirect(NamedTuple):
    """Where a routing rule leads: what is "" is as in the request; `replace_prefix`, `replace_key` None if unsaid."""

    host: str = ""
    protocol: str = ""
    replace_prefix: str | None = None
    replace_key: str | None = None
    status: int = 0  # unsaid: 301


class Rule(NamedTuple):
    """One RoutingRule: a key that begins with `prefix`, and an error of that status (0: before anything is fetched)."""

    prefix: str
    error: int
    redirect: Redirect


class Website(NamedTuple):
    """One WebsiteConfiguration.  `all_to` stands alone; otherwise `suffix` (the index document) is there."""

    suffix: str = ""
    error: str = ""
    all_to: Redirect | None = None
    rules: tuple[Rule, ...] = ()


# ------------------------------------------------------------------------------------------------------- configuration
def parse(document: bytes) -> Website:
    """The configuration in a document.  Raises MalformedXML, InvalidRequest, InvalidArgument."""
    tree = xml.parse(document, "WebsiteConfiguration", DOCUMENT_MAX)
    tree.only("IndexDocument", "ErrorDocument", "RedirectAllRequestsTo", "RoutingRules")
    index, error = _one(tree, "IndexDocument"), _one(tree, "ErrorDocument")
    everything, rules = _one(tree, "RedirectAllRequestsTo"), _one(tree, "RoutingRules")
    if everything is not None:
        if index is not None or error is not None or rules is not None:
            raise S3Error(
                "InvalidRequest", "RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules."
            )
        everything.only("HostName", "Protocol")
        host = _host(everything.need("HostName"))
        return Website(all_to=Redirect(host=host, protocol=_protocol(everything.get("Protocol"))))
    if index is None:
        raise invalid_argument(
            "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty", "IndexDocument"
        )
    suffix = index.only("Suffix").need("Suffix")
    if not suffix or "/" in suffix:
        raise invalid_argument("The IndexDocument Suffix is not well formed", "IndexDocument", suffix)
    key = "" if error is None else error.only("Key").need("Key")
    if error is not None and not key:
        raise invalid_argument("The ErrorDocument Key is not well formed", "ErrorDocument")
    found = () if rules is None else tuple(_rule(child) for child in rules.only("RoutingRule").children)
    if len(found) > RULES_MAX:
        raise S3Error(
            "InvalidRequest",
            f"{len(found)} routing rules provided, the number of routing rules in a website configuration is limited "
            f"to {RULES_MAX}.",
        )
    return Website(suffix, key, None, found)


@functools.lru_cache(maxsize=1024)
def of_bucket(stored: bytes) -> Website:
    """The configuration in a bucket's stored document, which `document` made."""
    return parse(stored)


def document(website: Website) -> bytes:
    """The WebsiteConfiguration of a configuration."""
    if website.all_to is not None:
        to = website.all_to
        content = f"<RedirectAllRequestsTo>{_endpoint(to)}</RedirectAllRequestsTo>"
    else:
        content = f"<IndexDocument>{xml.element('Suffix', website.suffix)}</IndexDocument>"
        if website.error:
            content += f"<ErrorDocument>{xml.element('Key', website.error)}</ErrorDocument>"
        if website.rules:
            content += f"<RoutingRules>{''.join(_written(rule) for rule in website.rules)}</RoutingRules>"
    return xml.document("WebsiteConfiguration", content)


def _endpoint(to: Redirect) -> str:
    return xml.optional("HostName", to.host) + xml.optional("Protocol", to.protocol)


def _written(rule: Rule) -> str:
    condition = xml.optional("KeyPrefixEquals", rule.prefix)
    if rule.error:
        condition += f"<HttpErrorCodeReturnedEquals>{rule.error}</HttpErrorCodeReturnedEquals>"
    to = rule.redirect
    redirect = _endpoint(to)
    if to.replace_prefix is not None:
        redirect += xml.element("ReplaceKeyPrefixWith", to.replace_prefix)
    if to.replace_key is not None:
        redirect += xml.element("ReplaceKeyWith", to.replace_key)
    if to.status:
        redirect += f"<HttpRedirectCode>{to.status}</HttpRedirectCode>"
    condition = f"<Condition>{condition}</Condition>" if condition else ""
    return f"<RoutingRule>{condition}<Redirect>{redirect}</Redirect></RoutingRule>"


def _rule(child: Element) -> Rule:
    child.only("Condition", "Redirect")
    condition, redirect = _one(child, "Condition"), _one(child, "Redirect")
    if redirect is None or not redirect.children:
        raise xml.malformed("A RoutingRule needs a Redirect with at least one element.")
    prefix, error = "", 0
    if condition is not None:
        condition.only("KeyPrefixEquals", "HttpErrorCodeReturnedEquals")
        if not condition.children:
            raise S3Error(
                "InvalidRequest",
                "Condition cannot be empty. To redirect all requests without a condition, the condition element "
                "shouldn't be present.",
            )
        prefix = condition.get("KeyPrefixEquals") or ""
        said = condition.get("HttpErrorCodeReturnedEquals")
        if said is not None:
            error = _status(said)
            if not 400 <= error <= 599:
                raise S3Error(
                    "InvalidRequest", f"The provided HTTP error code ({said}) is not valid. Valid codes are 4XX or 5XX."
                )
    redirect.only("HostName", "Protocol", "ReplaceKeyPrefixWith", "ReplaceKeyWith", "HttpRedirectCode")
    replace_prefix, replace_key = redirect.get("ReplaceKeyPrefixWith"), redirect.get("ReplaceKeyWith")
    if replace_prefix is not None and replace_key is not None:
        raise S3Error("InvalidRequest", "You can only define ReplaceKeyPrefix or ReplaceKey but not both.")
    code = redirect.get("HttpRedirectCode")
    status = 0 if code is None else _status(code)
    if code is not None and not 301 <= status <= 399:
        raise S3Error(
            "InvalidRequest", f"The provided HTTP redirect code ({code}) is not valid. Valid codes are 3XX except 300."
        )
    host = redirect.get("HostName")
    return Rule(
        prefix,
        error,
        Redirect(
            "" if host is None else _host(host),
            _protocol(redirect.get("Protocol")),
            replace_prefix,
            replace_key,
            status,
        ),
    )


def _one(parent: Element, name: str) -> Element | None:
    found = parent.all(name)
    if len(found) > 1:
        raise xml.malformed(f"The element {name} must occur once.")
    return found[0] if found else None


def _status(text: str) -> int:
    text = text.strip()
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() else 0


def _host(text: str) -> str:
    """A host of a Location, hence one visible word without a path."""
    host = text.strip()
    if not host or not host.isascii() or not host.isprintable() or not {*" /?#\\@"}.isdisjoint(host):
        raise S3Error("InvalidRequest", "The HostName of a redirect is not a host name.")
    return host


def _protocol(text: str | None) -> str:
    if text is None:
        return ""
    if text.strip() not in ("http", "https"):
        raise S3Error(
            "InvalidRequest",
            "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected "
            "automatically.",
        )
    return text.strip()


# ------------------------------------------------------------------------------------------------------------ requests
def object_key(website: Website, key: bytes) -> bytes:
    """The key that a path's key means: below a "/" the index document."""
    return key + website.suffix.encode() if not key or key.endswith(b"/") else key


def redirect_of(website: Website, key: bytes, error: int = 0) -> Rule | None:
    """The first routing rule for this key: before anything was fetched, or after an error of that status."""
    for rule in website.rules:
        if rule.error == error and key.startswith(rule.prefix.encode()):
            return rule
    return None


def location(redirect: Redirect, prefix: str, key: bytes, protocol: str, host: str, query: bytes = b"") -> bytes:
    """The Location of a redirect for a request of `key` at `protocol`://`host`; `prefix` is the rule's condition."""
    if redirect.replace_key is not None:
        key = redirect.replace_key.encode()
    elif redirect.replace_prefix is not None:
        key = redirect.replace_prefix.encode() + key[len(prefix.encode()) :]
    target = f"{redirect.protocol or protocol}://{redirect.host or host}/{quoted(key)}".encode("latin-1", "replace")
    return target + b"?" + query if query else target


def quoted(key: bytes) -> str:
    """A key as a URL's path, without its first slash."""
    return quote_from_bytes(key, safe="/!$&'()*+,;=:@-._~")


def error_page(
    error: S3Error, request_id: str, id_2: str, document_error: S3Error | None = None, document_key: str = ""
) -> bytes:
    """The HTML of an error, as AWS writes it; `document_error` is why the error document could not be shown."""
    phrase = http.HTTPStatus(error.status).phrase
    title = f"{error.status} {phrase}"
    facts = [("Code", error.code), ("Message", error.message), *error.details]
    facts += [("RequestId", request_id), ("HostId", id_2)]
    body = f"<h1>{html.escape(title)}</h1>\n{_list(facts)}"
    if document_error is not None:
        inner = [("Code", document_error.code), ("Message", document_error.message), ("Key", document_key)]
        body += f"<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>\n{_list(inner)}"
    return f"<html>\n<head><title>{html.escape(title)}</title></head>\n<body>\n{body}<hr/>\n</body>\n</html>\n".encode()


def _list(facts: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<li>{html.escape(name)}: {html.escape(text)}</li>\n" for name, text in facts)
    return f"<ul>\n{items}</ul>\n"
