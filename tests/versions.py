"""
Runs the core tests with the lowest and the highest versions that the package index offers for what setup.cfg declares.

```shell
make test-versions               # every Python of the classifiers, lowest and highest versions
make test-versions TRL=1.17.0    # the same with another TRL, also one outside the declared range
python tests/versions.py trl==1.17.0 transformers==5.24.0
```

Every set of versions gets an environment of its own under `.versions/`. An environment that was made for the same
versions is used again, so an interrupted run goes on where it was. A table goes to the standard output. The exit
status is 1 if a test failed or an environment could not be made, and 0 otherwise, also where a Python is missing.

The program needs nothing but the standard library. It finds versions with `pip index`, so pip's settings (another
index, wheels in a folder) apply.
"""

import argparse
import configparser
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree


ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".versions"
# Packages whose lowest and highest versions are tried. For all others pip takes the newest that fits these.
VARIED = ("trl", "transformers", "accelerate", "peft", "datasets", "torch")
# What the core tests import beside the package's own requirements.
TEST_PACKAGES = ("pytest", "hypothesis")
# Tests that need neither vLLM, nor BFCL's packages, nor bitsandbytes.
CORE_TESTS = (
    "tests/test_trl_internals.py",
    "tests/test_config.py",
    "tests/test_trainer.py",
    "tests/test_native_tools.py",
    "tests/test_train.py",
    "tests/test_sft.py",
    "tests/test_data.py",
    "tests/credit",
    "tests/regions",
    "tests/rewards",
    "tests/tool_calls",
)
# Times depend on what else the machine does, not on versions.
LEFT_OUT = ("--ignore=tests/tool_calls/test_time.py",)
TEST_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}
# On Linux x86-64 the default index has CUDA builds of torch, of several gigabytes each with their libraries.
CPU_INDEX = ["--extra-index-url", "https://download.pytorch.org/whl/cpu", "--retries", "0"]


class NotRunError(Exception):
    """A set of versions cannot be tried on this machine, which is no failure of the package."""


class Row(NamedTuple):
    """A line of the table."""

    python: str
    versions: str
    packages: dict[str, str]
    result: tuple[str, ...]  # passed, failed, skipped and time, or why there is none of these
    failed: bool


def numbers(version: str) -> tuple[int, ...]:
    """
    Numbers of a released version, without its label and without zeros at the end, so that 5.17 equals 5.17.0.

    Examples:
        >>> numbers("2.13.0+cpu")
        (2, 13)
    """
    return tuple(map(int, re.sub(r"(\.0)+$", "", re.match(r"\d+(\.\d+)*", version)[0]).split(".")))


def satisfies(version: str, specifiers: str) -> bool:
    """
    Whether a version is in a range like those of setup.cfg.

    Examples:
        >>> satisfies("1.16.2", ">=1.16,<1.17"), satisfies("1.17.0", ">=1.16,<1.17"), satisfies("5.17.0", "")
        (True, False, True)
    """
    for specifier in filter(None, specifiers.split(",")):
        match = re.fullmatch(r"(>=|<)([\d.]+)", specifier)
        if match is None:
            raise ValueError(f"{specifier!r} is neither >=X nor <X: teach tests/versions.py to read it")
        if (numbers(version) >= numbers(match[2])) != (match[1] == ">="):
            return False
    return True


def declared() -> tuple[list[str], dict[str, str]]:
    """Minor versions of Python, and ranges of the packages that the core and its tests need."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    pythons = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    lines = f"{config['options']['install_requires']}\n{config['options.extras_require']['peft']}".split()
    ranges = {re.split("[<>=]", line)[0]: re.sub(r"^[\w.-]+", "", line) for line in lines}
    return pythons, ranges | dict.fromkeys(TEST_PACKAGES, "")


def find_python(minor: str) -> str:
    """Path of an interpreter of a minor version that can make environments, from PATH or from pyenv."""
    of_pyenv = sorted(map(str, (Path.home() / ".pyenv" / "versions").glob(f"{minor}.*/bin/python")))
    for candidate in (shutil.which(f"python{minor}"), *of_pyenv):
        # pyenv puts commands on PATH that fail where their version is not chosen.
        if candidate and subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return candidate
    raise NotRunError(f"no Python {minor} here")


def pip(python: str | Path, *arguments: str) -> str:
    """What pip prints. Raises `subprocess.CalledProcessError` with pip's reasons in `stderr` if it fails."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def offered(interpreter: str, name: str, specifiers: str, cuda: bool) -> list[str]:
    """Released versions of a package in a range that the index has for an interpreter, the lowest first."""
    cpu = name == "torch" and not cuda
    found = pip(interpreter, "index", "versions", name, *(CPU_INDEX if cpu else ()))
    match = re.search(r"^Available versions: (.*)$", found, re.MULTILINE)
    versions = [version for version in match[1].split(", ") if satisfies(version, specifiers)] if match else []
    if cpu and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        versions = [version for version in versions if version.endswith("+cpu")]
        if not versions:
            raise NotRunError("no CPU build of torch on the index; --cuda takes others")
    if not versions:
        raise NotRunError(f"no {name}{specifiers} on the index")
    return sorted(versions, key=numbers)


