"""The foreign clients as their users start them: each a process with its own settings, all pointed at one box."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.system.box import BIN, HOUSE, Box, clean_environment, digest

INSTALLED: Final = BIN.parent / "clients"
PROGRAMS: Final = Path(__file__).parent / "programs"
TIMEOUT: Final = 300.0
REGION: Final = "us-east-1"


def install() -> None:
    """Everything that the methods below start, from the package registries; quick if it is there."""
    subprocess.run([HOUSE / "scripts" / "clients", INSTALLED], env=clean_environment(), check=True)


def files(root: Path) -> dict[str, str]:
    """Digest of every file below, by relative path."""
    return {str(path.relative_to(root)): digest(path.read_bytes()) for path in root.rglob("*") if path.is_file()}


class Clients:
    """`home` is where clients find and keep their settings and caches; each method returns what the client printed."""

    def __init__(self, box: Box, home: Path) -> None:
        self.box = box
        self.home = home
        # AWS's command line still presigns by version 2 unless told
        (home / "aws-config").write_text("[default]\ns3 =\n  signature_version = s3v4\n")

    def environment(self, **more: str) -> dict[str, str]:
        """What AWS's own tools and most others read."""
        return clean_environment() | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "AWS_ENDPOINT_URL": self.box.endpoint,
            "AWS_ACCESS_KEY_ID": str(self.box.facts["access_key"]),
            "AWS_SECRET_ACCESS_KEY": str(self.box.facts["secret_key"]),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": str(self.home / "aws-config"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # a second attempt would hide what went wrong with the first
            **self.trust(),
            **more,
        }

    def trust(self) -> dict[str, str]:
        """What makes each of them trust a box's own certificate."""
        names = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "RCLONE_CA_CERT")
        return dict.fromkeys(names, str(self.box.certificate)) if self.box.certificate else {}

    def run(self, *words: str | Path, stdin: bytes = b"", fails: bool = False, **more: str) -> str:
        """A client's output.  A test fails with it if the client does (`fails`: if it does not)."""
        done = subprocess.run(
            words, env=self.environment(**more), input=stdin, capture_output=True, check=False, timeout=TIMEOUT
        )
        said = done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode("utf-8", "replace")
        assert bool(done.returncode) == fails, f"{words}: {done.returncode}\n{''.join(said)[-6000:]}\n{self.box.log()}"
        return "".join(said) if fails else said[0]

    def aws(self, *words: str | Path, stdin: bytes = b"", fails: bool = False) -> str:
        """AWS's command line."""
        return self.run(BIN / "aws", *words, stdin=stdin, fails=fails)

    def rclone_environment(self) -> dict[str, str]:
        """A remote called box:, in parts from 5 MiB on."""
        return {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_RETRIES": "1",
            "RCLONE_LOW_LEVEL_RETRIES": "1",
            "RCLONE_CONFIG_BOX_TYPE": "s3",
            "RCLONE_CONFIG_BOX_PROVIDER": "Other",
            "RCLONE_CONFIG_BOX_ENV_AUTH": "true",
            "RCLONE_CONFIG_BOX_ENDPOINT": self.box.endpoint,
            "RCLONE_CONFIG_BOX_CHUNK_SIZE": "5Mi",
            "RCLONE_CONFIG_BOX_UPLOAD_CUTOFF": "8Mi",
        }

    def rclone(self, *words: str | Path, stdin: bytes = b"", fails: bool = False, **more: str) -> str:
        """rclone with its remote box:."""
        return self.run(BIN / "rclone", *words, stdin=stdin, fails=fails, **self.rclone_environment(), **more)

    def s3cmd(self, *words: str | Path, fails: bool = False) -> str:
        """s3cmd with a settings file, as `s3cmd --configure` leaves one."""
        host = self.box.endpoint.removeprefix("http://")
        settings = self.home / "s3cfg"
        settings.write_text(
            f"[default]\naccess_key = {self.box.facts['access_key']}\nsecret_key = {self.box.facts['secret_key']}\n"
            f"host_base = {host}\nhost_bucket = {host}\nuse_https = False\nbucket_location = {REGION}\n"
        )
        return self.run(BIN / "s3cmd", "-c", settings, "--no-progress", *words, fails=fails, PYTHONWARNINGS="ignore")

    def s5cmd(self, *words: str | Path, stdin: bytes = b"", fails: bool = False) -> str:
        """s5cmd."""
        options = ("--endpoint-url", self.box.endpoint, "--retry-count", "0")
        return self.run(INSTALLED / "bin" / "s5cmd", *options, *words, stdin=stdin, fails=fails)

    def restic(self, bucket: str, *words: str | Path) -> str:
        """restic with its repository in a bucket."""
        return self.run(
            "restic",
            *words,
            RESTIC_REPOSITORY=f"s3:{self.box.endpoint}/{bucket}/repository",
            RESTIC_PASSWORD="correct horse",
        )

    def curl(self, *words: str | Path, fails: bool = False) -> str:
        """curl, which fails where the server refuses."""
        return self.run("curl", "--silent", "--show-error", "--fail", *words, fails=fails)

    def python(self, program: str, *words: str | Path) -> str:
        """One of the programs beside this file, by the clients' interpreter."""
        return self.run(INSTALLED / "bin" / "python", PROGRAMS / f"{program}.py", *words)

    def javascript(self, program: str, *words: str | Path) -> str:
        """The same for Node."""
        return self.run(
            INSTALLED / "bin" / "node", PROGRAMS / f"{program}.mjs", *words, NODE_CLIENTS=str(INSTALLED / "node")
        )
