"""The feature atlas: a static site to look every feature up in, that opens from disk.

``space`` reads what the stages found out about a dictionary's features, ``tissue`` the sections,
``activity`` sums over cells in blocks, ``details`` turns them into plain lists, ``encoding`` packs these,
``site`` writes the folder. The page itself is plain HTML, CSS and JavaScript beside this file.
"""

from interptfm.atlas.site import CHUNK, Site
from interptfm.atlas.space import Space, read
from interptfm.atlas.tissue import Section, section

__all__ = ["CHUNK", "Section", "Site", "Space", "read", "section"]