def install(interpreter: str, path: Path, requirements: list[str], cuda: bool) -> Path:
    """The Python of an environment with these requirements, which is made where it is not there."""
    python, stamp = path / "bin" / "python", path / "requirements.txt"
    if not stamp.exists() or stamp.read_text().splitlines() != requirements:
        print(f"installing {path.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([interpreter, "-m", "venv", "--clear", path], check=True)
        if not cuda:
            torch = [requirement for requirement in requirements if requirement.startswith("torch=")]
            pip(python, "install", "--quiet", "--no-deps", *CPU_INDEX, *torch)
        pip(python, "install", "--quiet", *requirements)
        stamp.write_text("\n".join(requirements) + "\n")
    return python


def run_tests(python: Path, report: Path) -> tuple[tuple[str, ...], bool]:
    """Numbers of core tests that passed, failed and were skipped, the time, and whether something failed."""
    options = ["--quiet", "-p", "no:cacheprovider", f"--junitxml={report}", *LEFT_OUT]
    command = [python, "-m", "pytest", *options, *CORE_TESTS]
    report.unlink(missing_ok=True)
    start = time.monotonic()
    process = subprocess.run(command, cwd=ROOT, env=os.environ | TEST_ENVIRONMENT, stdout=sys.stderr)
    seconds = time.monotonic() - start
    if not report.exists():
        return (f"pytest ended with status {process.returncode}",), True
    (suite,) = ElementTree.parse(report).iter("testsuite")
    tests, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    result = f"{tests - failed - skipped}", f"{failed}", f"{skipped}", f"{seconds:.0f} s"
    return result, process.returncode != 0


def try_versions(minor: str, pins: dict[str, str], cuda: bool) -> list[Row]:
    """Lines of one Python: its lowest and its highest versions, or one line if these are the same."""
    _, ranges = declared()
    try:
        interpreter = find_python(minor)
        choices = {
            name: [pins[name]] if name in pins else offered(interpreter, name, ranges[name], cuda) for name in VARIED
        }
    except NotRunError as error:
        return [Row(minor, "", {}, (f"not run: {error}",), False)]
    free = [name + specifiers for name, specifiers in ranges.items() if name not in VARIED]
    rows = []
    for versions, index in (("lowest", 0), ("highest", -1)):
        chosen = {name: found[index] for name, found in choices.items()}
        if versions == "highest" and chosen == {name: found[0] for name, found in choices.items()}:
            break
        path = ENVIRONMENTS / f"{minor}-{versions}"
        try:
            python = install(interpreter, path, [*(f"{name}=={chosen[name]}" for name in VARIED), *free], cuda)
            result, failed = run_tests(python, ENVIRONMENTS / f"{path.name}.xml")
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or str(error)).strip().splitlines()[-1]
            result, failed = (f"not installed: {reason}",), True
        rows.append(Row(minor, versions, chosen, result, failed))
    return rows


def main() -> int:
    pythons, _ = declared()
    parser = argparse.ArgumentParser(prog="versions", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument(
        "pins", nargs="*", metavar="NAME==VERSION", help="takes the place of both versions of a package"
    )
    parser.add_argument("--python", action="append", choices=pythons, help="a minor version (default: all)")
    parser.add_argument("--cuda", action="store_true", help="take builds of torch for CUDA, too: gigabytes each")
    options = parser.parse_args()
    pins = dict(pin.split("==", 1) for pin in options.pins if "==" in pin)
    if len(pins) < len(options.pins) or not pins.keys() <= set(VARIED):
        parser.error(f"give versions as NAME==VERSION, for {', '.join(VARIED)}")
    ENVIRONMENTS.mkdir(exist_ok=True)
    rows = [row for minor in options.python or pythons for row in try_versions(minor, pins, options.cuda)]
    columns = ["Python", "versions", *VARIED, "passed", "failed", "skipped", "time"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        packages = [row.packages.get(name, "") for name in VARIED]
        cells = [row.python, row.versions, *packages, *row.result]
        print(f"| {' | '.join(cells + [''] * (len(columns) - len(cells)))} |")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
