"""The images of a run, or strips of frames of its videos, as one labelled grid, for a paper or a README."""

from PIL import Image, ImageDraw, ImageFont

from ..results.images import open_frames, spread
from ..results.run import Run

SIDE, LABEL, GAP = 128, 22, 4
FRAMES = 5
"""At most this many frames of a video are drawn."""


def draw_sheet(run: Run, prompts: int = 8) -> Image.Image:
    """A row for every prompt at seed 0, a column for every cell, base first; an entry is an image or a strip of frames.

    Args:
        run: of which images are drawn.
        prompts: at most this many are drawn.
    """
    shown = [row for row in run.rows if row.seed == 0]
    lines = list(dict.fromkeys(row.prompt for row in shown))[:prompts]
    cells = [cell for cell in run.cells if any(row.cell == cell for row in shown)]
    strips = {row.job: spread(open_frames(run.folder / row.image), FRAMES) for row in shown if row.prompt in lines}
    width = SIDE * max(map(len, strips.values())) + GAP
    size = (len(cells) * width, LABEL + len(lines) * (SIDE + LABEL))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, cell in enumerate(cells):
        draw.text((column * width, 2), cell.split(" ")[0], "black", font)
    for row in shown:
        if row.prompt in lines:
            x, y = cells.index(row.cell) * width, LABEL + lines.index(row.prompt) * (SIDE + LABEL)
            for i, frame in enumerate(strips[row.job]):
                sheet.paste(frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x + i * SIDE, y))
    for line, prompt in enumerate(lines):
        draw.text((0, LABEL + line * (SIDE + LABEL) + SIDE + 2), prompt[:100], "dimgray", font)
    return sheet
