"""Draw the loss curves of a run: python scripts/figures.py outputs/<run>"""

from pathlib import Path
from typing import Annotated

import typer

from folio.cli import one_line_errors
from folio.figures import loss_figure, read_curves
from folio.runs import find_checkpoint


@one_line_errors
def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    output: Annotated[Path | None, typer.Option(help="The PNG to write; <RUN>/curves.png if not given.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Where 'latest' looks.")] = Path("outputs"),
) -> None:
    """Training and validation loss and the learning rate, as a PNG."""
    folder = find_checkpoint(run, output_dir).parent.parent
    file = output or folder / "curves.png"
    loss_figure(read_curves(folder), title=folder.name).savefig(file)
    print(file)


if __name__ == "__main__":
    typer.run(main)
