"""The browser demo of docs/demo in Chromium: its page draws, asks no other host, and samples as Python does."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import runpy
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command
import numpy as np
import onnxruntime
import pytest
import torch
from command import add_tiny_preset

from ablate.base import rng
from ablate.base.errors import AblateError
from ablate.diffusion.solvers import SOLVERS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="playwright is not installed: pip install -e '.[dev]'"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on this machine, which downloads onnxruntime-web"),
]
BUILD = Path(__file__).parents[2] / "docs/demo/build.py"
ALONE = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
SHAPE = (3, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, each_graph_exported_once: None) -> Path:
    """The demo of a run of `direct`, whose graph is small."""
    work = tmp_path_factory.mktemp("demo")
    add_tiny_preset(work)
    np.savez(work / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    words = ("run", "--preset", "tiny", "--data", "set.npz", "--variant", "direct", "--no-baseline", "--offline")
    done = command.ablate(*words, cwd=work, ABLATE_CACHE=str(work / "cache"))
    assert done.returncode == 0, done.stderr
    script = runpy.run_path(str(BUILD))
    try:
        script["main"](["direct", "--results", str(work / "results"), "-o", str(work / "site")])
    except AblateError as error:
        if "npm could not download" in str(error):
            pytest.skip(str(error))
        raise
    return work / "site"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def opened(address: str) -> Iterator[tuple[Any, list[str]]]:
    """The page on a phone, and what it complained of or asked other hosts for."""
    from playwright import sync_api

    with sync_api.sync_playwright() as started:
        browser, said = started.chromium.launch(executable_path=CHROMIUM, args=list(ALONE)), list[str]()
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(address) else said.append(sent.url))
        page.goto(address)
        yield page, said
        browser.close()


def pixels(page: Any) -> np.ndarray:
    """The four images, once they are drawn: (4, 64 * 64 * 4)."""
    page.wait_for_function("document.body.dataset.done !== ''", timeout=120_000)
    read = "c => Array.from(c.getContext('2d').getImageData(0, 0, 64, 64).data)"
    return np.array([canvas.evaluate(read) for canvas in page.query_selector_all("canvas")], float)


def test_the_page_draws_in_both_formats_without_a_word_or_another_host(opened: tuple[Any, list[str]]) -> None:
    page, said = opened
    int8 = pixels(page)
    page.check("input[value=fp32]")
    fp32 = pixels(page)
    assert page.get_attribute("body", "data-done") == "fp32"
    assert all(image.std() > 1 for image in fp32[..., :3])
    assert 0 < np.abs(int8 - fp32).mean() < 5
    for name in ("int8", "fp32"):
        assert page.inner_text(f"#{name}-ms").endswith(" ms")
    page.fill("#steps", "1")
    fewer = pixels(page)
    assert page.inner_text("#status").startswith("1 network evaluation per image")
    assert page.inner_text("#int8-ms") == "–"  # its time was of other steps
    page.click("#again")
    assert np.abs(pixels(page) - fewer).mean() > 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert said == []


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_browser_samples_as_python_does(opened: tuple[Any, list[str]], folder: Path, solver: str) -> None:
    page, _ = opened
    session = onnxruntime.InferenceSession(folder / "fp32.onnx", providers=["CPUExecutionProvider"])
    z = rng.normal(0, "sample", range(1), SHAPE)
    expected = SOLVERS[solver](
        lambda z, t: torch.from_numpy(session.run(None, {"z": z.numpy(), "t": t.numpy()})[0]), z, 3
    )
    script = """async ([z, shape, solver]) => {
        const { load, sample } = await import("./sampler.js");
        return Array.from((await sample(await load("fp32.onnx"), Float32Array.from(z), shape, solver, 3)).z);
    }"""
    drawn = page.evaluate(script, [z.flatten().tolist(), list(SHAPE), solver])
    torch.testing.assert_close(torch.tensor(drawn).reshape(z.shape), expected, rtol=0, atol=1e-3)


def test_a_run_that_the_page_cannot_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AblateError, match="no such folder"):
        runpy.run_path(str(BUILD))["add_run"]("nope", tmp_path / "absent", tmp_path)
