"""Configuration: where values come from, who wins, and what is said when one is wrong."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from appliance import config
from appliance.config import Config, ConfigError, load
from tests.rows import rows

EXAMPLE = Path(__file__).parents[2] / "tierce.example.toml"


def written(path: Path, text: str) -> Path:
    """A configuration file."""
    file = path / "tierce.toml"
    file.write_text(text)
    return file


def refused(file: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """The message of the refusal."""
    with pytest.raises(ConfigError) as caught:
        load(file, environment or {})
    return str(caught.value)


def test_flags_win_over_environment_wins_over_file(tmp_path: Path) -> None:
    file = written(tmp_path, '[s3]\nregion = "of-file"\ndomain = "file.example"\naddr = "127.0.0.1:1"\n')
    environment = {"TIERCE_S3_REGION": "of-environment", "TIERCE_S3_ADDR": "127.0.0.1:2"}
    loaded = load(file, environment, {"s3.region": "of-flag"})
    assert loaded.s3.region == "of-flag"
    assert loaded.s3.addr == ("127.0.0.1:2",)
    assert loaded.s3.domain == "file.example"


def test_without_a_file_the_defaults_hold() -> None:
    loaded = load(None, {"TIERCE_CONFIG": ""})
    assert loaded == config.convert({})
    assert (loaded.s3.addr, loaded.admin.addr, loaded.s3.region) == (
        ("127.0.0.1:9000",),
        "127.0.0.1:9080",
        "us-east-1",
    )


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert f"cannot read {missing}" in refused(missing)
    assert f"cannot read {missing}" in refused(None, {"TIERCE_CONFIG": str(missing)})


def test_the_example_shows_every_key_with_its_default() -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    flat = {
        f"{name}.{inner}" if isinstance(value, dict) else name: content
        for name, value in document.items()
        for inner, content in (value.items() if isinstance(value, dict) else [("", value)])
    }
    assert set(flat) == set(config.known_keys())
    assert msgspec.convert(document, Config) == Config()


def test_the_example_explains_every_key() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"(\w+) = ", line):
            above = lines[number - 1]
            assert above.startswith("#") or match[1] == "tls_key", f"{match[1]} is not explained"


@rows(
    ("text", "named"),
    [
        ('[s3]\naddres = "x"', "did you mean s3.addr?"),
        ('regoin = "x"', "did you mean s3.region?"),
        ('[s4]\naddr = "x"', "did you mean s3?"),
        ('region = "x"', "did you mean s3.region?"),
        ("[mount]\nzzzzzz = 1", "known here: mount.enabled, mount.point"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, named: str) -> None:
    assert named in refused(written(tmp_path, text))


def test_an_unknown_variable_names_the_nearest() -> None:
    assert "did you mean TIERCE_S3_ADDR?" in refused(None, {"TIERCE_S3_ADDRESS": "127.0.0.1:1"})


def test_a_stale_key_says_what_replaced_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.STALE_KEYS, "s3.listen", "use s3.addr")
    assert "s3.listen is no longer a key: use s3.addr" in refused(written(tmp_path, '[s3]\nlisten = "x"'))


def test_no_known_key_is_stale() -> None:
    assert not set(config.STALE_KEYS) & set(config.known_keys())


@rows(
    ("text", "said"),
    [
        ("[pool]\ncopies = 4", "pool.copies: 4 is not in 0…3"),
        ('[pool]\ncopies = "two"', "pool.copies: expected `int`, got `str`"),
        ("[pool]\nsnapshot_interval = 0", "pool.snapshot_interval"),
        ('[pool]\nname = ""', "pool.name"),
        ('[s3]\naddr = "nowhere"', '"nowhere" is no address'),
        ('[s3]\naddr = "::1:9000"', "is no address"),
        ('[s3]\naddr = "localhost:99999"', "is no address"),
        ("[s3]\naddr = []", "at least one address"),
        ("[s3]\naddr = [1]", "s3.addr: expected `str`, got `int`"),
        ('[s3]\ntls_cert = "x"', "belong together"),
        ('[admin]\naddr = "9080"', "admin.addr"),
        ('[log]\nlevel = "loud"', "one of debug, error, info, warning"),
        ('[mount]\nclose = "maybe"', "one of durable, lazy"),
        ("mount = true", "[mount] is a table"),
        ("= 1", "is not valid TOML"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("TIERCE_MOUNT_ENABLED", "maybe", "neither true nor false"),
        ("TIERCE_POOL_COPIES", "two", "is not a number"),
        ("TIERCE_LOG_FORMAT", "xml", "one of json, text"),
    ],
)
def test_a_wrong_variable_is_named(name: str, text: str, said: str) -> None:
    assert said in refused(None, {name: text})


def test_variables_are_read_by_the_keys_type() -> None:
    loaded = load(
        None,
        {
            "TIERCE_MOUNT": "/m",
            "TIERCE_MOUNT_ENABLED": "off",
            "TIERCE_POOL_COPIES": "2",
            "TIERCE_POOL_SNAPSHOT_INTERVAL": "1.5",
            "TIERCE_POOL_DEVICES": "/dev/a, /dev/b",
            "TIERCE_S3_REGION": "",
            "UNRELATED": "x",
            "TIERCE_ALLOW_NO_FUSE": "1",
        },
    )
    assert loaded.mount_point == Path("/m")
    assert not loaded.mount.enabled
    assert (loaded.pool.copies, loaded.pool.snapshot_interval) == (2, 1.5)
    assert loaded.pool.devices == ("/dev/a", "/dev/b")
    assert loaded.s3.region == "us-east-1"


def test_every_variable_is_one_of_a_kind() -> None:
    names = [config.environment_name(key) for key in config.known_keys()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith(config.FOREIGN_ENVIRONMENT)]


def test_relative_paths_are_fixed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(None, {"TIERCE_STATE_DIR": "var"})
    assert loaded.control_socket == tmp_path / "var" / "control.sock"
    assert loaded.catalogue_path == tmp_path / "var" / "catalogue.db"
    assert loaded.mount_point == tmp_path / "var" / "mnt"
    assert loaded.master_key_path == tmp_path / "var" / "master.key"
    assert load(None, {}, {"master_key": "/k"}).master_key_path == Path("/k")


@pytest.mark.parametrize(
    ("text", "pair"),
    [(":80", ("0.0.0.0", 80)), ("[::1]:9000", ("::1", 9000)), ("box.local:0", ("box.local", 0))],
)
def test_addresses(text: str, pair: tuple[str, int]) -> None:
    assert config.parse_address(text, "s3.addr") == pair
