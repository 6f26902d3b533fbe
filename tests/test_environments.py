"""The conda environments: pins as tested, and everything that the scripts of their rules import."""

from __future__ import annotations

import ast
import re
import sys

import pytest
import yaml

from interptfm import dependencies

# conda name → PyPI name, where they differ.
PYPI = {"pytorch": "torch", "python-igraph": "igraph", "matplotlib-base": "matplotlib"}
# Import name → conda package, where they differ.
PACKAGES = {
    "gprofiler": "gprofiler-official",
    "igraph": "python-igraph",
    "matplotlib": "matplotlib-base",
    "sklearn": "scikit-learn",
    "torch": "pytorch",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
# Imported, and brought by a package that the environment names.
BROUGHT_ALONG = {
    "h5py": "anndata",
    "markupsafe": "jinja2",
    "numcodecs": "zarr",
    "requests": "gprofiler-official",
}
# Library functions and classes that import torch when they are called, in modules that rules without torch
# use for other things.
WITH_TORCH = {"job.py": ("device",), "features/representations.py": ("Dictionary",)}


def pins(path):
    """Return package → version of a requirements or constraints file, names in small letters."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.lower().split("==") for line in lines if "==" in line)


def environment(path):
    """Return conda package → version of an environment file."""
    return dict(package.split("=") for package in yaml.safe_load(path.read_text())["dependencies"])


def installed_after(path):
    """Return the packages that pip installs into an environment once conda has made it."""
    script = path.with_suffix(".post-deploy.sh")
    words = script.read_text().split() if script.is_file() else []
    return {word.split("==")[0].lower() for word in words if "==" in word}


def environment_files(root):
    return sorted((root / "envs").glob("*.yaml"))


def test_the_environments_have_the_tested_versions(root):
    # A later file counts; transformers is in the set that the peers are tested in.
    files = ("constraints-soak.txt", "constraints.txt", "requirements.txt")
    tested = {name: version for file in files for name, version in pins(root / "envs" / file).items()}
    compared = 0
    for path in environment_files(root):
        for package, version in environment(path).items():
            if package in ("python", "pip"):
                assert package == "pip" or version == "3.11"
                continue
            name = PYPI.get(package, package)
            assert name in tested, (
                f"{path.name}: {package} is in neither requirements.txt nor constraints.txt"
            )
            assert version == tested[name], f"{path.name}: {package}={version}, tested {tested[name]}"
            compared += 1
    assert compared > 30


def test_the_environments_name_no_other_channel(root):
    for path in environment_files(root):
        content = yaml.safe_load(path.read_text())
        assert content["channels"] == ["conda-forge", "bioconda", "nodefaults"], path.name
        assert content["name"] == f"interptfm-{path.stem}"


def rules(root):
    """Return (rule, script, environment file name) of every rule of the workflow that has a script."""
    found = []
    for path in sorted((root / "workflow/rules").glob("*.smk")):
        for part in re.split(r"^\s*(?:rule|checkpoint) (?=\w+:)", path.read_text(), flags=re.MULTILINE)[1:]:
            script = re.search(r'"\.\./\.\./scripts/(\w+\.py)"', part)
            for file in re.findall(r'"\.\./\.\./envs/(\w+\.yaml)"', part):
                found.append((part.split(":", 1)[0], script.group(1), file))
    return found


def imported_names(path, without=()):
    """Return the dotted names that a source file imports at run time, inside functions too.

    Imports for type checking do not count, nor those inside the functions and classes in ``without``.
    """
    tree = ast.parse(path.read_text())
    apart = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        or (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in without)
    ]
    skipped = {id(inner) for node in apart for part in node.body for inner in ast.walk(part)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages_imported(path, without=()):
    """Return the packages outside the project and the standard library that a file imports."""
    names = {name.split(".")[0] for name in imported_names(path, without)}
    return names - set(sys.stdlib_module_names) - {dependencies.PACKAGE, "__future__"}


def library_of(script, library, without):
    """Return the library files that a script imports, and those that these import, and so on."""

    def files_of(path):
        names = [name.split(".") for name in imported_names(path, without.get(path, ()))]
        parts = [name[1:] for name in names if name[0] == dependencies.PACKAGE]
        return {file for part in parts for file in dependencies._files(part, library)}

    done, todo = set(), files_of(script)
    while todo:
        path = todo.pop()
        done.add(path)
        todo |= files_of(path) - done
    return done


def test_an_import_for_types_only_does_not_count(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
        "def f():\n    from torch.nn import functional\n    import scipy.sparse\n"
    )
    assert packages_imported(path) == {"torch", "scipy"}


def test_each_environment_provides_what_its_scripts_import(root):
    library, seen, missing = root / "scripts/interptfm", set(), []
    for rule, script, file in rules(root):
        provided = set(environment(root / "envs" / file)) | installed_after(root / "envs" / file)
        without = (
            {} if "pytorch" in provided else {library / path: names for path, names in WITH_TORCH.items()}
        )
        script = root / "scripts" / script
        used = [script, *sorted(library_of(script, library, without))]
        for path in used:
            for name in sorted(packages_imported(path, without.get(path, ()))):
                package = PACKAGES.get(name, name)
                if package not in provided and BROUGHT_ALONG.get(name) not in provided:
                    missing.append(
                        f"{file}: no {package}, imported by {path.relative_to(root)} (rule {rule})"
                    )
                seen.add(name)
        # What needs torch is not to be named by what runs without it.
        for module, names in WITH_TORCH.items():
            for name in names if "pytorch" not in provided else ():
                call = f"{module.split('/')[0].removesuffix('.py')}.{name}"
                users = [path.name for path in used if call in path.read_text()]
                assert not users, f"rule {rule} uses {call} in {users}, but {file} has no pytorch"
    assert not missing, "\n".join(dict.fromkeys(missing))
    assert {"torch", "anndata", "zarr", "scipy"} <= seen


@pytest.mark.parametrize("name", sorted(BROUGHT_ALONG))
def test_what_is_brought_along_is_required_by_its_package(name):
    from importlib.metadata import requires

    required = {re.split(r"[^\w.-]", line)[0].lower() for line in requires(BROUGHT_ALONG[name]) or []}
    assert name in required


def test_the_package_that_no_channel_has_is_the_tested_one(root):
    [line] = [
        line for line in (root / "envs/scgpt.post-deploy.sh").read_text().splitlines() if " pip " in line
    ]
    version = pins(root / "envs/requirements-oracle.txt")["scgpt"]
    assert line == f"python -m pip install --no-deps scgpt=={version}"


def test_the_families_of_the_configuration_are_the_environments(root):
    schema = yaml.safe_load((root / "workflow/schemas/config.schema.yaml").read_text())
    families = schema["properties"]["environments"]["propertyNames"]["enum"]
    assert sorted(families) == [path.stem for path in environment_files(root)]


@pytest.mark.parametrize("family", ["communication", "mofa", "scvi", "tangram"])
def test_what_pip_adds_to_a_conda_environment_is_what_it_adds_to_a_venv(root, family):
    [line] = [
        line
        for line in (root / f"envs/{family}.post-deploy.sh").read_text().splitlines()
        if line.startswith("python -m pip install ")
    ]
    added = dict(word.lower().split("==") for word in line.split()[4:])
    assert added == pins(root / f"envs/requirements-{family}.txt") != {}
