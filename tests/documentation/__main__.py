"""Write the pages that are made from code: ``python -m tests.documentation``."""

from .generated import GENERATED
from .pages import ROOT

for name, build in GENERATED.items():
    (ROOT / name).write_text(build(), encoding="utf8")
    print(name)
