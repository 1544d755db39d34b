"""What a commit leaves that failed because a device did: the next try goes to the others.

A batch whose flush fails is failed as a whole (I10), with every file that happened to be closed in that instant; their
programs have heard nothing wrong.  So a commit whose bytes are all still in memory is taken back: the file is as dirty
as before, and is committed once more by whoever waits, or by its age.  Not so when a chunk was on devices already (its
pages are given back), or when another commit of the file was submitted after it: that one's error is kept and told, and
the file is again what was committed.
"""

from __future__ import annotations

from appliance.errors import Code
from fusefs.handles import Commit


def taken_back(commit: Commit) -> bool:
    """After the failed commit left the file's pending ones: whether what it carried is dirty again."""
    file = commit.file
    error = commit.ticket.error
    if getattr(error, "code", None) is not Code.UNAVAILABLE or file.orphan or file.pending:
        return False
    if any(chunk.pages for chunk in commit.chunks) or (commit.makes and file.name is None):
        return False
    file.overlay.unclaim(commit.token)
    file.staged += commit.chunks
    if commit.cut is not None:
        file.cut = commit.cut if file.cut is None else min(commit.cut, file.cut)
    if commit.makes:
        file.create = file.name
        file.until = file.until or commit.ticket.born  # what S3 put there since is newer
    file.attributes_changed = file.attributes_changed or commit.attributes
    commit.again = True
    return True


def given_up(commit: Commit) -> None:
    """After memory let go of the failed commit's bytes: the file has the size that is committed, not zeros where they
    were."""
    file = commit.file
    if file.base is not None and not file.dirty and not file.pending:
        file.misled = file.misled or file.size != file.base.size
        file.size = file.base.size
        file.cut = None


def require_done(commit: Commit) -> None:
    """Raises the error of a commit that is to be tried again."""
    if commit.again:
        assert commit.ticket.error is not None
        raise commit.ticket.error
