"""Configuration: a TOML file, overridden by TIERCE_* variables, overridden by flags, made into a frozen Config.

Each source yields a flat mapping of dotted keys ("s3.region") to values; the mappings are laid over one another and
converted once.  An unknown key is an error that names the nearest known one: a misspelt key that is silently ignored
would leave its owner believing that, say, TLS is on.  The structs below are the only list of keys: environment names,
help texts, the check of tierce.example.toml and the error messages are all derived from them.

This module knows nothing of what the values are used for; it opens no device, socket or database.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from appliance.limits import COPIES_MAX

DEFAULT_FILE: Final = Path("/etc/tierce/tierce.toml")

# Environment names that are not TIERCE_<SECTION>_<KEY>: the mount point is what everybody means by "the mount".
SPECIAL_ENVIRONMENT: Final = {"mount.point": "TIERCE_MOUNT"}

# TIERCE_ variables that are not configuration: which file to read, and what the project's own tests and scripts take.
FOREIGN_ENVIRONMENT: Final = ("TIERCE_CONFIG", "TIERCE_ALLOW_", "TIERCE_TEST_", "TIERCE_DEMO_")

# Keys of older releases, with what to write instead.  They are errors, never quietly translated: a file that says what
# the daemon does is worth one edit at an upgrade.
STALE_KEYS: Final[dict[str, str]] = {}


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and what to write instead."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class PoolSection(Section, frozen=True):
    """[pool]"""

    name: str = "tierce"
    devices: tuple[str, ...] = ()
    copies: int = 0
    snapshot_interval: float = 3600.0
    upload_expiry: float = 7 * 86_400.0


class S3Section(Section, frozen=True):
    """[s3]"""

    addr: tuple[str, ...] = ("127.0.0.1:9000",)
    domain: str = ""
    website_domain: str = ""
    region: str = "us-east-1"
    tls_cert: str = ""
    tls_key: str = ""


class AdminSection(Section, frozen=True):
    """[admin]"""

    addr: str = "127.0.0.1:9080"


class MountSection(Section, frozen=True):
    """[mount]"""

    enabled: bool = True
    point: str = ""
    allow_other: bool = False
    close: Literal["lazy", "durable"] = "lazy"
    read_only: bool = False
    uid: int = 0
    gid: int = 0
    umask: str = "022"


class LifecycleSection(Section, frozen=True):
    """[lifecycle]"""

    interval: float = 3600.0
    day_seconds: float = 86_400.0


class LogSection(Section, frozen=True):
    """[log]"""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section, frozen=True):
    """Everything that an administrator decides.  Paths are absolute once `load` has made it."""

    state_dir: str = "/var/lib/tierce"
    catalogue: str = ""
    master_key: str = ""
    pool: PoolSection = PoolSection()
    s3: S3Section = S3Section()
    admin: AdminSection = AdminSection()
    mount: MountSection = MountSection()
    lifecycle: LifecycleSection = LifecycleSection()
    log: LogSection = LogSection()

    @property
    def control_socket(self) -> Path:
        """Where the running daemon listens for the command line."""
        return Path(self.state_dir) / "control.sock"

    @property
    def catalogue_path(self) -> Path:
        """The SQLite file: an index of the journal, rebuilt when lost."""
        return Path(self.catalogue) if self.catalogue else Path(self.state_dir) / "catalogue.db"

    @property
    def master_key_path(self) -> Path:
        """The file of the key that seals access keys; a systemd credential wins over it (credentials.py)."""
        return Path(self.master_key) if self.master_key else Path(self.state_dir) / "master.key"

    @property
    def mount_point(self) -> Path:
        """Where the mount goes."""
        return Path(self.mount.point) if self.mount.point else Path(self.state_dir) / "mnt"


def known_keys(section: type[Section] = Config, prefix: str = "") -> dict[str, msgspec.inspect.Type]:
    """Every key by its dotted name, with its type."""
    found: dict[str, msgspec.inspect.Type] = {}
    described = msgspec.inspect.type_info(section)
    assert isinstance(described, msgspec.inspect.StructType)
    for field in described.fields:
        if isinstance(field.type, msgspec.inspect.StructType):
            assert issubclass(field.type.cls, Section)
            found |= known_keys(field.type.cls, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = field.type
    return found


def environment_name(key: str) -> str:
    """The environment variable that overrides `key`: s3.addr -> TIERCE_S3_ADDR."""
    return SPECIAL_ENVIRONMENT.get(key) or "TIERCE_" + key.replace(".", "_").upper()


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """Reads and checks the configuration.

    `file` None: $TIERCE_CONFIG, else /etc/tierce/tierce.toml if it exists.  `environment` None: the process's own.
    `flags` are dotted keys with values that are already typed.  Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    if file is None:
        named = environment.get("TIERCE_CONFIG")
        file = Path(named) if named else DEFAULT_FILE
        values = read_file(file) if named or file.exists() else {}
    else:
        values = read_file(file)
    values |= read_environment(environment)
    for key, value in (flags or {}).items():
        assert key in known_keys(), key
        values[key] = value
    return convert(values)


