"""Who may import whom. Every arrow points one way; a new module states here what it stands on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import splat2d

ROOT = Path(splat2d.__file__).parent

# A folder is one unit: engine stands for engine/__init__.py and everything beside it.
EVERYTHING = {
    *("errors", "config", "splats", "atomic", "images", "storage", "files", "metrics", "inspection", "engine"),
    *("rendering", "seeding", "fitting", "batch", "scene", "demo", "bench", "codec", "compression", "editing"),
    *("exporting", "viewing", "display", "plotting", "notebook", "progress"),
    *("terminal", "diffusion", "diffusion_cli", "pillow", "__init__"),
}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "splats": {"errors", "config"},
    "atomic": {"errors"},
    "images": {"errors", "atomic", "_cpu"},
    "storage": {"errors", "atomic", "splats", "codec"},
    "files": {"errors", "config", "atomic", "splats", "codec", "images", "storage", "exporting", "viewing"},
    "metrics": {"errors", "_cpu"},
    "inspection": {"errors", "metrics", "splats", "codec"},
    "engine": {"errors", "config", "_cpu"},
    "rendering": {"errors", "config", "splats", "engine", "_cpu"},
    "editing": {"errors", "splats", "rendering", "_cpu"},
    "exporting": {"errors", "atomic", "splats", "rendering", "editing", "_cpu"},
    "viewing": {"errors", "atomic", "codec", "fitting", "images"},
    "display": {"images", "rendering", "splats"},
    "plotting": {
        *("errors", "atomic", "config", "splats", "demo", "display", "editing", "inspection", "rendering"),
    },
    "notebook": {"errors", "codec", "splats", "viewing"},
    "progress": set(),
    "seeding": {"splats", "_cpu"},
    "fitting": {"errors", "config", "splats", "engine", "seeding", "metrics"},
    "batch": {"errors", "config", "splats", "engine", "seeding", "fitting", "_cpu"},
    "compression": {"errors", "codec", "config", "engine", "fitting", "metrics", "rendering", "seeding", "splats"},
    "scene": set(),
    "terminal": {"config"},
    "codec": {"errors", "config", "splats", "_cpu"},
    "torch": {"errors", "splats", "engine", "_cpu"},
    "diffusion": {"errors", "atomic", "config", "images", "rendering", "splats", "storage", "torch"},
    "diffusion_cli": {"errors", "atomic", "diffusion", "files", "progress", "storage", "terminal"},
    "pillow": {"errors", "codec", "compression", "fitting", "images", "rendering"},
    "demo": {"splats", "rendering", "metrics"},
    "bench": {"config", "splats", "engine", "fitting", "batch", "_cpu"},
    "cli": EVERYTHING,
    "__init__": EVERYTHING - {"__init__", "terminal", "diffusion", "diffusion_cli"},
    "__main__": {"cli"},
}

# Methods that are short for a function of a module above: these import it when they are called, and not before.
SHORTCUTS = {"splats": {"display", "plotting", "notebook"}, "fitting": {"plotting"}}

# numpy may be used by any module but these, which have to load quickly.
WITHOUT_NUMPY = {"__init__", "__main__", "errors", "config", "atomic", "terminal", "diffusion_cli"}
THIRD_PARTIES = {
    "PIL": {"images", "pillow", "scene", "demo"},
    "OpenImageIO": {"images"},
    "tyro": {"cli", "diffusion_cli", "terminal"},
    "rich": {"cli", "diffusion_cli", "progress"},
    "matplotlib": {"plotting", "splats", "fitting"},
    "anywidget": {"notebook", "splats", "fitting"},
    "traitlets": {"notebook"},
    "torch": {"torch", "diffusion"},
    "safetensors": {"diffusion"},
    "cuda": {"engine.cuda", "engine.pictures"},
    "numpy": {*MAY_IMPORT} - WITHOUT_NUMPY,
}


def modules():
    """Dotted names below splat2d of all Python files, with their paths."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1]), path


