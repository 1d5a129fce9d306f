from ablate.api import load_results as load_results
from ablate.api import merge as merge
from ablate.api import run as run
from ablate.results_folder import Results as Results

__version__: str
__all__ = ["Results", "__version__", "load_results", "merge", "run"]
