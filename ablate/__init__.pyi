from ablate.api import Results as Results
from ablate.api import load_results as load_results
from ablate.api import run as run

__version__: str
__all__ = ["Results", "__version__", "load_results", "run"]
