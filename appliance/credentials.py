"""Users, access keys and data keys: how they are made, and how their secrets rest.

Theory.  A secret must be readable by the box (SigV4 is symmetric), so it cannot be hashed; it is sealed by AES-256-GCM
under a master key that lies outside the catalogue and outside the pool.  A stolen device or snapshot gives no secret
away.  The access key's id is authenticated with it: a sealed secret moved to another row does not open.

    sealed = version 1 | master key's id 4 | nonce 12 | ciphertext and tag 40 + 16

The master key file is text, one `<id, 8 hex digits> <key, 64 hex digits>` a line; the first line seals, all of them
open: so keys rotate without a moment at which a secret cannot be read.

    1. vault.rotate()                      a new first line
    2. vault.reseal(key) for every access key, stored again, and the same for every data key
    3. vault.forget_old()                  only the first line remains

The data keys of encrypted objects (encryption.py) rest in the same way, bound to their numbers: 32 bytes instead of 40
characters.

The master key comes from $CREDENTIALS_DIRECTORY/tierce-master-key (systemd's LoadCredentialEncrypted=; then rotation
is the operator's) or from a file that only its owner may read, made at first use.

It deliberately doesn't know where keys are kept (ObjectStore.put_access_key, put_data_key) nor who may make one.
No secret appears in a repr, an error or a log.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance import durable
from appliance.errors import Code, StoreError
from appliance.model import AccessKey, User

CREDENTIAL_NAME: Final = "tierce-master-key"
_VERSION: Final = b"\x01"
_KEY_ID_SIZE: Final = 4
_NONCE_SIZE: Final = 12  # NIST SP 800-38D: random nonces are safe for 2^32 seals under one key
_HEAD_SIZE: Final = 1 + _KEY_ID_SIZE + _NONCE_SIZE
_FILE_MAX: Final = 64 * 1024

# AWS's shapes: 20 characters and 40.  No "/" or "+" in a secret: they break where clients put it into a URL.
_ID_ALPHABET: Final = string.ascii_uppercase + string.digits
_SECRET_ALPHABET: Final = string.ascii_letters + string.digits
_ID_PREFIX: Final = "TC"
ID_LENGTH: Final = 20
_USER_NAME: Final = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")  # IAM's: what a policy's ARN may say
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
SECRET_LENGTH: Final = 40


class Vault:
    """Seals and opens secrets.  Open one with `open_vault`."""

    def __init__(self, keys: Mapping[bytes, bytes], path: Path | None) -> None:
        assert keys, "a vault without a key seals nothing"
        self._keys = dict(keys)  # id -> key; the first one seals
        self._path = path  # None: the key came from systemd

    def __repr__(self) -> str:
        return f"<Vault: {len(self._keys)} master keys>"

    @property
    def current(self) -> str:
        """The id of the master key that seals."""
        return next(iter(self._keys)).hex()

    def seal(self, key_id: str, secret: str) -> bytes:
        """The secret of the access key `key_id`, sealed."""
        return self._seal(secret.encode(), _bound_to(key_id))

    def opens(self, key: AccessKey) -> bool:
        """Whether `unseal` would give its secret."""
        try:
            self.unseal(key)
        except StoreError:
            return False
        return True

    def unseal(self, key: AccessKey) -> str:
        """The secret.  Raises StoreError DAMAGED (altered, or sealed for another key) and UNAVAILABLE (its master key
        is not here)."""
        return self._unseal(key.sealed, _bound_to(key.id), f"The secret of {key.id}").decode()

    def is_current(self, key: AccessKey) -> bool:
        """Whether the key's secret is sealed by the current master key."""
        return _sealed_by(key.sealed) == next(iter(self._keys))

    def reseal(self, key: AccessKey) -> AccessKey:
        """The same access key, sealed by the current master key."""
        return AccessKey(
            key.id, key.name, key.owner, key.created_ns, self.seal(key.id, self.unseal(key)), key.read_only, key.buckets
        )

    def wrap(self, number: int, secret: bytes) -> bytes:
        """Data key `number`, sealed."""
        return self._seal(secret, _bound_to_number(number))

    def unwrap(self, number: int, wrapped: bytes) -> bytes:
        """The data key.  Raises StoreError DAMAGED and UNAVAILABLE like `unseal`."""
        return self._unseal(wrapped, _bound_to_number(number), f"Data key {number}")

    def wraps(self, wrapped: bytes) -> bool:
        """Whether a data key is sealed by the current master key."""
        return _sealed_by(wrapped) == next(iter(self._keys))

    def _seal(self, secret: bytes, bound: bytes) -> bytes:
        master_id, master = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return _VERSION + master_id + nonce + AESGCM(master).encrypt(nonce, secret, bound)

    def _unseal(self, sealed: bytes, bound: bytes, what: str) -> bytes:
        if len(sealed) < _HEAD_SIZE or sealed[:1] != _VERSION:
            raise StoreError(Code.DAMAGED, f"{what} is sealed in no known form.")
        master = self._keys.get(_sealed_by(sealed))
        if master is None:
            raise StoreError(
                Code.UNAVAILABLE,
                f"{what} was sealed by master key {_sealed_by(sealed).hex()}, which is not in the key file.",
            )
        try:
            return AESGCM(master).decrypt(sealed[1 + _KEY_ID_SIZE : _HEAD_SIZE], sealed[_HEAD_SIZE:], bound)
        except InvalidTag:
            raise StoreError(Code.DAMAGED, f"{what} does not open.") from None

    def rotate(self) -> str:
        """A new master key seals from now on; the old ones still open.  Returns its id.  Durable when it returns.

        Raises StoreError READ_ONLY when the key comes from systemd.
        """
        path = self._own_file()
        keys = {_new_id(self._keys): secrets.token_bytes(32), **self._keys}
        durable.replace(path, _lines(keys))
        self._keys = keys
        return self.current

    def forget_old(self) -> None:
        """Drops all master keys but the current one, once every access key and data key has been resealed and
        stored."""
        path = self._own_file()
        keys = dict([next(iter(self._keys.items()))])
        durable.replace(path, _lines(keys))
        self._keys = keys

    def _own_file(self) -> Path:
        if self._path is None:
            raise StoreError(
                Code.READ_ONLY,
                f"The master key comes from systemd's credential {CREDENTIAL_NAME}: put a new line first in it "
                "and restart.",
            )
        return self._path


