"""Object lock at this door (pure): headers and documents to modes and moments, and back.

Elements that are not S3's and values that are not exactly S3's are refused: a typo in a retention must not pass
(SECURITY, "XML").  Moments are kept by the millisecond, rounded up, so that a client that gives back what it was shown
never shortens a retention.

What a lock means is appliance/lock.py's.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final

import msgspec

from appliance import lock, settings
from appliance.lock import DAYS_MAX, MODES, OFF, ON, YEARS_MAX, Default
from appliance.model import Attributes, Bucket
from s3front import xml
from s3front.errors import S3Error, invalid_argument
from s3front.xml import Element

MODE: Final = b"x-amz-object-lock-mode"
UNTIL: Final = b"x-amz-object-lock-retain-until-date"
HOLD: Final = b"x-amz-object-lock-legal-hold"
HEADERS: Final = frozenset({MODE, UNTIL, HOLD})
BYPASS: Final = b"x-amz-bypass-governance-retention"
BUCKET: Final = b"x-amz-bucket-object-lock-enabled"

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)
_MS_NS: Final = 1_000_000


def require(bucket: Bucket) -> None:
    """Raises InvalidRequest unless the bucket can lock its versions."""
    if settings.LOCK not in bucket.settings:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")


def from_headers(headers: Mapping[bytes, bytes], attributes: Attributes) -> Attributes:
    """With the retention and hold that the request's headers ask for.  Raises InvalidArgument."""
    mode, until, hold = (headers.get(name, b"").decode("latin-1") for name in (MODE, UNTIL, HOLD))
    moment = 0
    if (MODE in headers) != (UNTIL in headers):
        raise invalid_argument(
            "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            (UNTIL if MODE in headers else MODE).decode(),
        )
    if MODE in headers:
        if mode not in MODES:
            raise invalid_argument("Unknown wormMode directive.", MODE.decode(), mode)
        found = parse_moment(until)
        if found is None:
            raise invalid_argument("The retain until date must be provided in ISO 8601 format", UNTIL.decode(), until)
        moment = found
    if HOLD in headers and hold not in (ON, OFF):
        raise invalid_argument("Legal Hold must be either of 'ON' or 'OFF'", HOLD.decode(), hold)
    return msgspec.structs.replace(attributes, retention_mode=mode, retain_until_ns=moment, legal_hold=hold)


def headers(attributes: Attributes) -> list[tuple[bytes, bytes]]:
    """What GET and HEAD show."""
    shown = []
    if attributes.retention_mode:
        shown.append((MODE, attributes.retention_mode.encode()))
        shown.append((UNTIL, write_moment(attributes.retain_until_ns).encode()))
    if attributes.legal_hold:
        shown.append((HOLD, attributes.legal_hold.encode()))
    return shown


def bypasses(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the request asks to overrule GOVERNANCE.  (Whether it may was decided before.)"""
    return headers.get(BYPASS, b"").lower() == b"true"


def parse_moment(text: str) -> int | None:
    """Nanoseconds of an ISO 8601 moment, rounded up to milliseconds; None for anything else."""
    text = text.strip()
    if "T" not in text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    found = -((_EPOCH - moment) // _MILLISECOND) * _MS_NS
    return found if 0 < found < 1 << 63 else None


def write_moment(moment_ns: int) -> str:
    """ISO 8601 by the millisecond."""
    text = (_EPOCH + moment_ns // _MS_NS * _MILLISECOND).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def parse_configuration(document: bytes) -> Default:
    """ObjectLockConfiguration.  Raises MalformedXML, InvalidRetentionPeriod."""
    tree = xml.parse(document, "ObjectLockConfiguration").only("ObjectLockEnabled", "Rule")
    if tree.get("ObjectLockEnabled") != "Enabled":
        raise xml.malformed("ObjectLockEnabled must be Enabled.")
    rules = tree.all("Rule")
    if not rules:
        return Default()
    if len(rules) > 1:
        raise xml.malformed("There is more than one Rule.")
    found = rules[0].only("DefaultRetention").all("DefaultRetention")
    if len(found) != 1:
        raise xml.malformed("A Rule has one DefaultRetention.")
    retention = found[0].only("Mode", "Days", "Years")
    mode, days, years = retention.need("Mode"), retention.get("Days"), retention.get("Years")
    if mode not in MODES:
        raise xml.malformed("Mode must be GOVERNANCE or COMPLIANCE.")
    if (days is None) == (years is None):
        raise xml.malformed("DefaultRetention has either Days or Years.")
    if days is not None:
        return Default(mode, days=_period(days, DAYS_MAX))
    assert years is not None, "one of them is there"
    return Default(mode, years=_period(years, YEARS_MAX))


def _period(text: str, most: int) -> int:
    digits = text.strip()
    if not (digits.removeprefix("-").isdigit() and digits.isascii()):
        raise xml.malformed("A period is a number.")
    if len(digits) > 6 or not 1 <= int(digits) <= most:
        raise S3Error("InvalidRetentionPeriod")
    return int(digits)


def configuration(default: Default) -> bytes:
    """The document of a bucket's lock."""
    rule = ""
    if default.mode:
        period = f"<Days>{default.days}</Days>" if default.days else f"<Years>{default.years}</Years>"
        retention = f"<DefaultRetention><Mode>{default.mode}</Mode>{period}</DefaultRetention>"
        rule = f"<Rule>{retention}</Rule>"
    return xml.document("ObjectLockConfiguration", f"<ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}")


def parse_retention(document: bytes) -> tuple[str, int]:
    """(mode, moment) of a Retention; ("", 0) for an empty one, which ends it.  Raises MalformedXML."""
    tree: Element = xml.parse(document, "Retention").only("Mode", "RetainUntilDate")
    if not tree.children and not tree.text.strip():
        return "", 0
    mode, until = tree.need("Mode"), parse_moment(tree.need("RetainUntilDate"))
    if mode not in MODES or until is None:
        raise xml.malformed("A retention has a Mode of GOVERNANCE or COMPLIANCE and a RetainUntilDate.")
    return mode, until


def retention(attributes: Attributes) -> bytes:
    """The document of a version's retention.  Raises NoSuchObjectLockConfiguration."""
    if not attributes.retention_mode:
        raise S3Error("NoSuchObjectLockConfiguration")
    until = write_moment(attributes.retain_until_ns)
    content = f"<Mode>{attributes.retention_mode}</Mode><RetainUntilDate>{until}</RetainUntilDate>"
    return xml.document("Retention", content)


def parse_hold(document: bytes) -> str:
    """lock.ON or lock.OFF.  Raises MalformedXML."""
    status = xml.parse(document, "LegalHold").only("Status").need("Status")
    if status not in (ON, OFF):
        raise xml.malformed("Status must be ON or OFF.")
    return status


def hold(attributes: Attributes) -> bytes:
    """The document of a version's legal hold.  Raises NoSuchObjectLockConfiguration where none was ever set."""
    if not attributes.legal_hold:
        raise S3Error("NoSuchObjectLockConfiguration")
    return xml.document("LegalHold", f"<Status>{attributes.legal_hold}</Status>")


def setting(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The setting LOCK of a bucket that is made with x-amz-bucket-object-lock-enabled; None without.  Raises
    InvalidArgument."""
    value = headers.get(BUCKET, b"false").lower()
    if value not in (b"true", b"false"):
        raise invalid_argument("The value must be true or false.", BUCKET.decode(), value.decode("latin-1"))
    return lock.pack_default(Default()) if value == b"true" else None
