"""Teachers to distil from, one small file each; every file here is found by itself."""

from delf_engine.training.discovery import import_all

import_all(__name__, __path__)
