"""The map of the code: no import circles, and no folder too full to read."""

from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PACKAGES = ("segue_training", "segue_export", "segue_server", "segue_client")
MOST_MODULES = 16


def circular(imports: dict[str, set[str]]) -> set[str]:
    """Return the modules that are on an import circle or lead to one: what is left after removing leaves repeatedly."""
    left = dict(imports)
    while leaves := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in leaves:
            del left[module]
    return set(left)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 150
    assert not circular(imports)
    assert circular({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == {"a", "b", "c", "d"}


def test_no_folder_holds_more_modules_than_a_reader_takes_in() -> None:
    folders: dict[Path, int] = {}
    for top in ("training", "export", "server", "client", "protos", "tests", "benchmarks"):
        for path in (ROOT / top).rglob("*.py"):
            if "_pb2" not in path.name and path.name != "__init__.py":
                folders[path.parent] = folders.get(path.parent, 0) + 1
    assert len(folders) > 20
    assert not {str(folder): count for folder, count in folders.items() if count > MOST_MODULES}
