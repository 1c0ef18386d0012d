"""Makes CycloneDX of `cargo metadata` and Cargo.lock; see sbom.sh."""

import hashlib
import json
import pathlib
import re
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENDORED_JS = ROOT / "src/demo/page/vendor/stomp.umd.min.js"


def main(metadata_path, name, target):
    metadata = json.loads(pathlib.Path(metadata_path).read_text())
    lock = (ROOT / "Cargo.lock").read_bytes()
    checksums = {
        (package["name"], package["version"]): package.get("checksum")
        for package in tomllib.loads(lock.decode())["package"]
    }
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    members = metadata["workspace_members"]
    root = next((id for id in members if packages[id]["name"] == name), None)
    if root is None:
        names = ", ".join(sorted(packages[id]["name"] for id in members))
        sys.exit(f"There is no package {name} in this workspace; there are {names}")

    def is_code(edge):
        return used(edge, {None}) and not is_macro(packages[edge["pkg"]])

    shipped = reached(nodes, root, is_code)
    all_of_it = reached(nodes, root, lambda edge: used(edge, {None, "build"}))
    references = {id: purl(packages[id]) for id in all_of_it}

    components = [
        component(packages[id], references[id], id in shipped, checksums)
        for id in all_of_it
        if id != root
    ]
    dependencies = [
        {
            "ref": references[id],
            "dependsOn": sorted(
                references[edge["pkg"]]
                for edge in nodes[id]["deps"]
                if edge["pkg"] in references and used(edge, {None, "build"})
            ),
        }
        for id in all_of_it
    ]
    if name == "stentor":
        page = page_script()
        components.append(page)
        own = next(entry for entry in dependencies if entry["ref"] == references[root])
        own["dependsOn"] = sorted([*own["dependsOn"], page["bom-ref"]])
    components.sort(key=lambda entry: entry["bom-ref"])
    dependencies.sort(key=lambda entry: entry["ref"])

    main_component = component(packages[root], references[root], True, checksums)
    main_component["type"] = "application"
    del main_component["scope"]
    seed = hashlib.sha256(lock + f"{name} {target}".encode()).digest()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=seed[:16], version=4)}",
        "version": 1,
        "metadata": {
            "component": main_component,
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": components,
        "dependencies": dependencies,
    }
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    print()


def used(edge, kinds):
    """Whether it is a dependency of one of these kinds; None is that of the code itself."""
    return any(kind["kind"] in kinds for kind in edge["dep_kinds"])


def reached(nodes, root, is_followed):
    """What the root comes to by dependencies that are followed."""
    found, todo = set(), [root]
    while todo:
        id = todo.pop()
        if id not in found:
            found.add(id)
            todo.extend(edge["pkg"] for edge in nodes[id]["deps"] if is_followed(edge))
    return found


def is_macro(package):
    """A procedural macro runs in the compiler; nothing of it is in the program."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def purl(package):
    text = f"pkg:cargo/{package['name']}@{package['version']}"
    return text if package["source"] else f"{text}?type=local"


def component(package, reference, is_shipped, checksums):
    entry = {
        "type": "library",
        "bom-ref": reference,
        "name": package["name"],
        "version": package["version"],
        "scope": "required" if is_shipped else "excluded",
        "purl": reference.split("?")[0],
    }
    if package["license"]:
        # `/` is how `OR` was written once.
        expression = re.sub(r"\s*/\s*", " OR ", package["license"])
        entry["licenses"] = [{"expression": expression}]
    checksum = checksums.get((package["name"], package["version"]))
    if package["source"] and checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if not package["source"] and not package["manifest_path"].startswith(f"{ROOT}/vendor/"):
        entry["description"] = "of this repository"
    elif not package["source"]:
        folder = pathlib.Path(package["manifest_path"]).parent.relative_to(ROOT)
        entry["description"] = f"a copy with mends that are not released: {folder}"
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def page_script():
    readme = (VENDORED_JS.parent / "README.md").read_text()
    version = re.search(r"\b\d+\.\d+\.\d+\b", readme).group()
    reference = f"pkg:npm/%40stomp/stompjs@{version}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": "@stomp/stompjs",
        "version": version,
        "scope": "required",
        "purl": reference,
        "licenses": [{"expression": "Apache-2.0"}],
        "hashes": [
            {"alg": "SHA-256", "content": hashlib.sha256(VENDORED_JS.read_bytes()).hexdigest()}
        ],
        "description": "a part of the page of `stentor demo`",
    }


main(*sys.argv[1:])
