"""Finds the apps that a command names: ``orders.py``, ``orders.py:app``, ``shop.orders`` or ``shop.orders:app``."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from steplog.app import App
from steplog.errors import ConfigInvalid


def load_apps(targets: Sequence[str]) -> list[App]:
    """Import every target and collect its apps, each once.

    Raises ``ConfigInvalid`` for a target that does not exist or holds no app. What the import itself raises passes
    through.
    """
    apps: dict[str, App] = {}
    for target in targets:
        name, _, attribute = target.partition(":")
        module = _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
        for app in _apps_of(module, target, attribute):
            known = apps.setdefault(app.id, app)
            if known is not app:
                raise ConfigInvalid(target, [f"another app has the id {app.id!r} already"])
    return list(apps.values())


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigInvalid(str(path), ["there is no such file"])
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the file may import its neighbours
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            problem = f"there is no module {error.name}; a file is named with its ending, as orders.py"
            raise ConfigInvalid(name, [problem]) from None
        raise


def _apps_of(module: ModuleType, target: str, attribute: str) -> list[App]:
    if attribute:
        app = getattr(module, attribute, None)
        if not isinstance(app, App):
            raise ConfigInvalid(target, [f"{attribute} is {app!r}, not an App"])
        return [app]
    apps = [value for value in vars(module).values() if isinstance(value, App)]
    if not apps:
        raise ConfigInvalid(target, ['it holds no App; write one, as app = App("shop")'])
    return apps
