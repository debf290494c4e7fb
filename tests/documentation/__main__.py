"""Write what is made from code and from other pages: ``python -m tests.documentation``.

``llms-full.txt``, all pages in one, is not kept in the repository.
"""

from .generated import GENERATED
from .index import build_full
from .pages import ROOT

for name, build in (GENERATED | {"llms-full.txt": build_full}).items():
    (ROOT / name).write_text(build(), encoding="utf8")
    print(name)
