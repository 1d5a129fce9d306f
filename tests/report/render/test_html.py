"""The page: complete without scripts, self-contained, and safe whatever stands in the tables."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path

import altair as alt
import numpy as np
import pages
import pandas as pd
import pytest
import synthetic
from PIL import Image
from typer.testing import CliRunner

from ablate import cli
from ablate.data import datasets
from ablate.report import plot_data
from ablate.report.builder import build, read
from ablate.report.render import gallery, run_images, vega
from ablate.report.render.html import to_html
from ablate.report.render.main_table import headlines, main_table, reasons
from ablate.report.render.text_table import TextTable
from ablate.store import image_grids

BOTH = ("first", "second")
HOSTILE = "</script><img src=x onerror=alert(1)>\"'\u202e{{7*7}}"


class Reader(HTMLParser):
    """What a reader without scripts gets: elements, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self.inside = "", [""], ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(folder: Path) -> str:
    return to_html(build(read(folder)), folder)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "EMBEDDED_DIGEST", pages.DIGEST)
        return page(pages.make(tmp_path_factory.mktemp("page") / "results"))


def test_it_says_what_was_found_without_scripts(html: str) -> None:
    text = " ".join(Reader(html).text.split())
    assert (
        "By fd, no_drift is worse than baseline and direct is better than baseline; 1 of 3 changes is undecided."
        in text
    )
    differ, undecided = text.index("Differ from baseline: 2"), text.index("Undecided: 1")
    assert differ < text.index("Remove the colour-drift network.", differ) < undecided
    assert undecided < text.index("v_pred", undecided) < text.index("lower is better")
    assert "no_drift: worse than baseline in fd, because drift restores low-frequency colour." in text
    claims = re.findall(r'class="badge (\w+)"', html.partition('<section id="claims"')[2].partition("</section>")[0])
    assert claims == sorted(claims, key="undecided".__eq__)
    assert {"supported", "undecided"} < {*claims}


def test_the_table_of_a_paper_comes_first_with_what_differs_before_what_is_open(html: str) -> None:
    first = html.partition("<tr>")[2].partition("</tr>")[0]
    assert [Reader(cell).text for cell in re.findall(r"<th.*?</th>", first)] == [
        *("variant", "fd\xa0↓", "fd vs baseline", "pd\xa0↓", "pd vs baseline", "seeds", "ms/image", "params")
    ]
    rows = {
        row.partition("<br>")[0].rpartition(">")[2]: row for row in re.findall(r'(?s)<th scope="row">.*?</tr>', html)
    }
    assert list(rows)[:4] == ["baseline", "no_drift", "direct", "v_pred"]
    badges = {name: re.findall(r'class="badge (\w+)"', row)[:1] for name, row in rows.items()}
    assert [badges[name] for name in list(rows)[:4]] == [[], ["hurts"], ["helps"], ["undecided"]]
    assert re.fullmatch(r"baseline.*± .*± .*91603\.60 M", Reader(rows["baseline"]).text.strip())


def test_a_metric_that_decides_leads_though_it_is_not_the_first() -> None:
    made = synthetic.planned(synthetic.rows({"baseline": 0.0, "no_drift": 0.0}, range(8)), ["fd", "pd"])
    for row in made["runs"]:
        row["pd"] += row["variant"] == "no_drift"
    found = synthetic.findings_of(made)
    assert headlines(found) == ["By pd, no_drift is worse than baseline.", "By fd, nothing is decided."]
    table = main_table(found)
    assert table is not None
    assert [group.title for group in table.groups] == ["", "Differ from baseline: 1"]
    assert headlines(synthetic.findings_of(synthetic.rows({"baseline": 0.0, "no_drift": 0.0}, range(2)))) == [
        "Of 1 change to baseline, 1 is undecided: judged by fd over 2 seeds, with e-values of a grown study."
    ]


