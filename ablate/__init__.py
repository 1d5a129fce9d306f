"""ablate: which parts of a small image generator earn their place?"""

__version__ = "0.1.0"
