"""Who may know whom: the layers of the design, read from the imports of every module."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import stllava

PACKAGE = Path(stllava.__file__).parent
HEAVY = ("torch", "transformers", "peft", "accelerate")

# Longest prefix wins. Packages' own names stand for their __init__.
LAYERS = {
    "stllava": 0,
    "stllava.errors": 0,
    "stllava.records": 1,
    "stllava.config": 1,
    "stllava.prompts": 1,
    "stllava.formats": 1,
    "stllava.recipe": 1,
    "stllava.chat": 2,
    "stllava.images": 2,
    "stllava.files": 2,
    "stllava.stage": 2,
    "stllava.run": 2,
    "stllava.seeds": 2,
    "stllava.doctor": 2,
    "stllava.reading": 2,
    "stllava.sources": 2,
    "stllava.exchange": 2,
    "stllava.labels": 2,
    "stllava.benchmarks": 2,
    "stllava.metrics": 2,
    "stllava.checks": 2,
    "stllava.judging": 2,
    "stllava.generation": 2,
    "stllava.phantom": 2,
    "stllava.tables": 2,
    "stllava.policy": 3,
    "stllava.tree": 3,
    "stllava.training": 3,
    "stllava.generation.decode": 3,
    "stllava.generation.hf": 3,
    "stllava.generation.vllm": 3,
    "stllava.pipeline": 4,
    "stllava.cli": 5,
    "stllava.__main__": 5,
    "stllava.report": 5,
    "stllava.web": 5,
}


@cache
def tree(module):
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def path_of(module):
    path = PACKAGE.parent / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


MODULES = modules()


def layer(module):
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((LAYERS[name] for name in names if name in LAYERS), 0 if len(parts) == 1 else None)


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def named(node):
    """Modules that one import statement names; `from a import b` may mean module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "relative import"
    inner = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in inner]


def imports(module, *, at_import_only=False):
    """Names imported anywhere in a module, or only when it is imported itself."""
    found, todo = set(), [tree(module)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(named(node))
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not (at_import_only and (late or is_type_checking(node))):
            todo += ast.iter_child_nodes(node)
    return found


def inside(name, package):
    return name == package or name.startswith(package + ".")


def ours(names):
    return {name for name in names if inside(name, "stllava")}


def loaded_by(module):
    """All modules of the package, and all libraries, that importing `module` loads."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            parents = [".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1)]
            todo += [*imports(name, at_import_only=True), *parents]
    return seen


def violations(rule, over=MODULES):
    """What breaks the rule, by module; modules that keep it are left out."""
    return {module: found for module in over if (found := rule(module))}


def test_every_module_has_a_layer():
    assert [module for module in MODULES if layer(module) is None] == []


def test_no_module_imports_from_a_higher_layer():
    def higher(module):
        return {name for name in ours(imports(module)) if layer(name) > layer(module)}

    assert violations(higher) == {}


def test_layers_0_to_2_never_load_torch():
    def heavy(module):
        return {name.split(".")[0] for name in loaded_by(module) | imports(module)} & set(HEAVY)

    assert violations(heavy, [m for m in MODULES if layer(m) <= 2]) == {}


FORBIDDEN = {
    "stllava.training": ("stllava.judging", "stllava.benchmarks", "stllava.metrics"),
    "stllava.policy": ("stllava.training", "stllava.judging", "stllava.benchmarks"),
    "stllava.judging": ("stllava.policy", "stllava.training", "stllava.generation.hf"),
    "stllava.benchmarks": ("stllava.policy", "stllava.training", "stllava.generation.hf"),
    "stllava.report": ("stllava.policy", "stllava.training", "stllava.pipeline"),
    "stllava.web": ("stllava.training", "stllava.pipeline"),
}


def test_parts_know_only_whom_they_may():
    def unwanted(module):
        forbidden = [f for part, names in FORBIDDEN.items() if inside(module, part) for f in names]
        known = loaded_by(module) | imports(module)
        return {name for name in known for f in forbidden if inside(name, f)}

    assert violations(unwanted) == {}


def calls(module):
    """Dotted names of everything a module calls, with import aliases written out."""
    aliases = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            first, *rest = ast.unparse(node.func).split(".")
            yield ".".join([aliases.get(first, first), *rest])


def test_only_images_opens_an_image():
    opening = {"PIL.Image.open", "pydicom.dcmread"}
    found = violations(lambda module: opening & set(calls(module)))
    assert found
    assert all(inside(module, "stllava.images") for module in found)


def test_only_the_command_line_prints():
    printing = {"print", "typer.echo", "sys.stdout.write", "sys.stderr.write", "pprint.pprint"}
    found = violations(lambda module: printing & set(calls(module)))
    assert found
    assert all(inside(module, "stllava.cli") for module in found)


def test_importing_a_module_seeds_nothing_and_reads_no_environment():
    forbidden = ("manual_seed", "basicConfig", "os.environ", "parse_args", "random.seed")

    def done_at_import(module):
        body = [n for n in tree(module).body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
        text = ast.unparse(ast.Module(body, []))
        return [name for name in forbidden if name in text]

    assert violations(done_at_import) == {}


def test_the_rules_about_loading_see_through_packages_and_late_imports():
    assert "torch" in loaded_by("stllava.policy.policy")
    assert "torch" in imports("stllava.pipeline.train")
    assert "torch" not in loaded_by("stllava.pipeline.train")


def test_importing_the_package_and_its_command_line_loads_neither_torch_nor_transformers():
    code = f"import sys, stllava, stllava.cli; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
