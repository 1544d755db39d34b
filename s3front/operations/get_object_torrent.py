"""GetObjectTorrent: GET /bucket/key?torrent.  There is none: AWS has made none since 2022, and none was made here."""

from __future__ import annotations

from typing import Final, NoReturn

from appliance.authority import Action
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.router import Level, Route

NAME: Final = "GetObjectTorrent"
ACTION: Final = Action.GET_OBJECT_TORRENT
ROUTES: Final = (Route("GET", Level.OBJECT, "torrent"),)


async def operate(door: Door, request: Request) -> NoReturn:
    """Raises NoSuchKey."""
    raise S3Error("NoSuchKey", details=(("Key", request.key.decode("utf-8", "backslashreplace")),))
