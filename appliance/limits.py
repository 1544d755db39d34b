"""Every bound of the product, each with its reason.  Sizes are bytes and times seconds unless the name says
otherwise.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

# --- S3's documented limits ("Amazon S3 multipart upload limits", "General purpose bucket naming rules", "Object key
# names")
OBJECT_SIZE_MAX: Final = 5 * TIB
SINGLE_PUT_MAX: Final = 5 * GIB
PART_SIZE_MIN: Final = 5 * MIB
PART_SIZE_MAX: Final = 5 * GIB
PART_NUMBER_MAX: Final = 10_000
KEY_LENGTH_MAX: Final = 1024
BUCKET_NAME_MIN: Final = 3
BUCKET_NAME_MAX: Final = 63
USER_METADATA_MAX: Final = 2 * KIB
LIST_MAX: Final = 1000
DELETE_KEYS_MAX: Final = 1000
POLICY_MAX: Final = 20 * KIB
GRANTS_MAX: Final = 100  # of one access control list

# --- how bytes are laid out (FORMAT.md)
INLINE_MAX: Final = 2 * KIB  # inline rows above this are slower than a gathered page at 64 clients and bloat snapshots
PATCH_MAX: Final = 16 * KIB  # a change of a file up to this goes into the journal's record: the short path
GATHER_MAX: Final = 128 * KIB  # bodies up to this join their batch's one write; larger ones are streamed page by page
PAGE_PAYLOAD: Final = 4 * MIB  # 64 blocks of 64 KiB: their sums fit a 4 KiB header
PLAN_WINDOW: Final = 64 * MIB  # a longer read is planned window by window: 16 pages and their copies take 0.3 ms
STREAM_PIECE: Final = 2 * MIB  # what a long read takes from a device at once: 1 MiB costs 5 % more CPU, 4 MiB 25 %
BLOCK: Final = 64 * KIB  # the unit of verification: 0.18 CPU-s/GiB; 4 KiB blocks cost three times as much
CHUNK_SIZE: Final = 8 * MIB  # the unit of placement and tiering
COPIES_MAX: Final = 3

# --- commit
BATCH_COMMANDS_MAX: Final = 256
BATCH_BODY_MAX: Final = 16 * MIB  # gathered bytes of one batch: one write per device
PATCHES_MAX: Final = 16 * MIB  # of all patches, for snapshots carry them: beyond it small changes are gathered, too
DROP_STEP: Final = 512  # slices that one batch frees: 20 ms of the writer, 100 KiB of journal; `Reap` frees the rest
SHARED_PIECES_MAX: Final = 256  # of a range that one commit shares, 2 GiB of a file written at once: 40 KiB of journal
UNCOVERED_MAX: Final = 64 * MIB  # a stream longer than this flushes its own pages, so that recovery verifies little

# --- space
WRITE_CEILING: Final = 0.97  # of a device's pages: foreground writes stop here ...
MOVE_CEILING: Final = 0.95  # ... background moves here; deletes, journal and snapshots live from the rest

# --- keys
DATA_KEY_AGE_MAX: Final = 365 * 86_400 * 10**9  # nanoseconds that one data key seals new data
DATA_KEY_BYTES_MAX: Final = 16 * TIB  # ... and bytes: what a leaked key opens is bounded

# --- memory: with all of it in use, and 32 long reads of STREAM_PIECE each besides, the daemon stays below 300 MiB
BUFFER_COUNT: Final = 16  # 4 MiB aligned buffers shared by all large transfers: their exhaustion is the back-pressure
BODY_CACHE: Final = 32 * MIB  # verified small bodies
HEADER_CACHE: Final = 8192  # decoded page headers kept for range reads (2.2 KiB each at most, 3.3 sealed)

# --- the mount
NAME_MAX: Final = 255  # bytes of one name, as in every Linux file system
FILE_SIZE_MAX: Final = OBJECT_SIZE_MAX

# --- HTTP (SECURITY: a connection cannot hold what it does not use)
HEADER_BLOCK_MAX: Final = 16 * KIB
HEADER_COUNT_MAX: Final = 100
HEADER_TIMEOUT: Final = 10.0
XML_MAX: Final = 1 * MIB
CLOCK_SKEW_MAX: Final = 15 * 60
PRESIGNED_EXPIRY_MAX: Final = 604_800
