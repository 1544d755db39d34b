"""Comparison with the documents kept in tests/golden/s3: bytes that clients have seen do not change by accident."""

from __future__ import annotations

import re
from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden" / "s3"


def same(name: str, body: bytes) -> None:
    """The answer is the kept one, but for ids that differ from run to run.

    Line breaks between elements of the kept one are for reading.
    """
    kept = (GOLDEN / f"{name}.xml").read_text()
    prologue, _, rest = kept.partition("\n")
    flat = prologue + "\n" + re.sub(r">\n *<", "><", rest).strip()
    found = re.sub(r"<RequestId>\w+</RequestId>", "<RequestId>ID</RequestId>", body.decode())
    found = re.sub(r"<UploadId>[\w-]+</UploadId>", "<UploadId>UPLOAD</UploadId>", found)
    assert found == flat
