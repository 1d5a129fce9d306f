"""Plug-ins: what they register, what their files must not do, and registries with a baseline of their own."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registered import forgotten

from ablate.base.errors import PluginError, VariantError
from ablate.study import plugins, variants

NET = """
import ablate
import torch


@ablate.model("{name}")
class Net:
    channels: int = 8
    sizes: tuple[int, ...] = (1, 2)

    def build(self, shape):
        return torch.nn.Identity()
"""
HEAD = 'about = "a"\nsource = "s"\naxis = "x"\n'


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with forgotten():
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(code: str = NET.format(name="net"), name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return path

    return write


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.chdir(tmp_path)

    def write(name: str, body: str) -> None:
        path = tmp_path / "variants" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(("" if name.startswith("presets/") else HEAD) + body)

    return write


def test_a_registered_model_has_its_own_section(plugin, registry):
    plugins.load_file(plugin())
    registry("baseline", '[model]\nkind = "net"\nchannels = 4\n')
    registry("wide", "[model]\nchannels = 16\n")
    assert variants.names() == ["baseline", "wide"]
    config = variants.resolve(variants.load("wide"), "smoke")
    assert config.settings()["model"] == {"kind": "net", "space": "pixel", "channels": 16, "sizes": (1, 2)}
    assert config.settings()["plugins"] == {"model net": plugins.digest("model", "net")}
    assert config.train.steps == 12
    assert variants.from_json(config.to_json(), "smoke") == config
    with pytest.raises(VariantError, match=r"model.channels is 'x'; it must be a whole number"):
        variants.resolve(variants.load("wide[model.channels=x]"), "smoke")


def test_a_variant_may_be_of_another_kind_than_the_packaged_baseline(plugin, registry):
    plugins.load_file(plugin())
    registry("other", '[model]\nkind = "net"\n')
    assert "no_drift" in variants.names()
    config = variants.resolve(variants.load("other"), "smoke")
    assert config.model.kind == "net"
    assert config.hash != variants.resolve(variants.load("baseline"), "smoke").hash
    with pytest.raises(VariantError, match="different kinds of model: no_drift of kpn, other of net; choose one"):
        variants.load("no_drift+other")


def test_the_code_of_a_plugin_is_part_of_the_hash(plugin, registry):
    registry("baseline", '[model]\nkind = "net"\n')
    plugins.load_file(plugin())
    first = variants.resolve(variants.load("baseline"), "smoke")
    with forgotten():
        pass
    plugins.load_file(plugin(NET.format(name="net") + "# changed\n"))
    second = variants.resolve(variants.load("baseline"), "smoke")
    assert first.hash != second.hash
    # A row keeps what it was computed with.
    assert variants.from_json(first.to_json(), "smoke").hash == first.hash


def test_an_edit_within_the_same_second_is_seen(plugin, registry):
    path = plugin()
    plugins.load_file(path)
    before = path.stat()
    plugin(NET.format(name="net").replace("= 8", "= 9"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    plugins.load_file(path)
    assert plugins.find("model", "net").target().channels == 9


def test_the_neighbours_that_a_plugin_imports_are_part_of_its_digest(plugin, tmp_path):
    (tmp_path / "net_parts_of_test.py").write_text("WIDTH = 1\n")
    code = "import net_parts_of_test\n" + NET.format(name="net")
    plugins.load_file(plugin(code))
    digest = plugins.digest("model", "net")
    ((_, files),) = plugins.loaded_code().values()
    assert set(files) == {"mine.py", "net_parts_of_test.py"}
    del sys.modules["net_parts_of_test"]
    (tmp_path / "net_parts_of_test.py").write_text("WIDTH = 2\n")
    with forgotten():
        plugins.load_file(plugin(code + "\n"))
        assert plugins.digest("model", "net") != digest


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", "registers nothing"),
        ("x = = 1\n", r"mine.py:1: SyntaxError"),
        ("raise KeyError('boom')\n", r"mine.py:1: KeyError: 'boom'"),
        ("import nowhere_to_be_found\n", "mine.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            "print('hello')\n" + NET.format(name="net"),
            r"prints to stdout while it is loaded \('hello'\); remove the print",
        ),
        (NET.format(name="kpn"), "model kpn: the name is taken by the package; rename it"),
        (NET.format(name="a b"), "model 'a b': a name has letters"),
        (NET.format(name="net").replace("self, shape", "self"), r"build\(self\): it must take \(self, shape\)"),
        (NET.format(name="net").replace("channels:", "kind:"), "a field may not be called kind"),
        (NET.format(name="net").replace("channels: int", "channels: Nope"), "Nope"),
        ("import ablate\nablate.model('f')(3)\n", "it must be a class with build"),
        (
            "import ablate\n@ablate.metric('m', of='all')\ndef m(x): ...\n",
            "of is 'all'; allowed: sets, pairs, samples, run",
        ),
        (
            "import ablate\n@ablate.metric('m', better='more')\ndef m(x): ...\n",
            "better is 'more'; allowed: lower, higher",
        ),
        (
            "import ablate\n@ablate.metric('m', of='sets')\ndef m(x): ...\n",
            r"metric m\(x\): it must take \(samples, real\)",
        ),
        (
            "import ablate\n@ablate.objective('o')\nclass O: ...\n",
            r"objective o has no draw; it needs draw\(x, eps, u\)",
        ),
        (
            "import ablate\n@ablate.solver('s')\ndef s(z): ...\n",
            r"solver s\(z\): it must take \(denoise, z, num_steps\)",
        ),
    ],
)
def test_a_bad_plugin_is_one_line_that_names_its_file(plugin, code, message):
    with pytest.raises(PluginError, match=message) as error:
        plugins.load_file(plugin(code))
    assert "mine.py" in str(error.value)
    assert "\n" not in str(error.value)
    assert plugins.names("model") == ["kpn"]


def test_a_name_has_one_file(plugin):
    plugins.load_file(plugin())
    with pytest.raises(PluginError, match=r"other.py: model net: the name is taken by .*mine.py; rename it"):
        plugins.load_file(plugin(name="other.py"))


def test_an_unknown_kind_says_how_to_load_it(registry):
    registry("mine", '[model]\nkind = "unet"\n')
    with pytest.raises(
        VariantError, match=r"mine.toml: model.kind: no model 'unet'. Known: kpn; .* needs --plugin FILE.py"
    ):
        variants.load("mine")


def test_nothing_is_loaded_from_the_current_folder(plugin, registry):
    plugin("raise SystemExit('ran')\n", "variants/plugin.py")
    plugin("raise SystemExit('ran')\n", "ablate_plugin.py")
    registry("mine", "[model]\ndrift_channels = 4\n")
    assert variants.load("mine").delta


def test_a_baseline_of_ones_own_leaves_budgets_to_presets(plugin, registry):
    plugins.load_file(plugin())
    registry("baseline", '[model]\nkind = "net"\n[train]\nlr = 1.0\n')
    with pytest.raises(VariantError, match=r"train.lr is set by presets; set it in .*presets/NAME.toml, with extends"):
        variants.resolve(variants.load("baseline"), "smoke")
    registry("baseline", '[model]\nkind = "net"\n')
    registry("presets/tiny", 'extends = "smoke"\n[train]\nlr = 1.0\n[model]\nchannels = 2\n')
    config = variants.resolve(variants.load("baseline"), "tiny")
    assert (config.train.lr, config.settings()["model"]["channels"]) == (1.0, 2)


def test_a_row_from_a_table_has_no_model():
    with pytest.raises(VariantError, match="imported from a table has no model"):
        variants.from_json(None, "smoke")


def test_all_variants_see_the_same_images(plugin, registry):
    registry("small", "[data]\nsize = 32\n")
    with pytest.raises(VariantError, match=r"small.toml: data.size is the same for all variants of a study"):
        variants.load("small")


@pytest.mark.slow
def test_a_configuration_travels_with_its_plugin(plugin, registry, tmp_path):
    plugins.load_file(plugin())
    registry("baseline", '[model]\nkind = "net"\n')
    config = variants.resolve(variants.load("baseline"), "smoke")
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    read = (
        "import pickle, pathlib; c = pickle.loads(pathlib.Path('config').read_bytes()); print(c.hash, c.model.channels)"
    )
    done = subprocess.run([sys.executable, "-c", read], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [config.hash, "8"]
