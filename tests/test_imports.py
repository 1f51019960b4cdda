"""Who may import whom: read from the source, so that an arrow that no test runs is seen too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {name: ROOT / name for name in ("world_model", "planners", "envs", "configs")}
MAY_IMPORT = {
    "world_model": set(),
    "envs": set(),
    "planners": {"world_model"},
    "configs": {"world_model", "planners", "envs"},
}


def sources(name: str) -> list[Path]:
    return sorted(FOLDERS[name].rglob("*.py"))


def imported(path: Path, package: str) -> Iterator[str]:
    """Give the full dotted names that a file imports; `package` is the dotted package the file lies in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_parts(names: Iterator[str]) -> set[str]:
    """Reduce dotted names to the part of `wm_plan` that they belong to."""
    return {name.split(".")[1] for name in names if name.startswith("wm_plan.")}


def package_of(path: Path, root: Path, name: str) -> str:
    return ".".join(["wm_plan", name, *path.relative_to(root).parts[:-1]]).rstrip(".")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_imports_only_what_the_layers_allow(name: str) -> None:
    assert sources(name)
    for path in sources(name):
        parts = own_parts(imported(path, package_of(path, FOLDERS[name], name)))
        assert parts - {name} <= MAY_IMPORT[name], (
            f"{path.relative_to(ROOT)} imports {parts - {name} - MAY_IMPORT[name]}"
        )


@pytest.mark.parametrize("name", FOLDERS)
def test_no_folder_is_imported_under_its_bare_name(name: str) -> None:
    for folder in (
        *FOLDERS.values(),
        ROOT / "src" / "wm_plan",
        ROOT / "tests",
        ROOT / "examples",
        ROOT / "benchmarks",
    ):
        for path in folder.rglob("*.py"):
            bare = {dotted.split(".")[0] for dotted in imported(path, "x")} & set(FOLDERS)
            assert not bare, f"{path.relative_to(ROOT)} imports {bare} without wm_plan."


def test_nothing_imports_the_commands_or_the_evaluation_but_the_front_door() -> None:
    for path in (ROOT / "src" / "wm_plan").rglob("*.py"):
        inside = path.relative_to(ROOT / "src" / "wm_plan").parts
        if inside[0] in ("commands", *FOLDERS):
            continue
        package = ".".join(["wm_plan", *inside[:-1]])
        parts = own_parts(imported(path, package))
        assert "commands" not in parts, path
        if inside[0] != "evaluation":
            assert "evaluation" not in parts, path


def test_no_import_cycle_within_a_folder() -> None:
    """Follow imports made when a module loads (not those inside functions or under TYPE_CHECKING)."""
    graph: dict[str, set[str]] = {}
    modules = {}
    for name, root in FOLDERS.items():
        for path in sources(name):
            package = package_of(path, root, name)
            modules[package if path.stem == "__init__" else f"{package}.{path.stem}"] = (path, package)
    for module, (path, package) in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names: set[str] = set()
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                single = path.with_suffix(".py")
                assert single == path
                names |= set(_names(statement, package))
        graph[module] = {other for other in names if other in modules and other != module}
    for start in graph:
        _walk(graph, start, [])


def _names(statement: ast.stmt, package: str) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level:
            parents = package.split(".")
            parents = parents[: len(parents) - statement.level + 1]
            base = ".".join([*parents, base] if base else parents)
        yield base
        yield from (f"{base}.{alias.name}" for alias in statement.names)


def _walk(graph: dict[str, set[str]], module: str, trail: list[str]) -> None:
    assert module not in trail, " -> ".join([*trail, module])
    for other in graph[module]:
        _walk(graph, other, [*trail, module])
