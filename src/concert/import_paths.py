"""Classes of the user, named by import path."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from concert.errors import ConcertError, nearest

T = TypeVar("T")


def import_from_here() -> None:
    """Let import paths name modules in the working folder, as `python -m` would."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def is_foreign(name: str) -> bool:
    """Whether a name is the import path of a class from outside `concert`.

    Importing `concert.__main__` would run a command.
    """
    return "." in name and (not name.startswith("concert.") or "__main__" in name.split("."))


def import_module_class(kind: str, path: str, trust: bool) -> Callable[..., nn.Module]:
    """The `nn.Module` class at an import path; see `import_class`."""
    return import_class(kind, path, trust, nn.Module, "torch.nn.Module")


def import_class(kind: str, path: str, trust: bool, base: type, named: str) -> Callable[..., Any]:
    """The class at an import path, for messages a `kind` such as "classifier".

    It must be derived from `base`, in messages `named`.

    Raises ConcertError if it does not exist or is no such class, or if it is code from outside
    `concert` without `trust`.
    """
    if is_foreign(path) and not trust:
        raise ConcertError(
            f"'{path}' is code from outside concert: if you trust it, say so with --trust "
            "(trust=True in Python)"
        )
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    # Importing runs the module, which may fail in any way.
    except (Exception, SystemExit) as error:
        raise ConcertError(
            f"cannot import '{module_name}' ({one_line(error)}): check the path and that it is "
            "installed or in PYTHONPATH"
        ) from error
    if not hasattr(module, class_name):
        classes = [n for n, value in vars(module).items() if _derives(value, base)]
        raise ConcertError(f"in {module_name}: {nearest(kind, class_name, classes)}")
    found = getattr(module, class_name)
    if not _derives(found, base):
        raise ConcertError(f"'{path}' is no class derived from {named}: name one that is")
    constructor: Callable[..., Any] = found
    return constructor


def construct(
    kind: str, name: str, constructor: Callable[..., T], arguments: Mapping[str, Any]
) -> T:
    """`constructor(**arguments)`, whatever goes wrong in it as one line."""
    try:
        return constructor(**arguments)
    except ConcertError:
        raise
    # A class of the user may fail in any way.
    except Exception as error:
        raise ConcertError(
            f"cannot construct {kind} '{name}' with arguments {dict(arguments)}: {one_line(error)}"
        ) from error


def source_hash(kinds: Iterable[type]) -> str | None:
    """The hash of the files that define the user's own classes among `kinds`, and the classes that
    these are derived from; None without any.
    """
    digest, found = hashlib.sha256(), False
    bases = {base.__module__: base for kind in kinds for base in kind.__mro__}
    for name, kind in sorted(bases.items()):
        if name.split(".")[0] in ("concert", "torch"):
            continue
        try:
            file = Path(inspect.getfile(kind))
            if _is_pythons(file):
                continue
            content = file.read_bytes()
        except (TypeError, OSError):
            continue
        digest.update(hashlib.sha256(content).digest())
        found = True
    return digest.hexdigest() if found else None


def _is_pythons(file: Path) -> bool:
    """Whether a file is of Python's own library, whatever the user's modules are called."""
    library = Path(sysconfig.get_path("stdlib"))
    return file.is_relative_to(library) and "site-packages" not in file.parts


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _derives(value: object, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base
