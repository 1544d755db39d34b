"""`tierce pool recover`: what is lost for good is given up by name, told twice, with the daemon stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.cli import main
from appliance.limits import MIB


@pytest.mark.slow
def test_a_journal_that_is_lost_is_given_up_by_its_name(tmp_path: Path) -> None:
    ssds = [tmp_path / "ssd-a", tmp_path / "ssd-b"]
    for path in ssds:
        with path.open("wb") as file:
            file.truncate(64 * MIB)

    def tierce(*arguments: str, devices: list[Path]) -> tuple[int, str]:
        environment = {"TIERCE_POOL_DEVICES": ",".join(map(str, devices))}
        done = CliRunner().invoke(main, ["--state-dir", str(tmp_path / "state"), *arguments], env=environment)
        return done.exit_code, done.output

    assert tierce("pool", "create", "--ssd", str(ssds[0]), "--ssd", str(ssds[1]), devices=ssds)[0] == 0
    assert tierce("pool", "recover", devices=ssds)[0] == 0, "nothing is missing"
    assert tierce("pool", "recover", devices=ssds[1:])[0] == 0, "what is here is up to date"
    catalogue = tmp_path / "state" / "catalogue.db"
    before = catalogue.read_bytes()
    for command in (["pool", "recover"], ["pool", "recover", "--without", "ssd-a"], ["rebuild-catalogue"]):
        code, output = tierce(*command, devices=ssds[:1])
        assert code == 1
        assert "only ssd-b has it" in output
        assert "`tierce pool recover --without ssd-b`" in output
    assert catalogue.read_bytes() == before, "a refusal leaves everything as it is"
    assert tierce("pool", "recover", "--without", "ssd-b", devices=ssds[:1])[0] == 0
    assert tierce("rebuild-catalogue", devices=ssds[:1])[0] == 0
    code, output = tierce("rebuild-catalogue", devices=ssds[1:])
    assert (code, "only ssd-a has it" in output) == (1, True), output
