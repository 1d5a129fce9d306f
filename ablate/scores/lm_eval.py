"""Results of lm-evaluation-harness: `results_<time>.json`, one file for each model and time.

results.<task>."acc,none"      the metric `acc` of the filter `none`; here called `<task>/acc`
higher_is_better.<task>.acc    its direction
model_name, config             the variant and its seed
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ablate.base.errors import ResultsError
from ablate.base.text import one_line

PATTERN = "results_*.json"


def is_result(content: Any) -> bool:
    """Return whether a JSON document is a result of lm-evaluation-harness."""
    if not isinstance(content, dict) or not isinstance(results := content.get("results"), dict):
        return False
    return bool(results) and all(isinstance(task, dict) for task in results.values())


def read(content: dict[str, Any], name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the scores as rows of model, random_seed, metric and value, and the directions of the metrics.

    If tasks are grouped, the scores of a group are returned and not those of its parts.

    Args:
        content: The document.
        name: What the file is called in an error.

    Raises:
        ResultsError: It has no score, or no name of a model.
    """
    config, grouped, directions = (_object(content, key) for key in ("config", "group_subtasks", "higher_is_better"))
    arguments = config.get("model_args")
    model = content.get("model_name") or _pretrained(arguments) or config.get("model")
    if not model:
        raise ResultsError(f'{name}: no model_name; add one, as in "model_name": "base-seed0"')
    parts = {task for tasks in grouped.values() if isinstance(tasks, list) for task in tasks}
    scored = {task for task, scores in content["results"].items() if any(map(_is_score, scores.items()))}
    if any(group in scored for group, tasks in grouped.items() if tasks):
        scored -= parts
    rows, better = [], {}
    for task in [task for task in content["results"] if task in scored]:
        of_task = _object(directions, task)
        for key, value in filter(_is_score, content["results"][task].items()):
            plain, _, filter_ = str(key).partition(",")
            metric = f"{task}/{plain}" + (f":{filter_}" if filter_ not in ("", "none") else "")
            rows.append({"model": str(model), "random_seed": _seed(config), "metric": metric, "value": value})
            if isinstance(of_task.get(plain), bool):
                better[metric] = "higher" if of_task[plain] else "lower"
    if not rows:
        raise ResultsError(f"{name}: its results have no score")
    return pd.DataFrame(rows), better


def _object(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _is_score(item: tuple[Any, Any]) -> bool:
    key, value = str(item[0]), item[1]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and "_stderr" not in key and key not in ("sample_len", "samples")


def _pretrained(arguments: Any) -> str | None:
    """Return the model's name in the arguments, which are a text or an object."""
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    value = arguments.get("pretrained") if isinstance(arguments, dict) else None
    return one_line(value) if value else None


def _seed(config: dict[str, Any]) -> int | None:
    value = config.get("random_seed")
    return value if isinstance(value, int) else None
