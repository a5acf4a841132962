"""The isolated Python environments in which the official BFCL packages run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ....runs.files import write_atomically
from ...packaged import STAMP, cache_dir
from .questions import BFCLError


# bfcl-eval of each benchmark version; v3 is the one that the paper reports.
PACKAGES = {"v3": "bfcl-eval==2025.7.17", "v4": "bfcl-eval==2026.3.23"}
# bfcl-eval pins numpy 1.26.4, which has no wheels for later Pythons.
PYTHONS = ("3.11", "3.12")


def requirements_file(version: str) -> Path:
    """The file with the pinned packages of a version."""
    if version not in PACKAGES:
        raise ValueError(f"unknown BFCL version {version!r}: choose one of {', '.join(PACKAGES)}")
    return Path(__file__).with_name(f"requirements_{version}.txt")


def _is_ready(environment: Path, requirements: Path) -> bool:
    stamp = environment / STAMP
    return stamp.is_file() and stamp.read_text() == requirements.read_text()


def environment_python(version: str, root: Path | None = None) -> Path:
    """The Python of an environment that [`setup`] has made; an error if it is missing or has other pins."""
    environment = (root or cache_dir()) / f"bfcl_{version}"
    if not _is_ready(environment, requirements_file(version)):
        raise FileNotFoundError(
            f"the environment of BFCL {version} is missing or out of date in {environment}: run "
            f"`rest-trl evaluate --setup bfcl_{version}`"
        )
    return environment / "bin" / "python"


def _check_python(python: str) -> None:
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if found not in PYTHONS:
        raise ValueError(
            f"bfcl-eval needs numpy 1.26.4 and with it Python {' or '.join(PYTHONS)}, but {python} is "
            f"{found or 'none'}: name one of these with --setup_python"
        )


def setup(version: str, root: Path | None = None, python: str | None = None) -> Path:
    """
    Make the isolated environment of a BFCL version, unless it is there already, and return its Python.

    Only packages that scoring imports are installed, at pinned versions and without the dependencies that pip would
    add. The last step marks the environment as finished, so an interrupted setup starts again the next time.
    """
    requirements = requirements_file(version)
    environment = (root or cache_dir()) / f"bfcl_{version}"
    if _is_ready(environment, requirements):
        return environment / "bin" / "python"
    python = python or sys.executable
    _check_python(python)
    environment.parent.mkdir(parents=True, exist_ok=True)
    # The scripts of an environment hold its path, so it must be built where it will stay. A lock keeps a second setup
    # from building in the same place.
    lock = environment.with_suffix(".lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise BFCLError(
            f"another setup of BFCL {version} is at work, or was killed: if none is, delete {lock} and try again"
        ) from None
    try:
        shutil.rmtree(environment, ignore_errors=True)
        made = subprocess.run([python, "-m", "venv", str(environment)], capture_output=True, text=True)
        if made.returncode:
            raise BFCLError(f"{python} cannot make an environment in {environment}: {made.stdout}{made.stderr}")
        _install(environment / "bin" / "python", requirements)
        write_atomically(environment / STAMP, requirements.read_text())
    finally:
        lock.unlink()
    return environment_python(version, root)


def _install(python: Path, requirements: Path) -> None:
    from tqdm import tqdm

    command = [str(python), "-m", "pip", "install", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--requirement", str(requirements)]
    packages = sum(line[0] != "#" for line in requirements.read_text().splitlines())
    lines = []
    with (
        tqdm(total=packages, desc=f"installing {requirements.stem}", unit="package") as progress,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        for line in pip.stdout or ():
            lines.append(line.rstrip())
            progress.update(line.startswith(("Collecting ", "Processing ")))
    if pip.returncode:
        raise BFCLError(f"pip could not install {requirements.name}:\n" + "\n".join(lines[-10:]))
