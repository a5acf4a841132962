"""
Hook of MkDocs: writes into the pages what the package itself knows, so that it cannot be out of step.

A page asks for it with a line of its own: `<!-- commands -->`, `<!-- formats -->` or `<!-- recipes -->`.
"""

import importlib
import io
import json
import logging
import os
import re
from contextlib import redirect_stdout, suppress
from html import escape
from pathlib import Path
from typing import Any

from rest_trl.cli import _COMMANDS
from rest_trl.data.row_schemas import SCHEMAS
from rest_trl.runs.listing import TABLES, read_head, read_table


ROOT = Path(__file__).resolve().parents[2]
_external: set[str] = set()
# The template of nbconvert leaves out what a notebook says of a picture, and then warns that nothing is said.
_NO_DESCRIPTION = "No description has been provided for this image"
logging.getLogger("traitlets").setLevel(logging.ERROR)
_COMMAND = re.compile(r"([A-Z_]+=\S+ )*(accelerate launch|vllm serve|rest-trl) ")


def on_files(files: Any, config: Any) -> Any:
    """
    Take the notebooks for pages. They lie beside the documentation, and not in it.

    Args:
        files (`Files`):
            What MkDocs has found.
        config (`MkDocsConfig`):
            Settings of the site.

    Returns:
        `Files`
    """
    from mkdocs.structure.files import File  # the tests read this module without MkDocs

    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        files.append(File(f"notebooks/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


on_files.mkdocs_priority = 100  # before the plugin that reads notebooks


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """
    Fill in what a page asks for.

    Args:
        markdown (`str`):
            The page.
        kwargs:
            What else MkDocs gives to its hooks.

    Returns:
        `str`
    """
    for name, content in (("commands", commands_page), ("formats", formats_table), ("recipes", recipes_page)):
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, content())
    return markdown.replace("](../notebooks/", "](notebooks/")  # in the site they are pages


def on_page_content(html: str, page: Any, **kwargs: Any) -> str:
    """
    Let the links of notebooks, which hold beside the documentation, hold within the site. Note the links to other
    sites: MkDocs checks its own; these are listed only, because building needs no network.

    Args:
        html (`str`):
            The page.
        page (`Page`):
            Its source.
        kwargs:
            What else MkDocs gives to its hooks.

    Returns:
        `str`
    """
    if page.file.src_uri.endswith(".ipynb"):
        html = re.sub(r'href="\.\./docs/(\w+)\.md', r'href="../\1.html', html)
        html = re.sub(r'href="(\w+)\.ipynb', r'href="\1.html', html)
        for text in _descriptions(ROOT / page.file.src_uri):
            html = html.replace(_NO_DESCRIPTION, escape(text), 1)
    _external.update(re.findall(r'href="(https?://[^"]+)"', html))
    return html


def _descriptions(path: Path) -> list[str]:
    """What a notebook says of its pictures, in their order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]


def on_post_build(config: Any, **kwargs: Any) -> None:
    """
    Write the list of links to other sites beside the pages.

    Args:
        config (`MkDocsConfig`):
            Where the pages are.
        kwargs:
            What else MkDocs gives to its hooks.
    """
    Path(config.site_dir, "external_links.txt").write_text("".join(f"{link}\n" for link in sorted(_external)))


def formats_table() -> str:
    """Every shape of rows that data sets may have."""
    rows = [
        f"| {', '.join(f'`{column}`' for column in schema.columns)} | {schema.description} |" for schema in SCHEMAS
    ]
    return "\n".join(["| columns | rows |", "| --- | --- |", *rows])


def commands_page() -> str:
    """Every command of `rest-trl` with its help, as it prints it."""
    os.environ["COLUMNS"] = "100"  # argparse breaks its lines there
    sections = []
    for name, (module, purpose) in _COMMANDS.items():
        sections.append(f"## rest-trl {name} {{ #{name} }}\n\n{purpose[0].upper()}{purpose[1:]}.\n")
        own = _help(module, [])
        parts = re.search(r"\{([\w,]+)\} \.\.\.", own)  # a command of several commands
        for part in [None, *(parts[1].split(",") if parts else [])]:
            words = [part] if part else []
            sections.append(
                f"<details><summary><code>{' '.join(['rest-trl', name, *words])} --help</code></summary>"
                f"<pre>{escape(_help(module, words) if part else own)}</pre></details>\n"
            )
    return "\n".join(sections)


def _help(module: str, words: list[str]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        importlib.import_module(module).main([*words, "--help"])
    return printed.getvalue()


def recipe_header(path: Path) -> tuple[list[str], str]:
    """
    What the first comments of a recipe say.

    Args:
        path (`Path`):
            A YAML file that starts with its commands, an empty comment, and a description.

    Returns:
        `tuple[list[str], str]`: the commands, and the description up to the next empty comment.
    """
    commands: list[str] = []
    description: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or (description and not text):
            break
        if _COMMAND.match(text):
            commands.append(text)
        elif text:
            description.append(text)
    return commands, " ".join(description)


def recipes_page() -> str:
    """Every recipe with the description and the commands of its first comments, then every arm and every study."""
    sections = []
    found = sorted((*ROOT.glob("recipes/*.yaml"), *ROOT.glob("recipes/tiny/*.yaml")))
    recipes = [path for path in found if path.stem not in TABLES]
    on_cpu = [path for path in recipes if path.parent.name == "tiny" or "use_cpu: true" in path.read_text()]
    on_gpus = [path for path in recipes if path not in on_cpu]
    for title, paths in (("On GPUs", on_gpus), ("On a CPU, on the embedded world", on_cpu)):
        sections.append(f"## {title}\n")
        for path in paths:
            commands, description = recipe_header(path)
            name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
            hardware = read_head(path, name).hardware
            shell = "\n".join(commands)
            sections.append(f"### {name}\n\n*{hardware}*. {description}\n\n```bash\n{shell}\n```\n")
    for table, option in TABLES.items():
        rows = [f"| `{option} {name}` | {purpose} |" for name, purpose in read_table(table).items()]
        sections.append("\n".join([f"## {table.title()}\n", "| option | what it is |", "| --- | --- |", *rows, ""]))
    return "\n".join(sections)