def imported(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Full dotted names of all that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["splat2d", *module.split(".")][: None if is_package else -1]
            base = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{start}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            target = node.args[0]
            if isinstance(target, ast.Constant):
                names.add(target.value)
            else:
                assert module in ("__init__", "diffusion"), f"{module} imports a module that only its run decides"
    return names


def units(names: set[str]) -> set[str]:
    """The units of splat2d among these names; a public name counts as the module it lives in."""
    found = set()
    for name in names:
        top, _, rest = name.partition(".")
        if top == "splat2d":
            unit = rest.split(".")[0]
            known = unit in MAY_IMPORT or unit == "_cpu" or (ROOT / unit).is_dir() or (ROOT / f"{unit}.py").exists()
            found.add(unit if unit and known else splat2d._HOME.get(unit, "__init__"))
    return found


@pytest.mark.parametrize(("module", "path"), [*modules()], ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_layers(module, path):
    unit = module.split(".")[0]
    assert unit in MAY_IMPORT, f"{unit} is new: add it to MAY_IMPORT with what it stands on"
    names = imported(ast.parse(path.read_text(encoding="utf-8")), module, path.name == "__init__.py")
    forbidden = units(names) - MAY_IMPORT[unit] - SHORTCUTS.get(unit, set()) - {unit}
    assert not forbidden, f"{module} must not import {forbidden}"
    for third_party in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"splat2d"}:
        assert third_party in THIRD_PARTIES, f"{module} imports {third_party}, which is no dependency"
        assert {unit, module} & THIRD_PARTIES[third_party], f"{module} must not import {third_party}"


class WithoutFunctions(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        return None


@pytest.mark.parametrize("unit", SHORTCUTS)
def test_shortcuts_are_taken_inside_functions_only(unit):
    tree = WithoutFunctions().visit(ast.parse((ROOT / f"{unit}.py").read_text(encoding="utf-8")))
    assert not units(imported(tree, unit, is_package=False)) & SHORTCUTS[unit]


def test_every_rule_is_about_a_module_that_exists():
    assert set(MAY_IMPORT) == {module.split(".")[0] for module, _ in modules()}


def test_no_module_stands_on_itself():
    """The rules leave no circle, apart from the package and its command line, which name everything."""
    done: set[str] = {"_cpu"}
    waiting = {unit: needs for unit, needs in MAY_IMPORT.items() if unit not in ("__init__", "cli", "__main__")}
    while waiting:
        ready = {unit for unit, needs in waiting.items() if needs <= done}
        assert ready, f"a circle among {set(waiting)}"
        done |= ready
        waiting = {unit: needs for unit, needs in waiting.items() if unit not in ready}


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("import splat2d.fitting", "metrics", {"fitting"}),
        ("from splat2d.engine.cpu import CpuEngine", "metrics", {"engine"}),
        ("from splat2d import seeding, _cpu", "metrics", {"seeding", "_cpu"}),
        ("from splat2d import render, __version__", "metrics", {"rendering", "__init__"}),
        ("def f():\n    from .storage import load", "metrics", {"storage"}),
        ("from . import images", "metrics", {"images"}),
        ("from ..fitting import fit", "engine.cpu", {"fitting"}),
        ("import importlib\nimportlib.import_module('splat2d.cli')", "metrics", {"cli"}),
        ("if TYPE_CHECKING:\n    import splat2d.bench as b", "metrics", {"bench"}),
    ],
)
def test_the_walk_finds_every_way_to_import(source, module, expected):
    assert units(imported(ast.parse(source), module, is_package=False)) == expected


def loaded_by(statement: str) -> set[str]:
    """Top-level packages, and modules of splat2d, that a fresh interpreter holds after this statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name if name.startswith("splat2d.") else name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import splat2d")
    assert not loaded & {
        *("numpy", "torch", "PIL", "tyro", "rich", "OpenImageIO", "matplotlib", "anywidget", "splat2d._cpu")
    }


def test_fitting_needs_neither_pillow_nor_the_command_line():
    loaded = loaded_by("import splat2d; splat2d.fit, splat2d.render, splat2d.psnr, splat2d.load")
    assert "numpy" in loaded and "splat2d._cpu" in loaded
    assert not loaded & {"torch", "PIL", "tyro", "rich", "OpenImageIO", "matplotlib", "anywidget", "splat2d.cli"}


def test_the_command_line_loads_nothing_but_tyro():
    loaded = loaded_by("import splat2d.cli")
    assert "tyro" in loaded
    assert not loaded & {"numpy", "torch", "PIL", "rich", "splat2d._cpu", "splat2d.diffusion"}


def test_the_generative_models_load_torch_on_first_use():
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    assert not loaded_by("import splat2d.diffusion") & {"numpy", "torch", "safetensors", "splat2d._cpu"}
    assert {"torch", "safetensors"} <= loaded_by("import splat2d.diffusion; splat2d.diffusion.load_model")


def test_every_public_name_exists():
    assert set(splat2d.__all__) == set(splat2d._HOME)
    for name in splat2d.__all__:
        assert getattr(splat2d, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = splat2d.no_such_name
    assert set(splat2d.__all__) <= set(dir(splat2d))
