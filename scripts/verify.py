"""Compare the files of a run with its provenance.json: one sentence a difference, exit code 1 for any.

python scripts/verify.py results/demo
"""

import sys
from pathlib import Path

MANY = 5


def main(run: str) -> int:
    from interptfm import errors, provenance

    try:
        differences, n, unknown = provenance.verify(run)
    except errors.InputError as error:
        differences, n, unknown = [str(error)], 0, []
    for sentence in differences:
        sys.stdout.write(f"{sentence}\n")
    if unknown:
        shown = ", ".join(unknown[:MANY]) + (", …" if len(unknown) > MANY else "")
        sys.stdout.write(f"{len(unknown)} files in no record (made by other targets): {shown}\n")
    sys.stdout.write(f"{run}: {len(differences)} differences in {n} files\n")
    return int(bool(differences))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main(sys.argv[1]))
