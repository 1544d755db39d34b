"""Secrets at rest: sealed, bound to their key, never shown; a master key that others could read is refused."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest

from appliance.credentials import CREDENTIAL_NAME, Vault, new_access_key, open_vault
from appliance.errors import Code, StoreError
from appliance.model import AccessKey
from tests.rows import rows


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault(tmp_path / "master.key", {})


def moved_to(key: AccessKey, key_id: str, sealed: bytes | None = None) -> AccessKey:
    return AccessKey(key_id, key.name, key.owner, key.created_ns, key.sealed if sealed is None else sealed)


def test_a_new_key_looks_like_awss_and_opens(vault: Vault) -> None:
    key, secret = new_access_key("default", "laptop", vault, 42, read_only=True, buckets=("photos",))
    assert len(key.id) == 20
    assert key.id.startswith("TC")
    assert set(key.id) <= set(string.ascii_uppercase + string.digits)
    assert len(secret) == 40
    assert secret.isalnum()
    assert (key.name, key.owner, key.created_ns, key.read_only, key.buckets) == (
        "laptop",
        "default",
        42,
        True,
        ("photos",),
    )
    assert vault.unseal(key) == secret


def test_keys_and_seals_are_never_the_same_twice(vault: Vault) -> None:
    made = [new_access_key("default", "x", vault, 0) for _ in range(50)]
    assert len({key.id for key, _ in made}) == len({secret for _, secret in made}) == 50
    assert len({vault.seal("TC", "same") for _ in range(50)}) == 50


def test_no_secret_in_repr_or_errors(vault: Vault, tmp_path: Path) -> None:
    key, secret = new_access_key("default", "laptop", vault, 0)
    master = (tmp_path / "master.key").read_text().split()[1]
    for shown in (repr(key), str(key), repr(vault), str(vault)):
        assert secret not in shown
        assert repr(key.sealed) not in shown
        assert master not in shown
    with pytest.raises(StoreError) as caught:
        vault.unseal(moved_to(key, "TCSOMEBODYELSE123456"))
    assert secret not in repr(caught.value) + str(caught.value)


def test_a_secret_moved_to_another_key_does_not_open(vault: Vault) -> None:
    key, _ = new_access_key("default", "laptop", vault, 0)
    with pytest.raises(StoreError) as caught:
        vault.unseal(moved_to(key, "TCSOMEBODYELSE123456"))
    assert caught.value.code is Code.DAMAGED


def test_any_altered_byte_is_noticed(vault: Vault) -> None:
    key, _ = new_access_key("default", "laptop", vault, 0)
    for at in range(len(key.sealed)):
        sealed = bytearray(key.sealed)
        sealed[at] ^= 1
        with pytest.raises(StoreError) as caught:
            vault.unseal(moved_to(key, key.id, bytes(sealed)))
        assert caught.value.code in (Code.DAMAGED, Code.UNAVAILABLE)
    for length in range(len(key.sealed)):
        with pytest.raises(StoreError):
            vault.unseal(moved_to(key, key.id, key.sealed[:length]))


def test_the_master_key_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    key, secret = new_access_key("default", "laptop", open_vault(path, {}), 0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]
    before = path.read_bytes()
    assert open_vault(path, {}).unseal(key) == secret
    assert path.read_bytes() == before


def test_a_crash_while_making_the_master_key_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "master.key.new").write_bytes(b"half a k")
    vault = open_vault(tmp_path / "master.key", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]
    assert new_access_key("default", "x", vault, 0)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666, 0o601])
def test_a_master_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    open_vault(path, {})
    path.chmod(mode)
    with pytest.raises(StoreError) as caught:
        open_vault(path, {})
    assert caught.value.code is Code.ACCESS_DENIED
    assert "chmod 600" in caught.value.message


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    open_vault(tmp_path / "real", {})
    (tmp_path / "master.key").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match=r"symbolic link"):
        open_vault(tmp_path / "master.key", {})


@rows(
    "content",
    [
        b"",
        b"\n",
        b"nonsense",
        b"00112233 abcd\n",
        b"0011 " + b"ab" * 32 + b"\n",
        b"00112233 " + b"ab" * 32 + b" extra\n",
        b"00112233 " + b"zz" * 32 + b"\n",
        (b"00112233 " + b"ab" * 32 + b"\n") * 2,
        b"\xff\xfe",
    ],
)
def test_a_damaged_key_file_is_refused_and_its_content_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError) as caught:
        open_vault(path, {})
    assert caught.value.code is Code.DAMAGED
    assert "abab" not in str(caught.value)


def test_rotation_reseals_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    vault = open_vault(path, {})
    key, secret = new_access_key("default", "laptop", vault, 7, buckets=("a",))
    first = vault.current
    assert vault.rotate() != first
    assert path.stat().st_mode & 0o777 == 0o600
    assert not vault.is_current(key)
    assert vault.unseal(key) == secret
    assert open_vault(path, {}).unseal(key) == secret
    fresh = vault.reseal(key)
    assert vault.is_current(fresh)
    assert (fresh.id, fresh.created_ns, fresh.buckets) == (key.id, 7, ("a",))
    vault.forget_old()
    assert open_vault(path, {}).unseal(fresh) == secret
    with pytest.raises(StoreError) as caught:
        open_vault(path, {}).unseal(key)
    assert caught.value.code is Code.UNAVAILABLE
    assert first in caught.value.message


def test_systemds_credential_comes_first_and_is_not_written(tmp_path: Path) -> None:
    directory = tmp_path / "credentials"
    directory.mkdir()
    credential = directory / CREDENTIAL_NAME
    credential.write_bytes(b"00112233 " + b"ab" * 32 + b"\n")
    credential.chmod(0o440)  # what an ACL's mask looks like
    vault = open_vault(tmp_path / "master.key", {"CREDENTIALS_DIRECTORY": os.fspath(directory)})
    assert vault.current == "00112233"
    assert not (tmp_path / "master.key").exists()
    with pytest.raises(StoreError) as caught:
        vault.rotate()
    assert caught.value.code is Code.READ_ONLY
    credential.chmod(0o444)
    with pytest.raises(StoreError) as caught:
        open_vault(tmp_path / "master.key", {"CREDENTIALS_DIRECTORY": os.fspath(directory)})
    assert caught.value.code is Code.ACCESS_DENIED


def test_a_credentials_directory_without_ours_falls_back_to_the_file(tmp_path: Path) -> None:
    open_vault(tmp_path / "master.key", {"CREDENTIALS_DIRECTORY": os.fspath(tmp_path)})
    assert (tmp_path / "master.key").exists()