def read_file(file: Path) -> dict[str, object]:
    """The file's values by dotted key."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    values: dict[str, object] = {}
    known = known_keys()
    sections = {key.partition(".")[0] for key in known if "." in key}
    for name, value in document.items():
        if name not in sections:
            _known(name, [*(key for key in known if "." not in key), *sorted(sections)], str(file), known)
            values[name] = value
        elif isinstance(value, dict):
            of_section = [key for key in known if key.startswith(name + ".")]
            for inner, inner_value in value.items():
                _known(f"{name}.{inner}", of_section, str(file), known)
                values[f"{name}.{inner}"] = inner_value
        else:
            raise ConfigError(f"{file}: [{name}] is a table; write its keys below a line [{name}]")
    return values


def read_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """The values of TIERCE_* variables by dotted key.  Lists are separated by commas; empty means unset."""
    by_name = {environment_name(key): key for key in known_keys()}
    values: dict[str, object] = {}
    for name, text in environment.items():
        if not name.startswith("TIERCE_") or name.startswith(FOREIGN_ENVIRONMENT):
            continue
        _known(name, list(by_name), "environment", by_name)
        if text:
            values[by_name[name]] = _parse(by_name[name], text, name)
    return values


def convert(values: Mapping[str, object]) -> Config:
    """Checks the types and the rules between keys; makes paths absolute."""
    types = known_keys()
    tree: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(types[key], msgspec.inspect.VarTupleType) and isinstance(value, str):
            value = [value]  # one address need not be written as a list
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        key = where.rstrip("`").partition("[")[0]
        kind = types.get(key)
        choices = (
            f"; one of {', '.join(map(str, kind.values))}" if isinstance(kind, msgspec.inspect.LiteralType) else ""
        )
        raise ConfigError(f"{key or 'configuration'}: {text[:1].lower() + text[1:]}{choices}") from error
    _check_rules(config)
    return _absolute(config)


def parse_address(text: str, key: str) -> tuple[str, int]:
    """("127.0.0.1", 9000) from "127.0.0.1:9000"; an IPv6 host stands in brackets; ":9000" means every address."""
    host, colon, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or bare_ipv6:
        raise ConfigError(f'{key}: "{text}" is no address; write HOST:PORT, as 127.0.0.1:9000 or [::1]:9000')
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  an empty host says so


def _known(name: str, near: list[str], where: str, every: Mapping[str, object]) -> None:
    """Raises ConfigError unless `name` is a known key; `near` are the candidates looked at first."""
    if name in every:
        return
    if name in STALE_KEYS:
        raise ConfigError(f"{where}: {name} is no longer a key: {STALE_KEYS[name]}")
    last = name.rpartition(".")[2]
    by_last = {key.rpartition(".")[2]: key for key in near}
    guess = [by_last[close] for close in difflib.get_close_matches(last, by_last, 1, 0.5)]
    if not guess:  # the right word in the wrong table
        everywhere = {key.rpartition(".")[2]: key for key in every}
        guess = [everywhere[close] for close in difflib.get_close_matches(last, everywhere, 1, 0.6)]
    hint = f"did you mean {guess[0]}?" if guess else f"known here: {', '.join(near)}"
    raise ConfigError(f"{where}: unknown key {name}; {hint}")


def _parse(key: str, text: str, name: str) -> object:
    """The value of an environment variable, by the key's type."""
    match known_keys()[key]:
        case msgspec.inspect.VarTupleType():
            return [part.strip() for part in text.split(",") if part.strip()]
        case msgspec.inspect.BoolType():
            if text.lower() not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
                raise ConfigError(f'environment: {name}="{text}" is neither true nor false')
            return text.lower() in ("1", "true", "yes", "on")
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType() as kind:
            try:
                return int(text) if isinstance(kind, msgspec.inspect.IntType) else float(text)
            except ValueError:
                raise ConfigError(f'environment: {name}="{text}" is not a number') from None
        case _:
            return text


def _check_rules(config: Config) -> None:
    """What no single type can say."""
    for address in config.s3.addr:
        parse_address(address, "s3.addr")
    parse_address(config.admin.addr, "admin.addr")
    if not config.s3.addr:
        raise ConfigError("s3.addr: at least one address is needed")
    if bool(config.s3.tls_cert) != bool(config.s3.tls_key):
        raise ConfigError("s3.tls_cert and s3.tls_key belong together: set both, or neither for plain HTTP")
    if not 0 <= config.pool.copies <= COPIES_MAX:
        raise ConfigError(f"pool.copies: {config.pool.copies} is not in 0…{COPIES_MAX}")
    for key, value in (
        ("pool.snapshot_interval", config.pool.snapshot_interval),
        ("pool.upload_expiry", config.pool.upload_expiry),
        ("lifecycle.interval", config.lifecycle.interval),
        ("lifecycle.day_seconds", config.lifecycle.day_seconds),
    ):
        if not value > 0:
            raise ConfigError(f"{key}: {value} is not a number of seconds above 0")
    for key, number in (("mount.uid", config.mount.uid), ("mount.gid", config.mount.gid)):
        if not 0 <= number < 0xFFFF_FFFF:
            raise ConfigError(f"{key}: {number} is no number of a user or group")
    if not (config.mount.umask and set(config.mount.umask) <= set("01234567") and int(config.mount.umask, 8) <= 0o777):
        raise ConfigError(f'mount.umask: "{config.mount.umask}" is not three octal digits, as "022"')
    if not config.pool.name or len(config.pool.name.encode()) > 36 or not config.pool.name.isprintable():
        raise ConfigError("pool.name: 1 to 36 printable characters")


def _absolute(config: Config) -> Config:
    """Relative paths are relative to the working directory of whoever wrote them: fixed before anything changes it."""

    def fix(path: str) -> str:
        return str(Path(path).absolute()) if path else ""

    return msgspec.structs.replace(
        config,
        state_dir=fix(config.state_dir),
        catalogue=fix(config.catalogue),
        master_key=fix(config.master_key),
        pool=msgspec.structs.replace(config.pool, devices=tuple(fix(path) for path in config.pool.devices)),
        s3=msgspec.structs.replace(config.s3, tls_cert=fix(config.s3.tls_cert), tls_key=fix(config.s3.tls_key)),
        mount=msgspec.structs.replace(config.mount, point=fix(config.mount.point)),
    )
