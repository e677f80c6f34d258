"""recbole_kd: does knowledge from a large language model make a sequential recommender better?

Importing this package is cheap: torch and RecBole are imported by the modules that need them.
"""

__version__ = "0.1.0"