def open_vault(path: Path, environ: Mapping[str, str] = os.environ) -> Vault:
    """The vault of this box: systemd's credential if there is one, else the file at `path`, made if it is missing.

    Raises StoreError ACCESS_DENIED when others than the owner may read the file, DAMAGED when it is not a key file.
    """
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if directory:
        credential = Path(directory, CREDENTIAL_NAME)
        if credential.exists():
            # systemd grants by ACL, whose mask shows as the group's bits: only the others' bits say something here.
            return Vault(_read(credential, forbidden=0o007), None)
    if not path.exists():
        _create(path)
    return Vault(_read(path, forbidden=0o077), path)


def new_user(name: str, display: str, email: str, now_ns: int) -> User:
    """A user who owns nothing yet, with a canonical id of AWS's shape.  Raises StoreError INVALID_ARGUMENT."""
    if not _USER_NAME.fullmatch(name):
        raise StoreError(Code.INVALID_ARGUMENT, "a user's name has 1 to 64 letters, digits and _ + = , . @ -")
    if email and not _EMAIL.fullmatch(email):
        raise StoreError(Code.INVALID_ARGUMENT, f"{email} is not an e-mail address")
    if len(display) > 128 or not (display or name).isprintable():
        raise StoreError(Code.INVALID_ARGUMENT, "a display name has at most 128 printable characters")
    return User(secrets.token_hex(32), name, display or name, email, now_ns)


def new_access_key(
    owner: str, name: str, vault: Vault, now_ns: int, *, read_only: bool = False, buckets: tuple[str, ...] = ()
) -> tuple[AccessKey, str]:
    """A fresh access key and its secret: the only time that it is seen in clear.

    103 bits of randomness in the id's 18 characters, 238 in the secret's 40.
    """
    key_id = _ID_PREFIX + _draw(_ID_ALPHABET, ID_LENGTH - len(_ID_PREFIX))
    secret = _draw(_SECRET_ALPHABET, SECRET_LENGTH)
    key = AccessKey(key_id, name, owner, now_ns, vault.seal(key_id, secret), read_only, buckets)
    return key, secret


def _draw(alphabet: str, count: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(count))


def _bound_to(key_id: str) -> bytes:
    return b"tierce access key secret\x00" + key_id.encode()


def _bound_to_number(number: int) -> bytes:
    return b"tierce data key\x00%d" % number


def _sealed_by(sealed: bytes) -> bytes:
    return sealed[1 : 1 + _KEY_ID_SIZE]


def _new_id(taken: Mapping[bytes, bytes]) -> bytes:
    while True:
        key_id = secrets.token_bytes(_KEY_ID_SIZE)
        if key_id not in taken:
            return key_id


# ---------------------------------------------------------------- the key file


def _read(path: Path, *, forbidden: int) -> dict[bytes, bytes]:
    """Reads a key file that nobody but its owner could have read or written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & forbidden:
            raise StoreError(
                Code.ACCESS_DENIED,
                f"The master key file {path} may be read by others (mode {stat.S_IMODE(status.st_mode):04o}). "
                f"If nobody has: chmod 600 {path}",
            )
        if status.st_uid not in (0, os.geteuid()):
            raise StoreError(
                Code.ACCESS_DENIED,
                f"The master key file {path} belongs to user {status.st_uid}: it must belong to the "
                "daemon's user or root.",
            )
        text = file.read(_FILE_MAX)
    keys: dict[bytes, bytes] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            key_id, key = (bytes.fromhex(part.decode("ascii")) for part in line.split())
        except ValueError:
            raise _not_a_key_file(path) from None
        if len(key_id) != _KEY_ID_SIZE or len(key) != 32 or key_id in keys:
            raise _not_a_key_file(path)
        keys[key_id] = key
    if not keys:
        raise _not_a_key_file(path)
    return keys


def _not_a_key_file(path: Path) -> StoreError:
    # Nothing of the content: half a key is still a secret.
    return StoreError(Code.DAMAGED, f"{path} is not a master key file; restore it from your backup.")


def _create(path: Path) -> None:
    """Makes the file with one key, under its own name only when whole; never over one that is there."""
    fresh = durable.fresh(path, _lines({secrets.token_bytes(_KEY_ID_SIZE): secrets.token_bytes(32)}))
    try:
        os.link(fresh, path)  # fails if another process was faster: then its key is the one
    except FileExistsError:
        return
    finally:
        fresh.unlink(missing_ok=True)
        durable.flush_directory(path)


def _lines(keys: Mapping[bytes, bytes]) -> bytes:
    return b"".join(f"{key_id.hex()} {key.hex()}\n".encode() for key_id, key in keys.items())
