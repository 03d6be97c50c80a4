"""Show runs in TensorBoard: python scripts/board.py --logdir outputs

It takes TensorBoard's own options, such as --port 7000, and shows each run by the name of its folder.
"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import os
import sys

from folio.cli.errors import one_line_errors
from folio.cli.scripts import COMPLETION
from folio.report.board import run_board

if __name__ == "__main__" and COMPLETION not in os.environ:  # TensorBoard completes none of its options
    one_line_errors(run_board)(sys.argv[1:])
