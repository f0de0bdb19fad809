"""The colours, 0 … 255 before light, that all places of the town share.

So what tells places apart is their structure and not their mean colour.
"""

PLASTER = [(226, 214, 188), (214, 178, 120), (206, 148, 124), (168, 186, 198), (196, 200, 196)]
BRICK = [(150, 78, 60), (128, 70, 58), (172, 112, 82), (190, 164, 120)]
STONE = [(176, 168, 152), (150, 148, 144), (198, 184, 156), (130, 124, 118)]
MATERIALS = {"plaster": PLASTER, "brick": BRICK, "stone": STONE, "timber": PLASTER}
ROOFS = [(158, 80, 60), (92, 90, 96), (120, 84, 68), (70, 74, 84), (134, 124, 112)]
TRIMS = [(238, 236, 230), (70, 52, 42), (52, 84, 74), (60, 66, 92), (204, 190, 160)]
PAINTS = [(176, 44, 44), (36, 92, 60), (36, 62, 128), (226, 178, 52), (40, 40, 44), (236, 232, 222)]
GLASS, TIMBER, TRUNK, IRON = (66, 76, 88), (74, 56, 46), (88, 70, 56), (62, 66, 68)
LEAF, LAMPLIGHT, SKIN, TYRE = (84, 118, 58), (240, 232, 200), (196, 150, 122), (30, 30, 32)
ASPHALTS = [(104, 104, 108), (92, 92, 96), (126, 120, 112)]
PAVEMENT, KERB, SOIL = (158, 154, 146), (186, 184, 178), (128, 124, 104)
PAINT_WHITE = (222, 222, 214)
