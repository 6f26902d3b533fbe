"""Make one table of the README again: run what it needs, then print it in Markdown.

python scripts/reproduce.py planted [arguments for Snakemake, such as --config data_root=../shared/data]
"""

import os
import subprocess
import sys
from pathlib import Path


def main(name: str, further: list[str]) -> int:
    from interptfm import errors, reproduce

    try:
        command = [sys.executable, "-m", "snakemake", "--cores", os.environ.get("CORES", "2")]
        done = subprocess.run(
            [*command, *reproduce.arguments(name), *further], stdout=sys.stderr, check=False
        )
        if done.returncode == 0:
            sys.stdout.write(reproduce.markdown(name, "results"))
        return done.returncode
    except errors.InputError as error:
        sys.stderr.write(f"interpTFM: {error}\n")
        return 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main(sys.argv[1], sys.argv[2:]))
