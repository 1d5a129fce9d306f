from ablate.api import import_scores as import_scores
from ablate.api import judge as judge
from ablate.api import load_results as load_results
from ablate.api import load_run as load_run
from ablate.api import merge as merge
from ablate.api import run as run
from ablate.results_folder import Results as Results
from ablate.study.plugins import dataset as dataset
from ablate.study.plugins import metric as metric
from ablate.study.plugins import model as model
from ablate.study.plugins import objective as objective
from ablate.study.plugins import solver as solver

__version__: str
__all__ = [
    "Results",
    "__version__",
    "dataset",
    "import_scores",
    "judge",
    "load_results",
    "load_run",
    "merge",
    "metric",
    "model",
    "objective",
    "run",
    "solver",
]
