"""The Dockerfile's steps without a container engine: stages are folders, `RUN` is a command in a chroot.

1. A stage begins as a copy of its base: another stage, or for an image from a registry a Debian from debootstrap
   with the same commands (`python`). Debian's Python is not that image's; all else is as the file says.
2. `COPY . .` takes what git tracks, less what .dockerignore leaves out.
3. An instruction that is not known here is an error: none is passed over.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = "python3,python3-venv,python3-pip,ca-certificates"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
CHROOT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORK: Final = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
ABOUT_THE_OUTSIDE: Final = {"EXPOSE", "VOLUME"}


@dataclass
class Stage:
    """One `FROM`, and what has been built of it."""

    name: str
    base: str
    steps: list[tuple[str, str]]
    root: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health_check: tuple[str, ...] = ()


def stages_of(text: str) -> dict[str, Stage]:
    """Return the stages by name."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages: dict[str, Stage] = {}
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, base, [])
        else:
            stages[name].steps.append((word, rest.strip()))
    return stages


class Builder:
    """Builds stages in a folder, each once."""

    def __init__(self, text: str, debian: Path, folder: Path) -> None:
        self._stages = stages_of(text)
        self._debian = debian
        self._folder = folder

    def build(self, name: str) -> Stage:
        """Return the stage with all its steps done, after those that it needs."""
        stage = self._stages[name]
        if stage.root is None:
            self._begin(stage)
            for word, rest in stage.steps:
                self._do(stage, word, rest)
        return stage

    def _begin(self, stage: Stage) -> None:
        source = self._debian
        if stage.base in self._stages:
            base = self.build(stage.base)
            assert base.root is not None
            source, stage.env, stage.workdir, stage.user = base.root, dict(base.env), base.workdir, base.user
            stage.entrypoint, stage.command = base.entrypoint, base.command
            stage.health_check = base.health_check
        stage.root = self._folder / stage.name
        subprocess.run(["cp", "--archive", "--reflink=auto", source, stage.root], check=True)

    def _do(self, stage: Stage, word: str, rest: str) -> None:
        if word in ABOUT_THE_OUTSIDE:
            return
        getattr(self, f"_{word.lower()}")(stage, rest)

    def _workdir(self, stage: Stage, rest: str) -> None:
        stage.workdir = rest
        (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)  # type: ignore[operator]

    def _env(self, stage: Stage, rest: str) -> None:
        for name, value in re.findall(r"(\w+)=('[^']*'|\S+)", rest):
            stage.env[name] = Template(value.strip("'")).substitute({"PATH": CHROOT_PATH} | stage.env)

    def _user(self, stage: Stage, rest: str) -> None:
        stage.user = rest

    def _entrypoint(self, stage: Stage, rest: str) -> None:
        stage.entrypoint = tuple(json.loads(rest))

    def _cmd(self, stage: Stage, rest: str) -> None:
        stage.command = tuple(json.loads(rest))

    def _healthcheck(self, stage: Stage, rest: str) -> None:
        stage.health_check = () if rest == "NONE" else tuple(json.loads(rest[rest.index("[") :]))

    def _run(self, stage: Stage, rest: str) -> None:
        script = f"cd {stage.workdir} && {rest}"
        command = [
            "chroot",
            f"--userspec={stage.user}:{stage.user}",
            str(stage.root),
            "/bin/sh",
            "-c",
            script,
        ]
        network = {name: value for name, value in os.environ.items() if name.upper().startswith(NETWORK)}
        done = subprocess.run(
            command,
            env={"PATH": CHROOT_PATH} | network | stage.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _copy(self, stage: Stage, rest: str) -> None:
        assert stage.root is not None
        if (found := re.fullmatch(r"--from=(\S+) (\S+) (\S+)", rest)) is not None:
            source = self.build(found[1]).root
            assert source is not None
            target = stage.root / found[3].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--archive", source / found[2].lstrip("/"), target], check=True)
        else:
            assert rest == ". ."
            copy_context(stage.root / stage.workdir.lstrip("/"))


def copy_context(target: Path) -> None:
    """Copy what git tracks, as it is now, but for what .dockerignore names."""
    left_out = {name.strip("/") for name in (ROOT / ".dockerignore").read_text().split()}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if name.split("/")[0] not in left_out and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def make_debian(target: Path) -> None:
    """Make a small Debian with Python in the folder, which also trusts whom this machine trusts."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (target / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    shutil.copy2("/etc/resolv.conf", target / "etc/resolv.conf")
    shutil.copy2(CERTIFICATES, target / CERTIFICATES.relative_to("/"))
