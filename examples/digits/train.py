"""Handwritten digits with scikit-learn: what do scaling and regularisation add?"""

import argparse
import json
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--scale", action="store_true")
parser.add_argument("--penalty", default="l2")
parser.add_argument("--alpha", type=float, default=0.001)
parser.add_argument("--epochs", type=int, default=20)
options = parser.parse_args()

images, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(images, labels, test_size=0.3, random_state=options.seed)
classifier = SGDClassifier(
    loss="log_loss",
    penalty=options.penalty,
    alpha=options.alpha,
    max_iter=options.epochs,
    tol=None,
    random_state=options.seed,
)
model = make_pipeline(StandardScaler(), classifier) if options.scale else classifier
model.fit(x, y)
metrics = {
    "accuracy": model.score(x_test, y_test),
    "log_loss": {"value": log_loss(y_test, model.predict_proba(x_test)), "unit": "nats", "better": "lower"},
}
(options.out / "metrics.json").write_text(json.dumps(metrics))
