"""`ablate weights`: list the weight files of the metrics' networks, and download what is missing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ablate.base.errors import AblateError, did_you_mean
from ablate.cli import console
from ablate.cli.app import JsonDocumentOption, WeightsOption, app


@app.command()
def weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAMES]...",
            help="Weights or metrics, as in inception_v3 or lpips_vgg, or all. Default: those of fid, kid and lpips.",
            show_default=False,
        ),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download those that are missing, also after a failure within the hour.")
    ] = False,
    folder: WeightsOption = None,
    as_json: JsonDocumentOption = False,
) -> None:
    """List the weight files of the metrics: where each is, or where it is downloaded from.

    Example: ablate weights --fetch
    """
    from ablate.metrics.weights import BACKBONE_OF, BACKBONES, DEFAULT, Search, local_file
    from ablate.study.metric_names import METRICS

    of_metric = {name: BACKBONE_OF[m.network] for name, m in METRICS.items() if m.network in BACKBONE_OF}
    chosen = [BACKBONE_OF[network] for network in DEFAULT] if fetch else list(BACKBONES)
    if names:
        allowed = [*BACKBONES, *of_metric, "all"]
        for name in names:
            if name not in allowed:
                raise AblateError(
                    f"ablate weights {name}: no such weights{did_you_mean(name, allowed)} Allowed: "
                    f"{', '.join(BACKBONES)}, all, or a metric"
                )
        chosen = list(BACKBONES) if "all" in names else [of_metric.get(name, name) for name in names]
    search, problems = Search(folder, download=True), {}
    if fetch:
        from ablate.base.progress import Progress
        from ablate.metrics import weights as files

        with Progress() as progress:
            problems = files.fetch(dict.fromkeys(chosen), search, progress, retry=True)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(chosen):
        path, published = local_file(name, search), BACKBONES[name]
        row: dict[str, Any] = {
            "name": name,
            "metrics": [metric for metric, backbone in of_metric.items() if backbone == name],
        }
        row |= {"file": None if path is None else str(path), "url": published.url, "sha256": published.file_sha256}
        rows.append(row | {"megabytes": published.megabytes if path is None else round(path.stat().st_size / 1e6, 1)})
    if as_json:
        console.echo_json(rows)
    else:
        for row in rows:
            console.echo(f"{row['name']:18}{row['megabytes']:8,.1f} MB  {', '.join(row['metrics'])}")
            console.echo(f"    {row['file'] or 'missing, from ' + row['url']}")
    if problems:
        raise AblateError("; ".join(problems.values()))
