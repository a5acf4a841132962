"""Benchmarks found by their names: those of this package, and others by dotted path."""

import importlib
import inspect
import pkgutil
from pathlib import Path

from .benchmark import Benchmark


def find_benchmarks() -> dict[str, type[Benchmark]]:
    """
    The benchmarks of this package: the classes in its `*_benchmark` modules with a `name` and no abstract methods.

    Returns:
        `dict[str, type[Benchmark]]`: by name.

    Example:

    ```python
    >>> sorted(find_benchmarks())
    ['api_bank', 'bfcl_v3', 'bfcl_v4', 'tiny', 'tiny/agents', 'tiny/arguments', 'tiny/calls', 'tiny/decides']

    ```
    """
    found: dict[str, type[Benchmark]] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if info.name.endswith("_benchmark"):
            module = importlib.import_module(f"{__package__}.{info.name}")
            found |= {
                value.name: value
                for value in vars(module).values()
                if isinstance(value, type)
                and issubclass(value, Benchmark)
                and "name" in vars(value)
                and not inspect.isabstract(value)
            }
    return found


def get_benchmark(name: str) -> type[Benchmark]:
    """
    The benchmark of that name or dotted path.

    Args:
        name (`str`):
            One of [`find_benchmarks`], or the dotted path of a subclass of [`Benchmark`].

    Returns:
        `type[Benchmark]`

    Raises:
        ValueError: if there is none, or if what is there is no complete benchmark.
    """
    known = find_benchmarks()
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(
            f"unknown benchmark {name!r}: choose one of {', '.join(sorted(known))}, or give the dotted path of your "
            "own, e.g. my_package.my_module.MyBenchmark"
        )
    try:
        benchmark = vars(importlib.import_module(module))[attribute]
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"benchmark {name!r} cannot be imported ({type(error).__name__}: {error})") from error
    if not (isinstance(benchmark, type) and issubclass(benchmark, Benchmark)):
        raise ValueError(f"{name!r} is no subclass of rest_trl.lab.evaluation.benchmark.Benchmark")
    lacking = sorted(benchmark.__abstractmethods__)
    lacking += [attribute for attribute in ("name", "metrics") if attribute not in dir(benchmark)]
    if lacking:
        raise ValueError(f"{name!r} is no complete benchmark: it lacks {', '.join(lacking)}")
    return benchmark
