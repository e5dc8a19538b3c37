"""What the site has beside docs/: pages that lie elsewhere in the repository, commands and options, the gallery.

A page of docs/ that mkdocs.yml does not name comes at the end of the menu by itself.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Where a file of the repository that is no page of docs/ stands on the site.
ELSEWHERE = "repository"
PICTURES = ROOT / "build" / "gallery"
_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")
_SHOWN = {".py": "python", ".sh": "sh", ".yml": "yaml", ".yaml": "yaml", ".toml": "toml", ".md": "", ".ini": "ini"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages that the menu does not name."""
    named = set(re.findall(r"[\w/.-]+\.md", json.dumps(config.nav, ensure_ascii=False)))
    more = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named]
    if more and config.nav is not None:
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is made, and all that pages link to outside docs/."""
    made = {"commands.md": "".join(write_commands()), "gallery.md": "".join(write_gallery())}
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "website" / "site.css")))
    for path in sorted(PICTURES.glob("*.jpg")):
        files.append(File.generated(config, f"gallery/{path.name}", abs_src_path=str(path)))
    wanted = ["CONTRIBUTING.md", "CHANGELOG.md"]
    for file in files.documentation_pages():
        wanted += [target for target in iter_targets(file.src_uri, file.content_string)]
    seen: set[str] = set()
    while wanted:
        target = wanted.pop()
        if target in seen or target.startswith("docs/") or target == "README.md":
            continue
        seen.add(target)
        text = read_elsewhere(target)
        uri = find_uri(target)
        files.append(File.generated(config, uri, content=text))
        wanted += iter_targets(uri, text)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they hold in the repository become links that hold on the site."""
    here = page.file.src_uri

    def replace(found: re.Match[str]) -> str:
        target = find_target(here, found[2])
        if not (ROOT / target).exists():
            return found[0]
        return (
            f"{found[1]}{posixpath.relpath(find_uri(target), posixpath.dirname(here) or '.')}{found[3] or ''}{found[4]}"
        )

    return _LINK.sub(replace, markdown)


def iter_targets(uri: str, text: str) -> Iterator[str]:
    """The files of the repository that a page links to."""
    for found in _LINK.finditer(text):
        target = find_target(uri, found[2])
        if (ROOT / target).exists():
            yield target


def find_target(uri: str, link: str) -> str:
    """The file that a page's link means, from the repository's root."""
    own = uri.removeprefix(f"{ELSEWHERE}/") if uri.startswith(f"{ELSEWHERE}/") else f"docs/{uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(own), link))


def find_uri(target: str) -> str:
    """Where a file of the repository stands on the site."""
    if target == "README.md":
        return "index.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"{ELSEWHERE}/{target}" + ("" if target.endswith(".md") else ".md")


def read_elsewhere(target: str) -> str:
    """A page as it is; of a program its text, of a folder that of its files."""
    path = ROOT / target
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    parts = [f"# {target}\n"]
    for file in files:
        if file.suffix in _SHOWN or file.name == "Dockerfile":
            name = file.relative_to(ROOT).as_posix()
            parts.append(f"\n`{name}`\n\n````{_SHOWN.get(file.suffix, '')}\n{file.read_text(encoding='utf-8')}\n````\n")
    return "".join(parts)


def write_commands() -> Iterator[str]:
    """Every command with its options, as the command line itself knows them."""
    import typer.main  # noqa: PLC0415 - mkdocs serves without

    from whycam.cli import app  # noqa: PLC0415 - as above

    yield "# Commands and options\n\nWhat `whycam COMMAND --help` says. A default stands in brackets.\n"
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        words = [one for one in command.params if one.param_type_name == "argument"]
        yield f"\n## whycam {name}\n\n{command.help}\n\n| option | what |\n| --- | --- |\n"
        for one in words:
            yield f"| `{(one.metavar or one.name or '').upper()}` | {_to_cell(getattr(one, 'help', '') or '')} |\n"
        for one in options:
            default = getattr(one, "default", None)
            is_told = default not in (None, False, "", [], ()) and not callable(default)
            about = f" [{default}]" if is_told else ""
            yield f"| `{', '.join([*one.opts, *one.secondary_opts])}` | {_to_cell((one.help or '') + about)} |\n"


def _to_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def write_gallery() -> Iterator[str]:
    """Each method with its picture, where website/gallery.py made one."""
    from whycam.cam.registry import iter_methods  # noqa: PLC0415 - torch

    told = json.loads((PICTURES / "gallery.json").read_text()) if (PICTURES / "gallery.json").is_file() else {}
    yield (
        "# The methods in pictures\n\nOne photo that comes with scikit-image, the installed network, the class that it "
        "predicts. On its pooling and linear layer several methods are the class activation map up to scale "
        "([methods](methods.md)), so they look alike here. `python website/gallery.py` makes the pictures.\n"
    )
    for one in iter_methods():
        yield f"\n## {one.name}\n\n{one.differs or 'The class activation map itself.'}\n\n"
        yield f"Needs: {one.needs}. Cost: {one.cost}. Paper: {one.paper}.\n\n"
        if (PICTURES / f"{one.name}.jpg").is_file():
            yield f"![The photo with the map of {one.name}](gallery/{one.name}.jpg)\n"
        yield f"\n*{told[one.name]}*\n" if one.name in told else ""
