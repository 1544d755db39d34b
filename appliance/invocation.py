"""What a command of `tierce` works with: the configuration (its file, the environment, flags), and the daemon."""

from __future__ import annotations

from pathlib import Path

from appliance.config import Config, load
from appliance.control import Control


class Settings:
    """Loads the configuration when a command needs it: `--help` and `version` work beside a broken one."""

    def __init__(self, file: Path | None, flags: dict[str, object]) -> None:
        self._file = file
        self._flags = flags

    def config(self, **flags: object) -> Config:
        """With a command's own flags (section__key) on top; None means not given."""
        given = {name.replace("__", "."): value for name, value in flags.items() if value is not None}
        return load(self._file, None, self._flags | given)

    def control(self) -> Control:
        """The running daemon."""
        return Control(self.config().control_socket)
