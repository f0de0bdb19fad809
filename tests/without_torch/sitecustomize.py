"""Commands need no PyTorch; tensorboardX imports it wherever it is, which takes two seconds."""

import sys


class Absent:
    """Finds no torch."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        del path, target
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")


sys.meta_path.insert(0, Absent)
