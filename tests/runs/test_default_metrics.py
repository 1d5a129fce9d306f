"""A run records FID and LPIPS without being asked: from a publisher, after a dead network, and never twice."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import command
import numpy as np
import pandas as pd
import pytest
import torch
from publisher import Publisher, publisher
from safetensors import safe_open
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import alexnet

from ablate.metrics import downloads
from ablate.metrics.weights import BACKBONES
from ablate.study.metric_names import INCEPTION

NAMES = ("fid", "kid", "lpips")


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def random_inception() -> dict[str, torch.Tensor]:
    class Unloaded(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:
            pass

    return Unloaded(INCEPTION, ["2048"], feature_extractor_weights_path=io.BytesIO(saved({}))).state_dict()


def publish(server: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put random weights in the place of the published ones."""
    torch.manual_seed(0)
    trunk = {f"features.{name}": tensor for name, tensor in alexnet().features.state_dict().items()}
    for name, tensors in (("inception_v3", random_inception()), ("alexnet_features", trunk)):
        content, backbone = saved(tensors), BACKBONES[name]
        server.files[f"/{name}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(BACKBONES, name, replace(backbone, url=f"{server.url}/{name}", file_sha256=sha256))


@pytest.mark.slow
def test_runs_have_fid_and_lpips_and_finished_ones_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABLATE_OFFLINE")
    monkeypatch.delenv("ABLATE_WEIGHTS", raising=False)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    np.savez(tmp_path / "set.npz", np.random.default_rng(0).integers(0, 256, (80, 64, 64, 3), np.uint8))
    command.add_tiny_preset(tmp_path)
    words = ("run", "--preset", "tiny", "--data", "set.npz", "--no-baseline", "--variant", "no_drift")

    def rows() -> pd.DataFrame:
        return pd.read_parquet(tmp_path / "results" / "runs.parquet").sort_values("seed").reset_index(drop=True)

    with publisher() as server:
        publish(server, monkeypatch)
        less = command.ablate(*words, "--metric", "fd,pd", "--dry-run", cwd=tmp_path)
        assert "downloaded" not in less.stdout
        study = ("run", "--preset", "tiny", "--data", "set.npz", "--variant", "no_drift", "--dry-run")
        assert "to be judged by fid, lpips: no_drift" in command.ablate(*study, cwd=tmp_path).stdout
        assert "to be judged by fd, pd: no_drift" in command.ablate(*study, "--offline", cwd=tmp_path).stdout
        planned = command.ablate(*words, "--dry-run", cwd=tmp_path)
        assert f"to be downloaded for fid: 96 MB from {server.url}/inception_v3" in planned.stdout
        assert "to be downloaded for lpips: 244 MB" in planned.stdout
        assert not server.requests

        server.silent = True
        with monkeypatch.context() as patch:
            patch.setattr(downloads, "ANSWER_S", 0.2)
            alone = command.ablate(*words, cwd=tmp_path)
        assert alone.returncode == 0, alone.stderr
        assert alone.stderr.count("are not measured: no weights for") == 2
        before = rows()
        assert before[[*NAMES]].isna().all().all()

        server.silent = False
        server.requests.clear()
        for path in (tmp_path / "cache" / "weights").glob("*.failed"):
            path.unlink()  # an hour later
        both = command.ablate(*words, "--seeds", "0-1", cwd=tmp_path)
        assert both.returncode == 0, both.stderr
        assert sorted(path for path, _ in server.requests) == ["/alexnet_features", "/inception_v3"]
        assert f"inception_v3: downloading 96 MB from {server.url}/inception_v3" in both.stderr
        assert "s0-" in both.stdout
        assert "done before; 15 rows added" in both.stdout
        after = rows()
        assert after[[*NAMES, "fid_floor", "nearest_lpips"]].notna().all().all()
        kept = [name for name in before.columns if before[name].notna().all() and name != "memorised"]
        pd.testing.assert_frame_equal(after.loc[[0], kept], before[kept])  # nothing that was recorded changed
        fidelity = pd.read_parquet(tmp_path / "results" / "fidelity.parquet")
        one, other = (set(fidelity.loc[fidelity["run_id"] == run_id, "metric"]) for run_id in after["run_id"])
        assert one == other
        denoising = pd.read_parquet(tmp_path / "results" / "denoising.parquet")
        assert denoising.groupby("run_id")["lpips"].mean().to_dict() == pytest.approx(
            after.set_index("run_id")["lpips"].to_dict()
        )
        for run_id in after["run_id"]:
            path = tmp_path / "results" / "artifacts" / run_id / "features.safetensors"
            with safe_open(path, framework="np") as file:
                assert set(file.keys()) == {"efficientnet-lite0", INCEPTION}

        again = command.ablate(*words, "--seeds", "0-1", cwd=tmp_path)
        assert again.stdout.count("done before; skipped") == 2
        assert len(server.requests) == 2
