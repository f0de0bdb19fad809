"""Classes of libraries that are not installed, as their pickles name them."""

import collections
import sys
import types
import typing


def of_library(monkeypatch, module, name, base=object):
    """A class as a library that is not installed has it."""
    made = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        inner = ".".join(parts[:depth])
        if inner not in sys.modules:
            monkeypatch.setitem(sys.modules, inner, types.ModuleType(inner))
    monkeypatch.setattr(sys.modules[module], name, made, raising=False)
    return made


def omegaconf(monkeypatch):
    """What `OmegaConf.create` would make, for `torch.save`: each part leads back to its parent."""
    names = {
        dict: ("dictconfig", "DictConfig"),
        list: ("listconfig", "ListConfig"),
        tuple: ("tupleconfig", "TupleConfig"),
        None: ("nodes", "AnyNode"),
        "metadata": ("base", "Metadata"),
        "of a container": ("base", "ContainerMetadata"),
    }
    kinds = {
        key: of_library(monkeypatch, f"omegaconf.{module}", name)
        for key, (module, name) in names.items()
    }

    def create(value, parent=None, key=None):
        kind = type(value) if type(value) in kinds else None
        metadata = kinds["of a container" if kind else "metadata"]()
        metadata.__dict__ |= {"ref_type": typing.Any, "object_type": kind, "optional": True}
        metadata.__dict__ |= {"key": key, "flags": {}, "flags_root": False}
        metadata.resolver_cache = collections.defaultdict(dict)
        made = kinds[kind]()
        made._metadata, made._parent = metadata, parent
        if kind is None:
            made._val = value
            return made
        metadata.key_type, metadata.element_type = typing.Any, typing.Any
        if kind is dict:
            made._content = {name: create(item, made, name) for name, item in value.items()}
        else:
            made._content = [create(item, made, index) for index, item in enumerate(value)]
        return made

    return create
