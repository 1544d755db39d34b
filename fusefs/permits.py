"""What the mount's principal may do (H6).

Who acts is the mount's principal: the kernel has checked the process's own permissions (`default_permissions`), and
what the principal may do bounds all of them.  It is asked once for each bucket and remembered: what a mount may do does
not depend on anything that changes while it stands, neither settings of the bucket nor who owns what.

A bucket that the principal may not read is not there: neither looked up nor listed.  Where the principal may not write
at all, a verb that writes is EROFS, else EACCES.

A bucket of which the catalogue lacks what a program has synced is closed until a restart: EIO for whatever is asked of
it, as nothing older may be shown.  What the kernel has cached of it is newer.

The root is exempt: its buckets are each asked about.  `guarded` asks, before each verb.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from pyfuse3 import FUSEError

from appliance.authority import Action, Principal, authorize
from appliance.errors import StoreError
from appliance.model import Bucket

log = logging.getLogger(__name__)

READ: Final = Action.MOUNT_READ
WRITE: Final = Action.MOUNT_WRITE


class Permits:
    """What one principal may do, by bucket."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self._known: dict[tuple[int | None, Action], bool] = {(0, READ): True, (0, WRITE): True}  # 0: of the root
        self._closed: set[int] = set()

    def known(self, action: Action, bucket: int | None) -> bool:
        """Whether `action` is remembered to pass on the bucket of this number."""
        return self._known.get((bucket, action), False)

    def close(self, bucket: Bucket) -> None:
        """Nothing of it may be shown or changed any more."""
        if bucket.id not in self._closed:
            log.critical(
                "%s: what was synced is not in the catalogue; the mount answers EIO until a restart", bucket.name
            )
            self._closed.add(bucket.id)
            for action in Action:
                self._known.pop((bucket.id, action), None)

    def allows(self, action: Action, bucket: Bucket) -> bool:
        """Whether `action` passes."""
        if bucket.id in self._closed:
            return self._asks(action, bucket)  # and is not known to
        known = self._known.get((bucket.id, action))
        if known is None:
            known = self._known[bucket.id, action] = self._asks(action, bucket)
        return known

    def require(self, action: Action, bucket: Bucket | str) -> None:
        """EIO of what is closed, EROFS or EACCES.  A bucket that is not there yet is given by its name."""
        if isinstance(bucket, Bucket) and bucket.id in self._closed:
            raise FUSEError(errno.EIO)
        if not (self.allows(action, bucket) if isinstance(bucket, Bucket) else self._asks(action, bucket)):
            raise FUSEError(errno.EROFS if action is WRITE and self.principal.read_only else errno.EACCES)

    def _asks(self, action: Action, bucket: Bucket | str) -> bool:
        try:
            authorize(self.principal, action, bucket)
        except StoreError:
            return False
        return True
