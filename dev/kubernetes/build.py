"""Builds the overlays in deploy/kubernetes and validates what comes of them strictly, without a cluster and offline.

    python build.py FOLDER

prints the documents of the overlay in FOLDER as a JSON list, and ends with 1 where one does not fit its schema. The
schemas come with the package kubernetes-validate. kustomize cannot be had from a package index, so this knows the part
of it that we use (resources, namespace, images, replicas, patches of files) and refuses the rest. Where the machine has
a kubectl with kustomize 5 or later, that builds the overlay too, and the results must be equal.
"""

import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

# The oldest version of Kubernetes that the manifests are for, one between, and the newest with schemas in the package.
VERSIONS = ["1.30", "1.33", "1.37"]
# Kinds that are in no namespace, as far as we use them.
CLUSTER_WIDE = {"Namespace"}
# Lists that a patch merges by a key of their items. Any other list in a patch takes the place of the whole list.
MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "replicas", "patches"}


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def identity(document):
    return document["kind"], document["metadata"]["name"]


def merged(old, patch, key=None):
    if isinstance(old, dict) and isinstance(patch, dict):
        result = dict(old)
        for name, value in patch.items():
            if name.startswith("$"):
                sys.exit(f"a patch contains {name}, which build.py does not know")
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(old[name], value, name) if name in old else value
        return result
    by = MERGE_KEYS.get(key)
    if isinstance(old, list) and isinstance(patch, list) and by and all(by in item for item in old + patch):
        patches = {item[by]: item for item in patch}
        kept = [merged(item, patches.pop(item[by])) if item[by] in patches else item for item in old]
        return list(patches.values()) + kept
    return patch


def pod_of(document):
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec.get("template", {}).get("spec") if isinstance(spec, dict) else None


def build(folder):
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(kustomization) - KNOWN
    if unknown:
        sys.exit(f"{folder}: build.py does not know {sorted(unknown)}")
    built = []
    for resource in kustomization["resources"]:
        path = folder / resource
        built += build(path) if path.is_dir() else documents(path)
    identities = [identity(document) for document in built]
    if len(set(identities)) != len(identities):
        sys.exit(f"{folder}: something occurs twice: {identities}")
    for entry in kustomization.get("patches", []):
        if set(entry) != {"path"}:
            sys.exit(f"{folder}: build.py knows only patches with a path, not {entry}")
        for patch in documents(folder / entry["path"]):
            if identity(patch) not in identities:
                sys.exit(f"{entry['path']}: nothing to patch: {identity(patch)}")
            place = identities.index(identity(patch))
            built[place] = merged(built[place], patch)
    for document in built:
        if "namespace" in kustomization and document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = kustomization["namespace"]
        for entry in kustomization.get("replicas", []):
            if document["metadata"]["name"] == entry["name"] and document["kind"] == "Deployment":
                document["spec"]["replicas"] = entry["count"]
        for container in (pod_of(document) or {}).get("containers", []):
            for image in kustomization.get("images", []):
                if re.split("[:@]", container["image"])[0] == image["name"]:
                    container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    return built


def built_by_kustomize(folder):
    """The same by kubectl; None where there is none, or an old one."""
    if not shutil.which("kubectl"):
        return None
    told = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True)
    major = re.search(r'"kustomizeVersion": "v(\d+)', told.stdout)
    if not major or int(major[1]) < 5:
        return None
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"kubectl kustomize {folder}: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document is not None]


def main():
    folder = pathlib.Path(sys.argv[1])
    built = build(folder)
    theirs = built_by_kustomize(folder)
    if theirs is not None:
        theirs = {identity(document): document for document in theirs}
        for document in built:
            if theirs.pop(identity(document), None) != document:
                sys.exit(f"{folder}: kustomize makes something else of {identity(document)}")
        if theirs:
            sys.exit(f"{folder}: kustomize also makes {sorted(theirs)}")
    failures = []
    for document in built:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(copy.deepcopy(document), version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = "/".join(str(part) for part in error.path)
                failures.append(f"{identity(document)} for Kubernetes {version}: {path}: {error.message}")
    if failures:
        sys.exit("\n".join(failures))
    json.dump(built, sys.stdout)


if __name__ == "__main__":
    main()
