"""The images of a run as one labelled grid, for a paper or a README."""

from PIL import Image, ImageDraw, ImageFont

from ..results.images import open_image
from ..results.run import Run

SIDE, LABEL, GAP = 128, 22, 4


def draw_sheet(run: Run, prompts: int = 8) -> Image.Image:
    """A row for every prompt at seed 0, a column for every cell, base first.

    Args:
        run: of which images are drawn.
        prompts: at most this many are drawn.
    """
    shown = [row for row in run.rows if row.seed == 0]
    lines = list(dict.fromkeys(row.prompt for row in shown))[:prompts]
    cells = [cell for cell in run.cells if any(row.cell == cell for row in shown)]
    size = (len(cells) * (SIDE + GAP), LABEL + len(lines) * (SIDE + LABEL))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, cell in enumerate(cells):
        draw.text((column * (SIDE + GAP), 2), cell.split(" ")[0], "black", font)
    for row in shown:
        if row.prompt in lines:
            x, y = cells.index(row.cell) * (SIDE + GAP), LABEL + lines.index(row.prompt) * (SIDE + LABEL)
            image = open_image(run.folder / row.image).convert("RGB")
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
    for line, prompt in enumerate(lines):
        draw.text((0, LABEL + line * (SIDE + LABEL) + SIDE + 2), prompt[:100], "dimgray", font)
    return sheet