def test_what_is_open_says_how_many_seeds_would_tell(tmp_path: Path) -> None:
    found = build(read(pages.make(tmp_path, seeds=range(4), images=False)))
    why = {(label, metric): text for label, metric, _, text in reasons(found)}
    needed = {one.label: one.seeds_needed for one in found.comparisons if one.metric == "fd"}
    assert why["no_drift", "fd"].endswith(f"; by the spread seen, that needs {needed['no_drift']} seeds")
    single = build(read(pages.make(tmp_path / "single", seeds=range(1), images=False)))  # shows no spread
    whys = [text for *_, text in reasons(single)]
    assert len(whys) > 1
    assert all(re.search(r"; this many comparisons need at least \d+ seeds$", why) for why in whys)


def test_it_has_every_plot_with_its_table_and_every_image_with_its_words(html: str) -> None:
    found = Reader(html)
    plots = [figure["id"] for figure in found.all("figure") if figure.get("class") == "plot"]
    assert plots == [
        *("differences-fd", "e-values-fd", "differences-pd", "e-values-pd", "front-0", "front-1"),
        *("denoising", "curves", "sensitivity", "latency"),
    ]
    assert html.count('<svg xmlns="http://www.w3.org/2000/svg"') == len(plots)
    assert found.text.count("The numbers") == len(plots)
    images = found.all("img")
    # 4 variants: samples, three sketches each, strip and neighbours; and two places that the script fills.
    assert sum(str(image.get("src", "")).startswith("data:image/webp;base64,") for image in images) == 4 * (1 + 3 + 2)
    assert all("alt" in image for image in images)
    assert all(image["alt"] for image in images if "src" in image)
    labels = [drawing["aria-label"] for drawing in found.all("div") if drawing.get("class") == "drawing"]
    assert all(labels)
    assert "no_drift +" in str(labels[0])


def test_it_needs_nothing_from_elsewhere(html: str) -> None:
    found = Reader(html)
    for _, attributes in found.elements:
        for name in ("src", "href", "data", "action", "srcset"):
            assert not re.match(r"\s*(https?:|//)", str(attributes.get(name) or "")), attributes
    assert not re.search(r"@import|url\((?!#)", html.split("<style>")[1].split("</style>")[0])
    policy = next(str(m["content"]) for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    kinds = [script.get("type") for script in found.all("script")]
    runnable = [text for text, kind in zip(found.scripts[1:], kinds, strict=True) if kind is None]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in runnable} == allowed
    assert len(runnable) == 2


@pytest.mark.slow
def test_images_of_a_data_set_whose_licence_is_unknown_stay_out(tmp_path: Path) -> None:
    for name, columns in (
        ("photos", {"data": "photos"}),
        ("other", {}),
    ):  # a folder that is called cats is not the embedded one
        text = page(pages.make(tmp_path / name, {"baseline": 0.0}, [0], **columns))
        found = Reader(text)
        assert found.text.count("Left out: it is not known whether the licence") == 1
        assert "Inside the model" not in found.text
        assert sum("src" in image for image in found.all("img")) == 1 + 3
        assert "David Revoy" not in found.text


@pytest.mark.slow
def test_text_from_tables_stays_text(tmp_path: Path) -> None:
    folder = pages.make(
        tmp_path,
        {"baseline": 0.0, HOSTILE: 5.0},
        [0],
        images=False,
        device=HOSTILE,
        data=HOSTILE,
        environment=json.dumps({HOSTILE: HOSTILE}),
    )
    text = page(folder)
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "\\u202e" in Reader(text).text
    assert "{{7*7}}" in text
    for spec in [part for part in Reader(text).scripts if part.startswith("{")]:
        json.loads(spec)


@pytest.mark.slow
def test_both_budgets_stand_side_by_side(html: str, tmp_path: Path) -> None:
    assert "At either budget" not in html  # of one budget
    made = synthetic.rows({"baseline": 0.0, "no_drift": 10.0}, range(3))
    synthetic.save(tmp_path, made)
    more = synthetic.rows({"no_drift": 4.0}, range(3), budget="macs", steps=1700, config_hash="m")
    for rows in more.values():
        for row in rows:
            row["run_id"] += "m"
    synthetic.save(tmp_path, more)
    assert "<h3>At either budget</h3>" in to_html(build(read(tmp_path)), tmp_path)


