"""The pictures of a run as one labelled grid, for a paper or a README."""

from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..results.folder import RunFolder

SIDE, LABEL, GAP = 128, 22, 4


def draw_sheet(folder: RunFolder, rows: list[dict[str, Any]], prompts: int = 8) -> Image.Image:
    """A line a prompt at seed 0, a column a cell, base first.

    Args:
        folder: where the pictures lie.
        rows: of the run; only finished jobs.
        prompts: so many are drawn.
    """
    shown = [row for row in rows if row["seed"] == 0]
    lines = list(dict.fromkeys(row["prompt"] for row in shown))[:prompts]
    cells = list(dict.fromkeys(row["cell"] for row in shown))
    size = (len(cells) * (SIDE + GAP), LABEL + len(lines) * (SIDE + LABEL))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, cell in enumerate(cells):
        draw.text((column * (SIDE + GAP), 2), cell.split(" ")[0], "black", font)
    for row in shown:
        if row["prompt"] in lines:
            x, y = cells.index(row["cell"]) * (SIDE + GAP), LABEL + lines.index(row["prompt"]) * (SIDE + LABEL)
            picture = Image.open(folder.path / row["image"]).convert("RGB")
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
    for line, prompt in enumerate(lines):
        draw.text((0, LABEL + line * (SIDE + LABEL) + SIDE + 2), prompt[:100], "dimgray", font)
    return sheet
