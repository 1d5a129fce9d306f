"""Schema versions: real tables of version 1 are read for ever, older ones are migrated as they are read, unknown ones refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate.base.errors import ResultsError
from ablate.report import builder
from ablate.report.render.markdown import to_markdown
from ablate.store import schema, tables

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "schema1"  # two smoke runs of commit 90ceca6
DIGEST = "7ff969a0278adccd7ee56354e1e5a504367d15c120bd4018d89d14f86a875820"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(VERSION_1, tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("table", ["runs", "curves", "denoising", "fidelity", "latency"])
def test_every_value_of_version_1_is_read(table: str) -> None:
    stored = pd.read_parquet(VERSION_1 / f"{table}.parquet")
    assert pq.read_schema(VERSION_1 / f"{table}.parquet").metadata[schema.VERSION_KEY] == b"1"
    found = tables.read(VERSION_1, table)
    assert len(found) == len(stored) > 0
    kept = [name for name in stored.columns if name in found.columns]
    assert len(kept) == len(stored.columns)
    pd.testing.assert_frame_equal(found[kept], stored[kept])
    assert found[[name for name in found.columns if name not in kept]].isna().all().all()


def test_version_1_is_reported_and_added_to(folder: Path) -> None:
    assert "baseline" in to_markdown(builder.build(builder.read(folder)))
    tables.append(folder, {"runs": [{"run_id": "x", "variant": "v", "preset": "smoke", "seed": 0, "status": "done"}]})
    runs = tables.read(folder, "runs").set_index("run_id")
    assert len(runs) == 3
    assert runs.loc["baseline-smoke-set-s0-16158134", "weights_digest"] == DIGEST


def migrate(table: str, content: pa.Table) -> pa.Table:
    """A change of meaning: milliseconds become seconds."""
    if table != "latency":
        return content
    place = content.schema.get_field_index("latency_ms")
    return content.set_column(place, "latency_ms", pa.compute.multiply(content["latency_ms"], 1000.0))


def test_an_older_version_is_migrated_on_read_and_written_as_the_present_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables.read(folder, "latency")["latency_ms"]
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "SCHEMAS", {table: schema._schema(table) for table in schema.SCHEMAS})
    with pytest.raises(ResultsError, match="written with schema version 1, which this ablate cannot read"):
        tables.read(folder, "latency")
    monkeypatch.setattr(schema, "MIGRATIONS", {1: migrate})
    for _ in range(2):  # reading leaves the file as it is
        assert tables.read(folder, "latency")["latency_ms"].tolist() == pytest.approx((1000 * before).tolist())
    tables.append(folder, {"latency": []})
    assert pq.read_schema(folder / "latency.parquet").metadata[schema.VERSION_KEY] == b"2"
    assert pq.read_schema(folder / "runs.parquet").metadata[schema.VERSION_KEY] == b"1"
    assert tables.read(folder, "latency")["latency_ms"].tolist() == pytest.approx((1000 * before).tolist())
    assert tables.read(folder, "runs")["weights_digest"].tolist()[0] == DIGEST


@pytest.mark.parametrize(
    ("version", "message"), [(b"0", "cannot read"), (b"2", "upgrade ablate"), (b"x", "not a table")]
)
def test_other_versions_are_refused_and_kept(folder: Path, version: bytes, message: str) -> None:
    path = folder / "runs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({schema.VERSION_KEY: version}), path)
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=message):
        tables.append(folder, {"runs": []})
    assert path.read_bytes() == before