def test_samples_are_of_the_seed_that_most_variants_have(tmp_path: Path) -> None:
    folder = pages.make(tmp_path / "results", {"baseline": 0.0, "no_drift": 3.0, "v_pred": 1.0}, range(3))
    for path in list((folder / "artifacts").glob("*-s0-*")):
        shutil.copytree(path, path.with_name(path.name.replace("-s0-", "-s1-")), dirs_exist_ok=True)
    shutil.rmtree(folder / "artifacts" / "v_pred-quick-cats-s0-00000000")
    shown = gallery.make_gallery(build(read(folder)), folder)
    assert shown.caption.startswith("Seed 1. ")
    assert [row.label for row in shown.rows] == ["baseline", "no_drift", "v_pred"]


@pytest.mark.parametrize("truth", [{"no_drift": 0.0, "v_pred": 3.0}, {"baseline": 0.0}], ids=["no baseline", "alone"])
@pytest.mark.slow
def test_without_a_pair_nothing_is_called_a_difference_in_the_page_of_the_command(
    tmp_path: Path, truth: dict[str, float]
) -> None:
    folder, output = pages.make(tmp_path / "results", truth, range(2), images=False), tmp_path / "report.html"
    done = CliRunner().invoke(cli.app, ["report", "--results", str(folder), "--format", "html", "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert output.read_text("utf-8").startswith("<!doctype html>")
    text = Reader(output.read_text("utf-8")).text
    assert "None" not in text.replace("None of its images", "")
    assert "minus" not in text
    assert "beside it" not in text


def test_a_model_of_the_user_has_no_word_of_the_model_that_ships(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "EMBEDDED_DIGEST", pages.DIGEST)
        columns = {
            "config": json.dumps({"model": {"kind": "unet", "space": "pixel"}}),
            "about": "Ours.",
            "claims": "[]",
        }
        folder = pages.make(tmp_path, {"baseline": 0.0, "no_attention": 20.0}, range(1), **columns)
        (folder / "quantized.parquet").unlink()  # it has scopes of the model that ships
        text = page(folder)
    words = Reader(text).text
    assert "From noise to image in one step" in words
    assert not re.search(r"(?i)schreiner|filter|drift|latent|kernel", words)
    assert "EfficientNet-Lite0 weights" in words


def test_scores_from_a_program_have_a_page_without_sections_of_models(tmp_path: Path) -> None:
    made: synthetic.Rows = {"runs": [], "metrics": []}
    for row in synthetic.rows({"baseline": 0.0, "wide": 3.0}, range(6))["runs"]:
        kept = ("run_id", "variant", "preset", "seed", "status", "data", "config_hash", "budget", "finished_at")
        made["runs"].append({name: row[name] for name in kept} | {"about": "Ours.", "claims": "[]"})
        made["metrics"].append({"run_id": row["run_id"], "metric": "loss", "value": row["fd"], "better": "lower"})
    text = page(synthetic.save(tmp_path, made))
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == ["verdicts", "differences", "quality", "methods"]
    assert re.findall(r'<li><a href="#(\w+)">', text) == sections
    words = Reader(text).text
    assert "By loss, wide is worse than baseline." in words
    assert not re.search(r"(?i)schreiner|filter|drift|kpn|fd |image|EfficientNet", words.replace("Images of", ""))


def test_no_runs_is_a_page_too(tmp_path: Path) -> None:
    text = Reader(page(tmp_path)).text
    assert "No runs yet" in text
    assert "Methods and environment" in text


def test_the_table_for_a_paper_is_there_to_copy(html: str, tmp_path: Path) -> None:
    text = Reader(html).text
    start, end = text.index("% Needs \\usepackage{booktabs}."), text.index("\\end{table}")
    assert text[start:end].count("\\\\\n") == 1 + 4
    assert "Copy as LaTeX" in text[:start]


@pytest.mark.slow
def test_many_variants_fit_into_five_megabytes(tmp_path: Path) -> None:
    names = ["baseline", *(f"variant_{i}" for i in range(14))]
    text = page(pages.make(tmp_path, dict.fromkeys(names, 0.0), range(6), images=False))
    budgets = (
        gallery.SAMPLES_BYTES,
        gallery.PREVIEWS_BYTES,
        gallery.STRIPS_BYTES,
        gallery.NEAREST_BYTES,
    )
    assert len(text.encode()) + sum(budgets) < 5_000_000


@pytest.mark.parametrize(("budget", "height"), [(10**7, 512), (2 * 10**5, 64), (20_000, 64)])
def test_images_keep_within_their_bytes(budget: int, height: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)  # what compresses worst
    packed = run_images.pack([noise] * 5, budget)
    assert sum(map(len, packed)) <= budget
    assert len(packed) == (5 if budget > 10**5 else 1)
    with Image.open(io.BytesIO(base64.b64decode(packed[0].split(",")[1]))) as image:
        assert image.size == (512, height)


def test_a_packed_grid_is_read_as_the_enlarged_one_is(tmp_path: Path) -> None:
    grid = np.arange(512 * 512 * 3, dtype=np.uint8).reshape(512, 512, 3)
    Image.fromarray(grid.repeat(image_grids.ZOOM, 0).repeat(image_grids.ZOOM, 1)).save(tmp_path / "samples.png")
    Image.fromarray(grid).save(tmp_path / "samples.webp", lossless=True)
    for path in (tmp_path / "samples.png", run_images.sample_file(tmp_path)):
        found = run_images.read(path)
        assert found is not None
        assert np.array_equal(found, grid)
    assert path.suffix == ".webp"


def test_a_damaged_image_is_none(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    assert run_images.read(path) is None
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    assert run_images.read(path) is None
    Image.fromarray(np.zeros((256, 1024, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + whole[24:29]
    path.write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:])
    assert run_images.read(path) is None
    path.write_bytes(whole)
    found = run_images.read(path)
    assert found is not None
    assert found.shape == (128, 512, 3)


def test_single_calls_are_picked_evenly_and_the_newest_side_by_side_session_wins() -> None:
    import pandas as pd

    call = {"batch": 1, "scope": "step", "scheme": "fp32", "engine": "torch"}
    rows = [call | {"run_id": "a", "session": "run", "latency_ms": ms} for ms in np.arange(1000.0)]
    rows += [
        call | {"run_id": run, "session": session, "latency_ms": 5.0}
        for run, session in (("a", "bench-1"), ("a", "bench-2"), ("b", "bench-2"))
    ]
    runs = {"a": ("first", 0), "b": ("second", 0)}
    found, where = plot_data.latency(pd.DataFrame(rows[:1000]), runs, BOTH)
    assert "timed itself" in where
    assert len(found) == plot_data.TICKS
    assert found["latency_ms"].is_monotonic_increasing
    assert found["latency_ms"].diff().dropna().between(20, 30).all()
    assert (found["latency_ms"].iloc[0], found["latency_ms"].iloc[-1]) == (0, 999)  # the fastest and the slowest of all
    for n in (1, 2, 40, 41, 42, 83, 500):
        few, _ = plot_data.latency(pd.DataFrame(rows[:n]), runs, BOTH)
        assert len(few) == min(n, plot_data.TICKS)
        assert few["latency_ms"].iloc[-1] == n - 1
    found, where = plot_data.latency(pd.DataFrame(rows), runs, ())
    assert "ablate bench" in where
    assert found["name"].tolist() == ["first", "second"]


def test_a_plot_may_have_more_than_5000_rows() -> None:
    chart = alt.Chart(pd.DataFrame({"x": range(5001)})).mark_point().encode(x="x:Q")
    assert "5000" in vega.finish("name", chart, "title", "", "", TextTable("", (), (), ())).spec
